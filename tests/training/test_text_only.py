"""Captioners that learn from captions alone, in spaces where these and videos meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.encoders import load_encoder
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import write_features
from clipcap_video.training import text_only
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.run import train
from tests.captioning.test_text_side import Blind
from tests.commands import refused
from tests.conftest import TinyProject
from tests.interrupted import differing_weights
from tests.retrieval.conftest import CPU, space  # noqa: F401  (a fixture)
from tests.tiny import ACTIONS, SUBJECTS, captions_of, fingerprint, write_annotations
from tests.tiny_clip import save_tiny_clip


def write_videos(folder: Path, encoder: ImageEncoder, numbers: range) -> Path:
    """Videos whose frames lie near their first caption, as those of a perfect encoder would."""
    made = Fingerprint(encoder.name, encoder.weights_digest, encoder.preprocessing, fingerprint().sampling, False)
    folder.mkdir()
    for number in numbers:
        text = F.normalize(encoder.encode_text(captions_of(number)[:1]), dim=-1).numpy()
        noise = np.random.default_rng(number).normal(0, 0.01, (3, encoder.dim))
        write_features(folder, f"video{number}", (text + noise).astype(np.float32), np.arange(3), made)
    return folder


def options(tiny: TinyProject, folder: Path, **changes: object) -> TrainConfig:
    """Trains on videos 0 to 23, and has features of 24 to 35 alone."""
    annotations = write_annotations(folder / "videos.json", range(24), range(24, 30), range(30, 36))
    values = {
        "data": folder / "features", "caption": [annotations], "out_dir": folder / "out", "lm": str(tiny.lm),
        "num_layers": 1, "prefix_length": 4, "bs": 12, "lr": 5e-3, "lm_lr": 5e-3, "dropout": 0.0, "device": "cpu",
        "precision": "fp32", "save_every": 0, "text_only": True,
    }  # fmt: skip
    return TrainConfig(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def learned(
    tiny_project: TinyProject,
    space: ImageEncoder,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("text-only")
    write_videos(folder / "features", space, range(24, 36))
    train(options(tiny_project, folder, epochs=80, eval_every=0, text_noise=0.02))
    return folder


def test_videos_that_nothing_was_trained_on_are_told(learned: Path) -> None:
    """No frame was seen in training. A guess would name the action of 3 videos in 12, and the subject of 2."""
    captioner = Captioner.from_pretrained(learned / "out", device="cpu")
    numbers = range(24, 36)
    found = captioner.caption_store(open_features(learned / "features"), [f"video{number}" for number in numbers])
    texts = [one.captions[0].text for one in found]
    assert sum(ACTIONS[number % 4] in text for number, text in zip(numbers, texts, strict=True)) == 12
    assert sum(SUBJECTS[number % 6] in text for number, text in zip(numbers, texts, strict=True)) >= 6


def test_the_memory_is_exchanged(learned: Path) -> None:
    captioner = Captioner.from_pretrained(learned / "out", device="cpu")
    captioner.remember(["two boys sings a song on stage"])
    store = open_features(learned / "features")
    told = {one.captions[0].text for one in captioner.caption_store(store, store.ids())}
    assert len(told) == 1  # all that is near is that one
    assert told == {"two boys sings a song on stage"}
    with pytest.raises(ClipcapError, match="was trained on videos, not with --text_only"):
        Captioner.from_pretrained(device="cpu").remember(["a dog"])


def test_a_clip_is_such_a_space_too_and_a_run_resumes_to_the_bit(
    tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = load_encoder(str(save_tiny_clip(tmp_path / "clip.pt")), CPU)
    write_videos(tmp_path / "features", clip, range(24, 36))

    def config_of(out: Path, **resume: Any) -> TrainConfig:
        return options(tiny_project, tmp_path, out_dir=out, epochs=1, eval_every=0, text_memory=5, **resume)

    assert differing_weights(config_of, tmp_path, monkeypatch, 2) == []


def test_what_does_not_fit_is_refused(
    tiny_project: TinyProject, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("train_vtt.py", "--features", tiny_project.data, "--annotations", tiny_project.caption, "--out", tmp_path)
    assert "--text_noise belongs to --text_only" in refused(*asked, "--text_noise", 0.1)
    assert "--text_only has no effect with --objective scst" in refused(*asked, "--text_only", "--objective", "scst")
    features = learned / "features"
    with pytest.raises(ClipcapError, match=r"--text_memory 40 is more than the 36 different captions"):
        train(options(tiny_project, tmp_path, text_memory=40, data=features))
    np.save(tmp_path / "video24.npy", np.ones((2, 32), np.float32))
    with pytest.raises(ClipcapError, match="does not say which encoder made it"):
        train(options(tiny_project, tmp_path, data=tmp_path))
    monkeypatch.setattr(text_only, "fitting_encoder", lambda *given: Blind())
    with pytest.raises(ClipcapError, match="encoder blind has no text side"):
        train(options(tiny_project, tmp_path, data=features))
