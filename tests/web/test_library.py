"""What the page remembers of the videos so far, and finds in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import srt

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.errors import VideoError
from clipcap_video.video.segments import Segmentation
from clipcap_video.web.library import DescribedVideo, Library, UnderWay
from tests.captioning.conftest import SETTINGS, captioner  # noqa: F401  (a fixture)
from tests.clips import write_shots


@pytest.fixture
def library(captioner: Captioner, tmp_path: Path) -> Library:  # noqa: F811
    folder = tmp_path / "subtitles"
    folder.mkdir()
    return Library(captioner, SETTINGS, folder, most_bytes=150_000)


def described(library: Library, path: Path, segmentation: Segmentation | None = None) -> DescribedVideo:
    *_, last = library.describe(path, segmentation or Segmentation())
    assert isinstance(last, DescribedVideo)
    return last


class TestTheLibrary:
    def test_what_a_video_is_described_by(self, library: Library, tmp_path: Path) -> None:
        clip = write_shots(tmp_path / "a.mkv", [30, 21, 25] * 3, fps=5)
        *under_way, found = library.describe(clip, Segmentation())
        assert isinstance(found, DescribedVideo)
        assert all(isinstance(step, UnderWay) for step in under_way)
        counts = [len(step.segments) for step in under_way if isinstance(step, UnderWay)]
        shares = [step.share for step in under_way if isinstance(step, UnderWay)]
        assert counts == [4, 8, 9]
        assert shares == pytest.approx([106 / 228, 203 / 228, 1.0], abs=0.001)
        subtitles = list(srt.parse(found.subtitle_files["srt"].read_text()))
        assert [sub.start.total_seconds() for sub in subtitles] == [part.start for part in found.segments]
        assert found.subtitle_files["vtt"].read_text().startswith("WEBVTT")
        assert found.caption.text == library._captioner.caption(clip, SETTINGS).text

    def test_search_finds_words_in_any_order_newest_video_first(self, library: Library, tmp_path: Path) -> None:
        first = described(library, write_shots(tmp_path / "a.mkv", [30, 30, 40]))
        second = described(library, write_shots(tmp_path / "b.mkv", [30]), Segmentation("whole"))
        assert {hit.video.number for hit in library.search("says IT")} == {0, 1}
        assert library.search("says it")[0].video == second
        word = first.segments[1].text.split()[-1]
        hits = [hit for hit in library.search(f"{word} says") if hit.start is not None and hit.video == first]
        assert [(hit.start, hit.text) for hit in hits] == [
            (part.start, part.text) for part in first.segments if f" {word}" in part.text
        ]
        assert library.search("elephant") == []
        assert [(hit.video, hit.start) for hit in library.search("  ")] == [(second, None), (first, None)]

    def test_what_is_refused(self, library: Library, tmp_path: Path) -> None:
        notes = tmp_path / "notes.mp4"
        notes.write_text("this is no video")
        with pytest.raises(VideoError, match=r"^notes\.mp4 is not a video"):
            described(library, notes)
        notes.write_bytes(b"\0" * 200_000)
        with pytest.raises(VideoError, match=r"^notes\.mp4 has 0 MB and the limit is 0 MB"):
            described(library, notes)
        assert library.videos == []
