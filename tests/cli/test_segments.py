"""Timed sentences from the command line: segments extracted, trained on, captioned and scored; and paragraphs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.features.layouts import open_features
from tests.cli.test_cli import no_java  # noqa: F401  (no_java applies here too)
from tests.clips import write_clip
from tests.commands import refused, run
from tests.tiny_clip import save_tiny_clip

SENTENCES = ["a man is riding a horse", "a dog plays with a ball", "a woman sings a song on stage"]


@dataclass(frozen=True)
class Timed:
    """Videos of six seconds with ActivityNet's files over them; the videos lack the "v_" of the ids."""

    videos: Path
    train: Path
    validate: Path
    clip: Path

    def extract(self, out: Path, *options: object) -> list[object]:
        encode = ["--encoder", self.clip, "--frames", "3", "--device", "cpu"]
        return ["extract_features.py", "--videos", self.videos, "--out", out, *encode, *options]


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Timed:
    folder = tmp_path_factory.mktemp("timed")
    made = Timed(folder / "videos", folder / "train.json", folder / "val_1.json", folder / "tiny-clip.pt")
    made.videos.mkdir()
    for number in range(3):
        write_clip(made.videos / f"clip{number}.mp4", frames=60, first=100 * number)
    times = [[0, 2.5], [2, 4], [4.5, 6]]
    video = {"duration": 6.0, "timestamps": times, "sentences": SENTENCES}
    made.train.write_text(json.dumps({"v_clip0": video, "v_clip1": video, "v_gone": video}))
    made.validate.write_text(json.dumps({"v_clip2": video}))
    save_tiny_clip(made.clip)
    return made


def test_segments_from_extraction_to_scores(timed: Timed, tmp_path: Path, tiny_lm: Path) -> None:
    features, out = tmp_path / "features", tmp_path / "out"
    done = run(*timed.extract(features, "--caption", timed.train, "--caption", timed.validate))
    assert done.returncode == 0, done.stderr
    assert "9 videos done" in done.stdout
    assert "1 annotated video (v_gone) not among --videos: left out" in done.stderr
    store = open_features(features)
    times = ["0.00-2.50", "2.00-4.00", "4.50-6.00"]
    assert store.ids() == [f"v_clip{number}@{part}" for number in range(3) for part in times]
    np.testing.assert_allclose(store.load("v_clip1@2.00-4.00").timestamps, [2.0, 2.9, 3.9], atol=1e-4)
    done = run(
        "train_vtt.py", "--data", features, "--caption", timed.train, "--caption", timed.validate, "--out_dir", out,
        "--lm", tiny_lm, "--only_prefix", "--num_layers", "1", "--epochs", "1", "--bs", "4", "--prefix_length", "2",
        "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run("inference_vtt.py", "--model_dir", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    written = json.loads((out / "predictions.json").read_text())["predictions"]
    assert [(found["video"], found["start"], found["end"]) for found in written] == [
        ("v_clip2@0.00-2.50", 0.0, 2.5),
        ("v_clip2@2.00-4.00", 2.0, 4.0),
        ("v_clip2@4.50-6.00", 4.5, 6.0),
    ]
    done = run("clipcap-video", "evaluate", "--predictions", out / "predictions.json", "--caption", timed.validate)
    assert "3 videos, 3 references" in done.stdout, done.stderr


def test_paragraphs_of_whole_videos(timed: Timed, tmp_path: Path) -> None:
    features = tmp_path / "features"
    done = run(*timed.extract(features, "--caption", timed.train, "--paragraphs"))
    assert done.returncode == 0, done.stderr
    assert open_features(features).ids() == ["clip0", "clip1"]
    captions = tmp_path / "captions.json"
    paragraph = " ".join(SENTENCES)
    captions.write_text(json.dumps({"clip0": paragraph, "clip1": paragraph}))
    evaluate = ["clipcap-video", "evaluate", "--predictions", captions, "--caption", timed.train]
    done = run(*evaluate, "--paragraphs")
    assert "Bleu_4   100.00" in done.stdout, done.stderr
    assert "2 videos, 2 references" in done.stdout
    train = ["train_vtt.py", "--data", features, "--caption", timed.train, "--out_dir", tmp_path / "out"]
    assert "features of whole videos" in refused(*train)


def test_what_does_not_fit_is_refused(timed: Timed, tmp_path: Path) -> None:
    assert "--annotations" in refused(*timed.extract(tmp_path / "features", "--paragraphs"))
    other = tmp_path / "train.json"
    other.write_text(json.dumps({"v_x": {"duration": 1, "timestamps": [[0, 1]], "sentences": ["x"]}}))
    assert "none of the 3 videos is in the annotations" in refused(
        *timed.extract(tmp_path / "features", "--caption", other)
    )
    assert not (tmp_path / "features").exists()
