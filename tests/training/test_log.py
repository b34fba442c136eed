"""Where the numbers of a run go besides its folder."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.training import log
from clipcap_video.training.curves import draw_curves
from clipcap_video.training.run import train
from tests.conftest import TinyProject
from tests.training.conftest import options


def test_absent_and_unknown_ones_are_refused_before_anything(
    tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import accelerate.tracking

    with pytest.raises(ClipcapError, match=r"unknown tracker 'paper'; use one of .*tensorboard"):
        train(options(tiny_project, tmp_path / "out", track="paper"))
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", list)
    with pytest.raises(ClipcapError, match="needs the package tensorboard, which is not installed; run pip install"):
        train(options(tiny_project, tmp_path / "out", track="tensorboard"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_reads_what_metrics_jsonl_says(
    tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back by TensorBoard itself; a run that was stopped and went on is one run there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(log, "draw_curves", draw_curves)
    out = tmp_path / "out"
    train(options(tiny_project, out, track="tensorboard", max_minutes=1e-9))
    train(options(tiny_project, out, track="tensorboard", resume=True))
    events = EventAccumulator(str(out / "tracking" / "clipcap-video"))
    events.Reload()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "lr", "val_loss", "val_CIDEr"):
        expected = [(line["step"], line[name]) for line in lines if name in line]
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
