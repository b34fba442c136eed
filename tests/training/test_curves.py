"""The picture of a run, and trackers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.training import log
from clipcap_video.training.curves import draw_curves, smoothed
from clipcap_video.training.run import train
from tests.conftest import TinyProject
from tests.training.conftest import options


def test_smoothing_is_the_mean_of_the_last_values() -> None:
    values = np.random.default_rng(0).normal(size=40)
    expected = [np.mean(values[max(0, index - 6) : index + 1]) for index in range(40)]
    np.testing.assert_allclose(smoothed(values.tolist(), 7), expected)
    np.testing.assert_allclose(smoothed(values.tolist(), 1), values)


def picture_of(metrics: list[dict], folder: Path) -> np.ndarray:
    from PIL import Image

    file = folder / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in metrics))
    draw_curves(file, folder / "curves.png")
    return np.asarray(Image.open(folder / "curves.png").convert("RGB")).astype(int)


def test_the_curves_go_where_the_numbers_go(tmp_path: Path) -> None:
    """A CIDEr that rises is drawn from the lower left to the upper right of the last of three panels."""
    lines: list[dict] = [
        {"step": step, "loss": 5 - step / 50, "lr": 1e-4 * (101 - step) / 100} for step in range(1, 101)
    ]
    lines += [{"step": step, "val_loss": 4.0, "val_CIDEr": step / 100} for step in (25, 50, 75, 100)]
    picture = picture_of(lines, tmp_path)
    assert picture.shape == (780, 800, 3)
    orange = np.argwhere(np.abs(picture[500:] - (0xDD, 0x6B, 0x20)).sum(axis=2) < 30)
    left, right = orange[orange[:, 1] < 250], orange[orange[:, 1] > 700]
    assert len(left)
    assert len(right)
    assert left[:, 0].mean() > right[:, 0].mean() + 50  # rows count from the top
    assert picture_of([line for line in lines if "lr" in line], tmp_path).shape == (520, 800, 3)  # no validation
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "curves.png"}


def test_a_run_without_steps_has_no_picture(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_drawn_at_every_validation(tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(
        log, "draw_curves", lambda metrics, picture: drawn.append(len(metrics.read_text().splitlines()))
    )
    monkeypatch.setattr(log.time, "monotonic", lambda: 0.0)
    train(options(tiny_project, tmp_path / "out", epochs=3))
    assert drawn == [4, 8, 12]  # three steps and a validation an epoch
