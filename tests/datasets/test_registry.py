"""Whichever reader takes a malformed file says what is wrong with it in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets.published import CHARADES, GIF, KARPATHY, VATEX, WEBVID, assert_refused


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dataset_coco.json", {"images": [{"sentences": []}]}, r"images\[0\] lacks the field 'filename'; expected"),
        ("dataset_coco.json", {"images": [{**KARPATHY["images"][0], "sentences": 3}]}, r"images\[0\] is malformed"),
        ("Flickr8k.token.txt", "a.jpg#0\tA dog\nb.jpg A cat\n", "'b.jpg A cat' is not PICTURE.jpg#NUMBER"),
        ("vatex_training_v1.0.json", [*VATEX, {"enCap": []}], "entry 2 lacks the field 'videoID'"),
        ("vatex_training_v1.0.json", [{"videoID": "x", "enCap": 3}], "entry 0 is malformed"),
        ("tgif-v1.0.tsv", f"{GIF}\ta cat\na dog\n", "the line 'a dog' is not the URL of a GIF"),
        ("tgif-v1.0.tsv", f"{GIF}\ta cat\n", "does not say which split video"),
        ("charades_sta_train.txt", "A 1 2##x\nB 1##y\n", "'B 1##y' is not VIDEO START END##SENTENCE"),
        ("charades_sta_train.txt", "A 1.2.3 2##x\n", "'A 1.2.3 2##x' is malformed"),
        ("Charades_v1_train.csv", CHARADES.replace("00607", ""), "line 3 lacks the field id"),
        ("youcook.json", {"database": {"x": {"duration": 3, "subset": "training"}}}, "'x' lacks the field 'annotat"),
        ("results_2M_val.csv", WEBVID.replace("21179416,", ",", 1), "line 2 lacks the field videoid"),
        ("results.csv", WEBVID, "does not tell its split"),
    ],
)  # fmt: skip
def test_malformed_files_are_one_sentence(tmp_path: Path, name: str, content: object, message: str) -> None:
    assert_refused(tmp_path / name, content, message)
