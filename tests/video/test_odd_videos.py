"""The small files of kinds that were read wrongly, with what is right; skipped where the development data is absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.matching import match_videos
from clipcap_video.doctor import examine
from clipcap_video.doctor.videos import read_facts
from clipcap_video.errors import VideoError
from clipcap_video.video.decoder import Decoder
from clipcap_video.video.files import find_videos, search
from clipcap_video.video.reader import SampledVideo, read_frames
from clipcap_video.video.sampling import SamplingSpec
from clipcap_video.video.segments import Segmentation, SegmentedVideo
from tests.video.corpus import corners, number_in

ODD = Path(__file__).parents[3] / "shared" / "data" / "odd-videos"
pytestmark = pytest.mark.skipif(not ODD.is_dir(), reason="../shared/data/odd-videos is not here")
EIGHT = [0, 8, 16, 25, 33, 42, 50, 59]
UNIFORM = SamplingSpec("uniform", 8)


def pictures(name: str, spec: SamplingSpec = UNIFORM) -> np.ndarray:
    return read_frames(ODD / name, spec)[0]


@pytest.mark.parametrize(
    "name",
    [
        "interlaced_dvd.mpg", "interlaced_h264.mp4", "avi_h264_bframes.avi", "avi_h264_bf1.avi",
        "mp4_remuxed_from_avi_genpts.mp4", "av1.mp4", "still_first_stream.mkv", "camera_folder/cam1.ts",
        "camera_folder/cam2.264", "camera_folder/cam3.dav", "camera_folder/dvd.vob", "camera_folder/ok.mp4",
    ],
)  # fmt: skip
def test_the_eight_frames(name: str) -> None:
    found = pictures(name)
    assert [number_in(picture) for picture in found] == EIGHT
    assert {corners(picture) for picture in found} == {"RGBW"}
    with Decoder(ODD / name) as decoder:
        assert [round(frame.time, 3) for frame in decoder] == [round(number / 25, 3) for number in range(60)]
        assert not decoder.damage


@pytest.mark.parametrize("name", ["interlaced_dvd.mpg", "interlaced_h264.mp4"])
def test_interlaced_frames_owe_nothing_to_another_video(name: str) -> None:
    first = pictures(name)
    pictures("sar_2to1.mp4")
    assert (pictures(name) == first).all()
    # By time too, and as captions see them.
    assert [number_in(picture) for picture in pictures(name, SamplingSpec("fps", fps=5))] == list(range(0, 60, 5))
    video = SegmentedVideo(ODD / name, Segmentation.parse("fixed:1"), UNIFORM, lambda frames: frames)
    seen = [number for part in video for number in map(number_in, part.images.permute(0, 2, 3, 1).numpy())]
    assert seen == sorted(seen)
    assert seen[-1] == 59


def test_a_clock_that_restarts() -> None:
    with Decoder(ODD / "ts_clock_restarts.ts") as decoder:
        shown = list(decoder)
        assert decoder.duration == pytest.approx(4.8)
    assert len(shown) == 120
    assert shown[-1].time == pytest.approx(4.76, abs=1e-3)
    video = SegmentedVideo(ODD / "ts_clock_restarts.ts", Segmentation.parse("fixed:1"), UNIFORM, lambda frames: frames)
    assert [part.end for part in video][-1] == pytest.approx(4.8, abs=0.05)


@pytest.mark.parametrize(("name", "right"), [("mirror_h.mp4", "GRWB"), ("mirror_v.mp4", "BWRG")])
def test_mirrors(name: str, right: str) -> None:
    assert {corners(picture) for picture in pictures(name)} == {right}


def test_square_pixels() -> None:
    found = pictures("sar_2to1.mp4")
    assert found.shape[1:3] == (240, 640)
    assert [number_in(picture) for picture in found] == EIGHT
    with Decoder(ODD / "yoga_sar.mp4") as decoder:
        frame = next(iter(decoder))
        picture = frame.picture()
        assert picture is not None
        assert picture.shape[:2] == (frame._raw.height, round(frame._raw.width * 4 / 3))


def test_whole_files_that_headers_describe_loosely() -> None:
    assert read_facts(ODD / "doctor_edit_list.mp4").problem is None
    result = examine([ODD / "doctor_edit_list.mp4", ODD / "doctor_pause.mkv"], progress=False)
    assert {finding.kind for finding in result.findings} <= {"variable_rate"}


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_equal_stamps(start: float) -> None:
    with Decoder(ODD / "equal_stamps_vfr.mkv") as decoder:
        times = {}
        for frame in decoder.frames(start):
            picture = frame.picture()
            assert picture is not None
            times[number_in(picture)] = frame.time
    right = {20: 2.0, 29: 5.0, 35: 7.2, 59: 15.6}
    assert {number: times[number] for number in right if right[number] >= start} == {
        number: pytest.approx(time, abs=1e-3) for number, time in right.items() if time >= start
    }


def test_a_song_holds_no_video() -> None:
    with pytest.raises(VideoError, match="holds no video"):
        list(SampledVideo(ODD / "song_with_cover.m4a", UNIFORM, lambda frames: frames))


def test_a_camera_folder() -> None:
    assert list(find_videos(ODD / "camera_folder")) == ["cam1", "cam2", "cam3", "dvd", "ok"]
    assert not search(ODD / "camera_folder").skipped


def test_didemo() -> None:
    found = match_videos(read_annotations([ODD / "didemo_3g2" / "train_data.json"]), find_videos(ODD / "didemo_3g2"))
    assert len(found.videos) == len(found.spans) == 3
    assert not found.missing


def test_frames_of_a_picture_of_torch() -> None:
    (chunk,) = list(SampledVideo(ODD / "av1.mp4", UNIFORM, lambda frames: frames))
    assert chunk.images.dtype == torch.uint8
