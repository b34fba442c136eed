from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from clipcap_video.models.checkpoint import CONSENSUS
from clipcap_video.video import reader
from clipcap_video.video.packets import Unseekable
from tests.cli.test_cli import run
from tests.golden import unpack
from tests.tiny import write_annotations, write_feature_folder, write_language_model

# Tiny models gain nothing from several threads, and lose much where other programs compute too.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def empty_pictures() -> Iterator[None]:
    """Curves take longer to draw than tiny models to train; tests/training/test_curves.py draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipcap_video.training.log.draw_curves", lambda metrics, picture: picture.touch())
        yield


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos are decoded from beginning to end, as those are whose packets do not tell their frames."""

    def refuse(*args: object) -> None:
        raise Unseekable

    monkeypatch.setattr(reader, "IndexedVideo", refuse)


@dataclass(frozen=True)
class TinyProject:
    """What a user has before training: features, annotations and a language model."""

    data: Path
    caption: Path
    lm: Path


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="session")
def tiny_project(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path) -> TinyProject:
    folder = tmp_path_factory.mktemp("project")
    return TinyProject(
        data=write_feature_folder(folder / "features", range(36)),
        caption=write_annotations(folder / "videodatainfo.json", range(24), range(24, 30), range(30, 36)),
        lm=tiny_lm,
    )


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded files of the ClipCap programs."""
    return unpack(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def ranked(tiny_project: TinyProject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner that was hardly trained, and a consensus network that was."""
    folder = tmp_path_factory.mktemp("ranked")
    features = write_feature_folder(folder / "features", range(120))
    annotations = write_annotations(folder / "videos.json", range(96), range(96, 108), range(108, 120))
    trained = run(
        "train_vtt.py", "--data", features, "--caption", annotations, "--lm", tiny_project.lm, "--out_dir",
        folder / "out", "--epochs", 3, "--bs", 8, "--num_layers", 1, "--prefix_length", 4, "--lr", "2e-3", "--lm_lr",
        "2e-3", "--device", "cpu", "--save_every", 0,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    done = run(
        "clipcap-video", "train-consensus", "--model_dir", folder / "out", "--hidden", 32, "--epochs", 40, "--bs", 16,
        "--dropout", 0.1, "--mixup", 0.2, "--lr", "1e-2", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(folder / "out" / "best" / CONSENSUS) in done.stdout
    return folder
