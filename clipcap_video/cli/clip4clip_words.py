"""CLIP4Clip's own command line, as words of `clipcap-video train-retrieval`.

What follows `main_task_retrieval.py` may be typed after `train-retrieval` as it is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from clipcap_video.errors import ClipcapError

_SAME = {
    "num_thread_reader": "workers", "batch_size": "bs", "train_csv": "annotations", "val_csv": "annotations",
    "features_path": "videos", "output_dir": "out", "gradient_accumulation_steps": "grad_accum",
}  # fmt: skip
# What CLIP4Clip takes and does not look at.
_UNUSED = (
    "lr_decay", "video_dim", "margin", "hard_negative_rate", "negative_weighting", "n_pair", "fp16_opt_level",
    "text_num_hidden_layers", "visual_num_hidden_layers", "use_mil", "sampled_use_mil", "do_lower_case",
)  # fmt: skip
# Flag -> why it does nothing here; then those that are alone.
_IDLE = {
    "do_train": "",
    "loose_type": "",  # the head says it
    "fp16": "precision follows from the device (--precision)",
    "n_display": "progress is shown every few seconds",
    "batch_size_val": "validation chooses its own batches",
    "cross_model": "the cross transformer begins as CLIP's text layers",
    "cache_dir": "weights are fetched to the folder that they always have",
    "task_type": "",  # retrieval
    **dict.fromkeys(("local_rank", "rank", "world_size", "n_gpu"), ""),  # torchrun says it
    "datatype": "",  # the files' content says it
    **dict.fromkeys(_UNUSED, "nor is it looked at there"),
}
_ALONE = ("do_train", "loose_type", "fp16", "use_mil", "sampled_use_mil", "do_lower_case")
_REFUSED = {
    "do_eval": "is clipcap-video evaluate-retrieval --model_dir OUT here",
    "do_pretrain": "is a run of its own here, which another begins with by --init_from",
    "resume_model": "is --resume here, which goes on from OUT/last",
}
# What it does with a data set beside reading its files: it joins sentences to a paragraph, and ends videos early.
_OF_DATA = {"didemo": ["--paragraphs", "--max_seconds", "31"], "activity": ["--paragraphs"]}
_IN_FOLDER = (
    "raw-captions.pkl", "*_list.txt", "LSMDC16_annos_*.csv", "LSMDC16_challenge_1000_publictect.csv", "*_data.json",
    "train.json", "val_1.json", "*_ids.json",
)  # fmt: skip


def translate(words: list[str]) -> list[str]:
    """Words after `train-retrieval`, those that are CLIP4Clip's put into ours; says which have no effect.

    Raises ClipcapError for what has no counterpart.
    """
    pairs, rest = _pairs(words)
    given = dict(pairs)
    if not given.keys() & {*_SAME, *_IDLE, *_REFUSED, "data_path", "init_model"}:
        return words
    out, idle = list(rest), []
    for name, value in pairs:
        if name in _REFUSED:
            raise ClipcapError(f"--{name} {_REFUSED[name]}")
        if name in _IDLE:
            idle += [f"--{name} ({_IDLE[name]})"] if _IDLE[name] else []
            out += _OF_DATA.get(value or "", []) if name == "datatype" else []
        else:
            out += _one(name, value, given)
    if idle:
        print(f"without effect here: {', '.join(idle)}", file=sys.stderr)
    return out


def _one(name: str, value: str | None, given: dict[str, str | None]) -> list[str]:
    """The words for one option."""
    if name == "data_path" and value and Path(value).is_dir():
        files = sorted(file for form in _IN_FOLDER for file in Path(value).glob(form))
        return [word for file in files for word in ("--annotations", str(file))]
    if name == "data_path":
        return ["--annotations", value or ""]
    if name == "init_model":
        if Path(value or "").is_file():
            raise ClipcapError(f"turn {value} into a model of ours: clipcap-video convert {value} --out DIR; then give "
                               "--init_from DIR")  # fmt: skip
        return ["--init_from", value or ""]
    if name in ("train_frame_order", "eval_frame_order"):
        if value != "0":
            raise ClipcapError(f"--{name} {value} reverses or shuffles frames, which is not done here; leave it at 0")
        return []
    if name == "num_thread_reader" and value == "0":
        value = "1"  # there: no thread beside the training itself
    steps = given.get("gradient_accumulation_steps")
    if name == "batch_size" and (value or "").isdigit() and (steps or "").isdigit() and steps != "0":
        value = str(int(value or "") // int(steps or ""))  # there a step is of so many pairs, here a batch is
    word = f"--{_SAME.get(name, name)}"
    return [word] if value is None else [word, value]


def _pairs(words: list[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Options with their values, in order, and words that are neither."""
    pairs: list[tuple[str, str | None]] = []
    rest: list[str] = []
    for word in words:
        match = re.fullmatch(r"--([A-Za-z]\w*)(?:=(.*))?", word, re.DOTALL)
        last = pairs[-1] if pairs else None
        flag = last is not None and last[0] in _ALONE
        if match:
            pairs.append((match[1], match[2]))
        elif last is not None and last[1] is None and not flag:
            pairs[-1] = (last[0], word)
        else:
            rest.append(word)
    return pairs, rest
