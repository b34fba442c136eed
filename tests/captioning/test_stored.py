"""Which stored features are captioned: what the options leave open, the checkpoint and the files tell."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipcap_video.captioning.config import InferConfig
from clipcap_video.captioning.stored import StoredVideos, find_stored
from clipcap_video.errors import ClipcapError
from tests.conftest import TinyProject
from tests.tiny import write_annotations, write_feature_folder


def found(config: InferConfig, encoder: str | None = None, **training: Any) -> StoredVideos:
    captioner = SimpleNamespace(
        info=SimpleNamespace(training=training), model=SimpleNamespace(encoder_weights_before=encoder)
    )
    return find_stored(config, captioner)  # type: ignore[arg-type]


def test_a_checkpoint_knows_its_features_and_captions(tiny_project: TinyProject) -> None:
    trained = {"data": str(tiny_project.data), "caption": [str(tiny_project.caption)]}
    stored = found(InferConfig(), **trained)
    assert (stored.split, stored.ids) == ("test", [f"video{number}" for number in range(30, 36)])
    assert found(InferConfig(split="validate"), **trained).ids == [f"video{number}" for number in range(24, 30)]
    assert not stored.from_files
    assert found(InferConfig(), encoder="weights", **trained).from_files


def test_features_that_are_named_are_captioned_whole_unless_their_captions_are_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = write_feature_folder(tmp_path / "features", range(3))
    stored = found(InferConfig(data=features))
    assert (stored.ids, stored.split, stored.records) == (["video0", "video1", "video2"], None, [])
    captions = write_annotations(tmp_path / "a.json", range(1), range(2, 5))  # no test videos
    stored = found(InferConfig(data=features, caption=[captions]))
    assert (stored.ids, stored.split) == (["video2"], "validate")
    assert "2 of 3 videos of split 'validate' have no features: left out" in capsys.readouterr().err


def test_what_is_missing_is_one_sentence(
    tmp_path: Path, tiny_project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClipcapError, match="nothing to caption; give video files with --videos or features"):
        found(InferConfig())
    with pytest.raises(ClipcapError, match="--split test needs annotations that define it"):
        found(InferConfig(data=tiny_project.data, split="test"))
    captions = write_annotations(tmp_path / "a.json", range(0), range(0), range(50, 52))
    with pytest.raises(ClipcapError, match="no video of split 'test' has features in"):
        found(InferConfig(data=tiny_project.data, caption=[captions]))
