"""CLIP4Clip's published commands, as `train-retrieval` understands them."""

from __future__ import annotations

import json
import pickle
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clipcap_video.cli import main
from clipcap_video.cli.clip4clip_words import translate
from clipcap_video.errors import ClipcapError
from clipcap_video.retrieval.config import RetrievalTrainConfig
from clipcap_video.retrieval.model import read_retrieval_config
from clipcap_video.runs.options import called, option_fields
from tests.clips import write_clip
from tests.datasets.published import LSMDC_CLIPS, didemo_entry, lsmdc_line
from tests.tiny import write_annotations
from tests.tiny_clip import save_tiny_clip

# Its README's, with its names of folders.
MSRVTT = """--do_train --num_thread_reader=0 --epochs=5 --batch_size=128 --n_display=50
--train_csv data/MSRVTT_train.9k.csv --val_csv data/MSRVTT_JSFUSION_test.csv --data_path data/MSRVTT_data.json
--features_path data/MSRVTT_Videos --output_dir ckpts/ckpt_msrvtt_retrieval_looseType --lr 1e-4 --max_words 32
--max_frames 12 --batch_size_val 16 --datatype msrvtt --expand_msrvtt_sentences --feature_framerate 1 --coef_lr 1e-3
--freeze_layer_num 0 --slice_framepos 2 --loose_type --linear_patch 2d --sim_header meanP
--pretrained_clip_name ViT-B/32"""
REST = """--lr 1e-4 --max_words {size} --max_frames {size} --batch_size_val 16 --datatype {data} --feature_framerate 1
--coef_lr 1e-3 --freeze_layer_num 0 --slice_framepos 2 --loose_type --linear_patch 2d --sim_header meanP
--pretrained_clip_name ViT-B/32"""
OTHERS = {
    name: f"""--do_train --num_thread_reader=2 --epochs=5 --batch_size=128 --n_display=50 --data_path data
--features_path data/{folder}_Videos --output_dir ckpts/ckpt_{name}_retrieval_looseType """
    + REST.format(size=size, data=name)
    for name, folder, size in (
        ("msvd", "MSVD", 12), ("lsmdc", "LSMDC", 12), ("activity", "Activity", 64), ("didemo", "DiDeMo", 64)
    )
}  # fmt: skip
# The two with captions of 32 tokens.
OTHERS |= {name: OTHERS[name].replace("--max_words 12", "--max_words 32") for name in ("msvd", "lsmdc")}
# All that its program takes beside what its README's commands give.
UNLOOKED = """--do_train --output_dir x --lr_decay 0.9 --video_dim 1024 --margin 0.1 --hard_negative_rate 0.5
--negative_weighting 1 --n_pair 1 --do_lower_case --use_mil --sampled_use_mil --text_num_hidden_layers 12
--visual_num_hidden_layers 12 --cache_dir c --fp16 --fp16_opt_level O1 --task_type retrieval --world_size 4
--local_rank 0 --rank 0 --n_gpu 1 --cross_model cross-base --seed 42 --warmup_proportion 0.1 --cross_num_hidden_layers 4
--eval_frame_order 0"""


def test_the_published_command_for_msrvtt(capsys: pytest.CaptureFixture[str]) -> None:
    assert translate(shlex.split(MSRVTT)) == shlex.split(
        "--workers 1 --epochs 5 --bs 128 --annotations data/MSRVTT_train.9k.csv "
        "--annotations data/MSRVTT_JSFUSION_test.csv --annotations data/MSRVTT_data.json --videos data/MSRVTT_Videos "
        "--out ckpts/ckpt_msrvtt_retrieval_looseType --lr 1e-4 --max_words 32 --max_frames 12 "
        "--expand_msrvtt_sentences --feature_framerate 1 --coef_lr 1e-3 --freeze_layer_num 0 --slice_framepos 2 "
        "--linear_patch 2d --sim_header meanP --pretrained_clip_name ViT-B/32"
    )
    said = capsys.readouterr().err
    assert said.startswith("without effect here: --n_display (")
    assert "--batch_size_val (" in said


def test_paragraphs_folders_and_steps_of_several_batches(tmp_path: Path) -> None:
    for name in ("train_data.json", "test_data.json", "other.txt"):
        (tmp_path / name).touch()
    words = f"--do_train --batch_size 64 --gradient_accumulation_steps 2 --datatype didemo --data_path {tmp_path}"
    assert translate([*words.split(), "--train_frame_order", "0", "--freeze_layer_num", "-1", "-q"]) == shlex.split(
        f"-q --bs 32 --grad_accum 2 --paragraphs --max_seconds 31 --annotations {tmp_path}/test_data.json "
        f"--annotations {tmp_path}/train_data.json --freeze_layer_num -1"
    )


def test_every_option_of_its_program_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    """Its own, or ours of the same name and meaning; what has no effect is said."""
    found = translate(shlex.split(UNLOOKED))
    assert found == shlex.split("--out x --seed 42 --warmup_proportion 0.1 --cross_num_hidden_layers 4")
    ours = {called(item.name) for item in option_fields(RetrievalTrainConfig)}
    assert {word.removeprefix("--") for word in found if word.startswith("--")} <= ours
    assert "--margin (nor is it looked at there), " in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--features f --annotations a.csv --out o", "", "--help"])
