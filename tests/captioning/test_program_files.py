"""The result files of the MSR-VTT ClipCap program, with figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipcap_video.captioning.program_files import write_examples, write_program_files
from clipcap_video.errors import ClipcapError

CAPTIONS = {"a": "a dog runs", "b": "A cat sits."}
REFERENCES = {"a": ["a dog runs", "the dog is running"], "b": ["a cat sits"]}


def test_captions_are_lists_of_one_and_capitals_and_stops_count(tmp_path: Path) -> None:
    files = write_program_files(tmp_path, CAPTIONS, REFERENCES, beam=True)
    assert files == [tmp_path / "pred_beam.json", tmp_path / "scorepred_beam.json"]
    assert json.loads(files[0].read_text()) == {"a": ["a dog runs"], "b": ["A cat sits."]}
    # Of six words between blanks, "A" and "sits." are in no reference.
    assert json.loads(files[1].read_text())["Bleu_1"] == pytest.approx(4 / 6)


def test_only_videos_with_references_are_scored(tmp_path: Path) -> None:
    files = write_program_files(tmp_path, CAPTIONS, {"a": REFERENCES["a"], "b": []}, beam=False)
    assert [file.name for file in files] == ["pred.json", "scorepred.json"]
    assert json.loads(files[0].read_text()).keys() == {"a", "b"}
    assert json.loads(files[1].read_text())["ROUGE_L"] == pytest.approx(1)
    assert [file.name for file in write_program_files(tmp_path, CAPTIONS, {}, beam=False)] == ["pred.json"]


def test_examples_show_the_first_reference_and_need_one(tmp_path: Path) -> None:
    _, examples = json.loads(write_examples(tmp_path / "e.json", CAPTIONS, REFERENCES).read_text())
    assert [entry[:3] for entry in examples["CIDEr"]] == [
        ["a", "a dog runs", "a dog runs"],
        ["b", "a cat sits", "A cat sits."],
    ]
    with pytest.raises(ClipcapError, match=r"1 of 2 predicted videos have no reference captions \(b\)"):
        write_examples(tmp_path / "none.json", CAPTIONS, {"a": REFERENCES["a"]})
    assert not (tmp_path / "none.json").exists()
