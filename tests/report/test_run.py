"""Which predictions a page shows, and what it says of those that it cannot show whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.captioning.predictions import Caption, Prediction, PredictionFile
from clipcap_video.errors import ClipcapError
from clipcap_video.report.config import ReportConfig
from clipcap_video.report.run import drawn, make_page
from tests.clips import write_clip


def test_a_sample_is_drawn_by_its_seed() -> None:
    predictions = [Prediction(f"video{number}", []) for number in range(5)]
    assert drawn(predictions, 2, 3) == drawn(list(reversed(predictions)), 2, 3)[::-1]
    assert {one.video for seed in range(20) for one in drawn(predictions, 1, seed)} == {p.video for p in predictions}
    assert drawn(predictions, 9, 0) == predictions


def test_segments_of_one_video_are_drawn_together() -> None:
    predictions = [Prediction(name, [], start=float(start)) for name in "ab" for start in range(3)]
    assert [one.start for one in drawn(predictions, 1, 0)] == [0, 1, 2]


def test_cider_is_over_the_videos_of_the_page_and_what_is_missing_is_noted(tmp_path: Path) -> None:
    said = {"a": "a dog runs", "b": "a cat sleeps", "c": "a man"}
    entries = [Prediction(name, [Caption(text, -1.0, -0.5, 2)]) for name, text in said.items()]
    PredictionFile("model", None, {}, entries).save(tmp_path / "p.json")
    (tmp_path / "c.csv").write_text("video,caption\na,a dog runs\nb,a cat sleeps\nx,a bird\n")
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / "a.mp4", frames=4)
    notes = make_page(
        ReportConfig(
            predictions=tmp_path / "p.json", caption=[tmp_path / "c.csv"], videos=[tmp_path / "videos"],
            out=tmp_path / "p.html",
        )
    )  # fmt: skip
    assert [note.split(":")[0] for note in notes] == ["no evidence", "2 of 3 videos were not found"]
    # Captions that are their references, of three words: n-grams of four have none to share.
    assert "750.00 over 2 videos" in (tmp_path / "p.html").read_text()


def test_videos_of_other_predictions_are_refused(tmp_path: Path) -> None:
    PredictionFile("model", None, {}, [Prediction("a", [])]).save(tmp_path / "p.json")
    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / "b.mp4", frames=2)
    with pytest.raises(ClipcapError, match="none of the 1 videos given is among the predictions: there is 'b'"):
        make_page(ReportConfig(predictions=tmp_path / "p.json", videos=[tmp_path / "videos"], out=tmp_path / "p.html"))
    assert not (tmp_path / "p.html").exists()
