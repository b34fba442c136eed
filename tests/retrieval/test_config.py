"""Options of a retrieval training that make no sense: one sentence, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.retrieval.train import train_retrieval
from tests.conftest import TinyProject
from tests.retrieval.conftest import config, end_to_end


def test_one_sentence_and_nothing_written(tiny_project: TinyProject, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases = (
        ({"bs": 99}, "24 pairs of text and video fill no batch of 99; lower --bs"),
        ({"linear_patch": "3d"}, "--linear_patch belongs to --videos; leave it out, or give that too"),
        ({"videos": [clips]}, "--features has no effect with --videos .*; leave it out"),
        ({"train_split": "dev"}, "fewer than two videos|no split|pairs of text"),
        ({"text_encoder": "word2vec"}, "unknown text encoder 'word2vec'"),
        ({"init_from": tmp_path}, "holds no config.json"),
        ({"coef_lr": 0}, "--coef_lr must be above 0"),
        ({"freeze_layer_num": -2}, "--freeze_layer_num must be at least -1"),
        ({"max_frames": 0}, "--max_frames must be at least 1"),
        ({"dim": 50, "sim_header": "tightTransf", "max_frames": 3, "bs": 99}, "fill no batch"),
    )
    for changes, message in cases:
        with pytest.raises(ClipcapError, match=message):
            train_retrieval(config(tiny_project, out, **changes))
    with pytest.raises(ClipcapError, match=r"no weights at .*nowhere\.pt"):
        train_retrieval(end_to_end(clips, out, pretrained_clip_name="nowhere.pt"))
    assert not out.exists()
