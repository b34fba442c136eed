"""Tiny retrieval runs, on stored features and end to end."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from clipcap_video.cli import main
from clipcap_video.encoders import load_encoder, load_text_encoder
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.models.checkpoint import CheckpointInfo
from clipcap_video.retrieval.config import RetrievalTrainConfig
from clipcap_video.retrieval.model import RetrievalConfig, RetrievalModel, save_retrieval
from tests.bag_of_words import use_bag_of_words
from tests.clips import write_clip
from tests.conftest import TinyProject
from tests.tiny import captions_of, fingerprint
from tests.tiny_clip import EMBED_DIM, save_tiny_clip

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _bag_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    use_bag_of_words(monkeypatch)


def config(project: TinyProject, out: Path, **changes: Any) -> RetrievalTrainConfig:
    options: dict[str, Any] = {
        "data": project.data, "caption": [project.caption], "out_dir": out, "text_encoder": "bag-of-words", "dim": 64,
        "epochs": 2, "bs": 8, "lr": 3e-3, "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    if "init_from" in changes:
        options |= {"dim": None, "text_encoder": None}
    if changes.get("sim_header") in ("seqTransf", "tightTransf"):
        options["cross_num_hidden_layers"] = 1
    return RetrievalTrainConfig(**(options | changes))


@dataclass
class Ended:
    """What a command left: its exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `clipcap-video WORDS...` in this process."""

    def command(*words: Any) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["clipcap-video", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Ended(code if isinstance(code, int) else 0, printed.out, printed.err)

    return command


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips, the CSV that says what they show, and a tiny CLIP."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "videos").mkdir()
    rows = [("video", "caption", "split")]
    for number in range(6):
        write_clip(folder / "videos" / f"clip{number}.mp4", frames=20 + number, fps=10, first=600 * number)
        rows.append((f"clip{number}", captions_of(number)[0], "train" if number < 4 else "validate"))
    with (folder / "captions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    save_tiny_clip(folder / "clip.pt")
    return folder


def end_to_end(clips: Path, out: Path, **changes: Any) -> RetrievalTrainConfig:
    options: dict[str, Any] = {
        "videos": [clips / "videos"], "caption": [clips / "captions.csv"], "out_dir": out, "max_frames": 3,
        "pretrained_clip_name": str(clips / "clip.pt"), "feature_framerate": 2.0, "epochs": 2, "bs": 4, "lr": 1e-3,
        "coef_lr": 0.1, "max_words": 12, "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    if changes.get("sim_header") in ("seqTransf", "tightTransf"):
        options["cross_num_hidden_layers"] = 2
    return RetrievalTrainConfig(**(options | changes))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoder:
    """A retrieval model, untrained, over the frames of a tiny CLIP and the word vectors in the box."""
    folder = tmp_path_factory.mktemp("space")
    clip = load_encoder(str(save_tiny_clip(folder / "clip.pt")), CPU)
    words = load_text_encoder("starter", CPU)
    torch.manual_seed(0)
    shape = RetrievalConfig("meanP", 32, EMBED_DIM, words.dim, True, words.name, words.weights_digest)
    trained_on = Fingerprint(clip.name, clip.weights_digest, clip.preprocessing, fingerprint().sampling, False)
    save_retrieval(folder / "out", RetrievalModel(shape), CheckpointInfo(trained_on))
    return load_encoder(f"retrieval:{folder / 'out'}", CPU)
