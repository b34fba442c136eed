"""The inference run: its batches, and the files that it leaves beside others'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.captioning.results import ResultFiles
from clipcap_video.captioning.run import caption_videos
from clipcap_video.decoding import DecodingSettings
from clipcap_video.features.logs import ExtractionSummary, Warned
from tests.clips import write_clip
from tests.tiny import fingerprint


def test_captions_and_evidence_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    videos = {name: write_clip(tmp_path / f"{name}.mp4", frames=12) for name in ("a", "b", "c")}
    videos["b"].write_bytes(b"no video")
    captioner = Captioner.from_pretrained(device="cpu", precision="fp32")
    settings = DecodingSettings(beam_size=4)
    one, all_at_once = (
        captioner.caption_files(videos, settings, batch_size=size, progress=False, evidence=True) for size in (1, 64)
    )
    for predictions, summary in (one, all_at_once):
        assert [prediction.video for prediction in predictions] == ["a", "c"]
        assert [failure.video for failure in summary.failures] == ["b"]
    for alone, together in zip(one[0], all_at_once[0], strict=True):
        assert (alone.text, alone.path, alone.timestamps) == (together.text, together.path, together.timestamps)
        assert alone.evidence
        assert [part.drop for part in alone.evidence] == pytest.approx(
            [part.drop for part in together.evidence], abs=1e-3
        )


class Stub:
    """A captioner of one video, which is damaged or not."""

    source = Path("stub")

    def __init__(self, damaged: bool) -> None:
        self.damaged = damaged

    def caption_files(self, *_: Any, **__: Any) -> tuple[list[Prediction], ExtractionSummary]:
        summary = ExtractionSummary(fingerprint(), done=1)
        if self.damaged:
            summary.warnings["a"] = Warned("a", "a.mp4", "1 of 60 frames is damaged", {"frames": 60, "corrupt": 1})
        return [Prediction("a", [Caption("a man", -1.0, -0.5, 2)])], summary

    def describe(self) -> dict[str, str]:
        return {}


@pytest.fixture(autouse=True)
def no_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipcap_video.captioning.run.decided_by", lambda captioner, settings: {})


def test_warnings_are_of_this_run_and_leave_those_of_an_extraction_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "warnings.jsonl"
    theirs.write_text("an extraction's\n")
    out = tmp_path / "predictions.json"
    files = ResultFiles(out, {"json": out})
    caption_videos(Stub(damaged=True), {"a": Path("a.mp4")}, DecodingSettings(), files=files)  # type: ignore[arg-type]
    (line,) = (tmp_path / "predictions.warnings.jsonl").read_text().splitlines()
    assert json.loads(line)["warning"] == "1 of 60 frames is damaged"
    caption_videos(Stub(damaged=False), {"a": Path("a.mp4")}, DecodingSettings(), files=files)  # type: ignore[arg-type]
    assert not (tmp_path / "predictions.warnings.jsonl").exists()
    assert theirs.read_text() == "an extraction's\n"
