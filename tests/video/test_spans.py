"""Parts of videos: which frames belong to one, and that they are read as if they were a video of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.features.extract import extract
from clipcap_video.features.layouts import open_features
from clipcap_video.video.decoder import Decoder
from clipcap_video.video.reader import SampledVideo
from clipcap_video.video.sampling import SamplingSpec, Span, choose
from tests import clips
from tests.features.conftest import GridEncoder

SPECS = [
    SamplingSpec("uniform", 4),
    SamplingSpec("head", 2, fps=4),
    SamplingSpec("tail", 3, fps=4),
    SamplingSpec("fps", fps=4),
    SamplingSpec("fps", fps=5, max_frames=3),
    SamplingSpec("reference", 5),
]


def numbers(path: Path, spec: SamplingSpec, span: Span) -> tuple[list[int], list[float]]:
    chunks = list(SampledVideo(path, spec, lambda frames: frames, span=span))
    times = np.concatenate([chunk.timestamps for chunk in chunks])
    return [number for chunk in chunks for number in clips.numbers_in(chunk.images)], times.tolist()


@given(st.lists(st.floats(0, 20), min_size=1, max_size=60, unique=True).map(sorted), st.floats(0, 20), st.floats(0, 20))
def test_frames_of_a_part_by_definition(times: list[float], one: float, other: float) -> None:
    start, end = sorted((one, other))
    expected = [index for index, time in enumerate(times) if start <= time < end]
    found = Span(start, end).frames(np.array(times)).tolist()
    if expected:
        assert found == expected
    else:
        assert len(found) == 1
        distances = [abs(time - (start + end) / 2) for time in times]
        assert distances[found[0]] == min(distances)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("span", [Span(0, 1.5), Span(1.03, 4.0), Span(2.5, 2.6), Span(3.91, 99)], ids=str)
@pytest.mark.parametrize("promised", [None, 0, 20, 300])
def test_a_part_is_read_as_a_video_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: SamplingSpec, span: Span, promised: int | None
) -> None:
    """The frames of the part, cut out and counted from its start, sampled; whatever count the header promises."""
    path = clips.write_clip(tmp_path / "clip.avi", 57)
    times = np.arange(57) / 10
    inside = np.flatnonzero((times >= span.start) & (times < span.end))
    expected = inside[choose(spec, times[inside] - span.start)].tolist()
    if promised is not None:
        monkeypatch.setattr(Decoder, "likely", promised)
    shown, stamps = numbers(path, spec, span)
    assert shown == expected
    np.testing.assert_allclose(stamps, times[expected], atol=1e-6)


@pytest.mark.usefixtures("walked")
def test_decoding_ends_with_the_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write_clip(tmp_path / "clip.avi", 200)
    grabbed = []
    original = Decoder.__iter__

    def counting(self: Decoder):  # type: ignore[no-untyped-def]
        for frame in original(self):
            grabbed.append(frame.time)
            yield frame

    monkeypatch.setattr(Decoder, "__iter__", counting)
    assert numbers(path, SamplingSpec("uniform", 2), Span(1, 2))[0] == [10, 19]
    assert len(grabbed) == 21


def test_a_part_beyond_the_end_is_an_error_unless_it_is_near(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.avi", 30)
    assert numbers(path, SamplingSpec(), Span(3.2, 3.5))[0] == [29]
    with pytest.raises(VideoError, match=r"ends at 2\.9 s, before its segment 8\.0-9\.0 s"):
        numbers(path, SamplingSpec(), Span(8, 9))


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2), (0, float("inf")), (float("nan"), 1)])
def test_senseless_parts_are_refused(start: float, end: float) -> None:
    with pytest.raises(ClipcapError, match="a part of a video cannot go from"):
        Span(start, end)


def test_parts_of_one_file_are_extracted_each_into_its_own_features(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.avi", 60)
    spans = {"clip@1.00-2.00": Span(1, 2), "clip@0.50-5.00": Span(0.5, 5), "clip@50.00-60.00": Span(50, 60)}
    videos = {"clip": path, **dict.fromkeys(spans, path)}
    summary = extract(videos, GridEncoder(), SamplingSpec("uniform", 3), tmp_path / "out", spans=spans, progress=False)
    assert [(failure.video, failure.path) for failure in summary.failures] == [("clip@50.00-60.00", str(path))]
    store = open_features(tmp_path / "out")
    expected = {"clip": [0, 29, 59], "clip@1.00-2.00": [10, 14, 19], "clip@0.50-5.00": [5, 27, 49]}
    assert set(store.ids()) == set(expected)
    for video_id, frames in expected.items():
        loaded = store.load(video_id)
        assert clips.numbers_of_grid(loaded.features) == frames
        np.testing.assert_allclose(loaded.timestamps, np.array(frames) / 10, atol=1e-6)
