"""CLIP4Clip's published commands, as `train-retrieval` understands them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from clipcap_video.cli import main
from clipcap_video.cli.clip4clip_words import translate
from clipcap_video.errors import ClipcapError
from tests.clips import write_clip
from tests.tiny import write_annotations
from tests.tiny_clip import save_tiny_clip

# Its README's, with its names of folders.
MSRVTT = """--do_train --num_thread_reader=0 --epochs=5 --batch_size=128 --n_display=50
--train_csv data/MSRVTT_train.9k.csv --val_csv data/MSRVTT_JSFUSION_test.csv --data_path data/MSRVTT_data.json
--features_path data/MSRVTT_Videos --output_dir ckpts/ckpt_msrvtt_retrieval_looseType --lr 1e-4 --max_words 32
--max_frames 12 --batch_size_val 16 --datatype msrvtt --expand_msrvtt_sentences --feature_framerate 1 --coef_lr 1e-3
--freeze_layer_num 0 --slice_framepos 2 --loose_type --linear_patch 2d --sim_header meanP
--pretrained_clip_name ViT-B/32"""


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
        f"-q --bs 32 --grad_accum 2 --paragraphs --annotations {tmp_path}/test_data.json "
        f"--annotations {tmp_path}/train_data.json --freeze_layer_num -1"
    )


@pytest.mark.parametrize("words", ["--features f --annotations a.csv --out o", "", "--help"])
def test_other_commands_stay_as_they_are(words: str) -> None:
    assert translate(words.split()) == words.split()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--do_eval --output_dir x", "--do_eval is clipcap-video evaluate-retrieval --model_dir OUT here"),
        ("--do_train --train_frame_order 2", "--train_frame_order 2 reverses or shuffles frames"),
        (f"--do_train --init_model {__file__}", "clipcap-video convert .* --out DIR; then give --init_from DIR"),
    ],
)
def test_what_has_no_counterpart_is_a_sentence(words: str, sentence: str) -> None:
    with pytest.raises(ClipcapError, match=sentence):
        translate(words.split())


def test_such_a_command_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "MSRVTT_Videos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        write_clip(tmp_path / "data" / "MSRVTT_Videos" / f"video{number}.mp4", frames=4)
    write_annotations(tmp_path / "data" / "MSRVTT_data.json", range(3), range(0), range(3, 4))
    (tmp_path / "data" / "MSRVTT_train.9k.csv").write_text("video_id\nvideo0\nvideo1\nvideo2\n")
    header = "key,vid_key,video_id,sentence"
    (tmp_path / "data" / "MSRVTT_JSFUSION_test.csv").write_text(f"{header}\nret0,msr3,video3,a dog sings\n")
    clip = save_tiny_clip(tmp_path / "tiny.pt")
    words = MSRVTT.replace("ViT-B/32", str(clip)).replace("=128", "=2").replace("epochs=5", "epochs=1")
    monkeypatch.setattr(sys, "argv", ["clipcap-video", "train-retrieval", *shlex.split(words), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert (tmp_path / "ckpts" / "ckpt_msrvtt_retrieval_looseType" / "last" / "config.json").is_file()