def test_other_commands_stay_as_they_are(words: str) -> None:
    assert translate(words.split()) == words.split()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--do_eval --output_dir x", "--do_eval is clipcap-video evaluate-retrieval --model_dir OUT here"),
        ("--do_train --init_model x --resume_model y", "--resume_model is --resume here, which goes on from OUT/last"),
        ("--do_train --train_frame_order 2", "--train_frame_order 2 reverses or shuffles frames"),
        (f"--do_train --init_model {__file__}", "clipcap-video convert .* --out DIR; then give --init_from DIR"),
    ],
)
def test_what_has_no_counterpart_is_a_sentence(words: str, sentence: str) -> None:
    with pytest.raises(ClipcapError, match=sentence):
        translate(words.split())


def train(words: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a published command in `folder`, with a tiny CLIP and batches that few videos fill."""
    monkeypatch.chdir(folder)
    clip = save_tiny_clip(folder / "tiny.pt")
    small = words.replace("ViT-B/32", str(clip)).replace("=128", "=2").replace("epochs=5", "epochs=1")
    monkeypatch.setattr(sys, "argv", ["clipcap-video", "train-retrieval", *shlex.split(small), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


def test_such_a_command_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "MSRVTT_Videos").mkdir(parents=True)
    for number in range(4):
        write_clip(tmp_path / "data" / "MSRVTT_Videos" / f"video{number}.mp4", frames=4)
    write_annotations(tmp_path / "data" / "MSRVTT_data.json", range(3), range(0), range(3, 4))
    (tmp_path / "data" / "MSRVTT_train.9k.csv").write_text("video_id\nvideo0\nvideo1\nvideo2\n")
    header = "key,vid_key,video_id,sentence"
    (tmp_path / "data" / "MSRVTT_JSFUSION_test.csv").write_text(f"{header}\nret0,msr3,video3,a dog sings\n")
    train(MSRVTT, tmp_path, monkeypatch)
    assert (tmp_path / "ckpts" / "ckpt_msrvtt_retrieval_looseType" / "last" / "config.json").is_file()


IDS = [*LSMDC_CLIPS, "1012_Unbreakable_00.05.14.065-00.05.21.903"]
ANOTHER = "0020_Raising_Arizona_00.00.07.000-00.00.10.000"  # which has no video here


def write_msvd(folder: Path) -> None:
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps({name: [["a", name]] for name in IDS}))
    for split, names in (("train", IDS[:3]), ("val", IDS[3:]), ("test", IDS[:0])):
        (folder / f"{split}_list.txt").write_text("".join(f"{name}\n" for name in names) or "another\n")


def write_lsmdc(folder: Path) -> None:
    (folder / "LSMDC16_annos_training.csv").write_text("".join(lsmdc_line(name, f"SOMEONE {name}") for name in IDS[:3]))
    (folder / "LSMDC16_annos_val.csv").write_text(lsmdc_line(IDS[3], "SOMEONE sleeps."))
    (folder / "LSMDC16_challenge_1000_publictect.csv").write_text(lsmdc_line(ANOTHER, "SOMEONE eats."))


def write_activity(folder: Path) -> None:
    timed = {"duration": 1.0, "timestamps": [[0.0, 0.1], [0.05, 0.2]], "sentences": ["a man", "a dog runs"]}
    for split, file, names in (("train", "train.json", IDS[:3]), ("val", "val_1.json", IDS[3:])):
        (folder / file).write_text(json.dumps({f"v_{name}": timed for name in names}))
        (folder / f"{split}_ids.json").write_text(json.dumps([f"v_{name}" for name in names]))


def write_didemo(folder: Path) -> None:
    for split, names in (("train", IDS[:3]), ("val", IDS[3:]), ("test", ["another"])):
        entries = [didemo_entry(f"{name}.mp4", text, [[0, 0]] * 4) for name in names for text in ("a cat", "it sits")]
        (folder / f"{split}_data.json").write_text(json.dumps(entries))
        (folder / f"{split}_list.txt").write_text("".join(f"{name}.mp4\n" for name in names))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "write"),
    [("msvd", write_msvd), ("lsmdc", write_lsmdc), ("activity", write_activity), ("didemo", write_didemo)],
)
def test_the_other_published_commands_train(
    data: str, write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = OTHERS[data]
    videos = tmp_path / words.split("--features_path ")[1].split()[0]
    videos.mkdir(parents=True)
    for number, name in enumerate(IDS):
        write_clip(videos / f"{name}.mp4", frames=4, first=100 * number)
    write(tmp_path / "data")
    train(words, tmp_path, monkeypatch)
    config, info = read_retrieval_config(tmp_path / "ckpts" / f"ckpt_{data}_retrieval_looseType" / "last")
    assert (config.max_frames, config.max_words) == ((64, 64) if data in ("activity", "didemo") else (12, 32))
    assert info.progress["step"] == 1
    assert info.training["max_seconds"] == (31 if data == "didemo" else 0)
