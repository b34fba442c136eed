"""Videos of every kind, each frame compared with what ffmpeg itself shows: number, time, corners and colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from clipcap_video.video.decoder import Decoder
from clipcap_video.video.errors import SOUND
from clipcap_video.video.reader import SampledVideo
from clipcap_video.video.sampling import SamplingSpec
from tests.clips import blank, truncate
from tests.video.corpus import (
    AV1,
    CASES,
    FRAMES,
    MPEG2,
    SLOW,
    VP9,
    X264,
    X265,
    Case,
    Shown,
    corners,
    frame,
    number_in,
    run,
    shown_by_ffmpeg,
)


def shown_by_us(path: Path, threads: int = 1) -> Shown:
    with Decoder(path, threads) as decoder:
        shown = [(frame.picture(), frame.time) for frame in decoder]
        assert not decoder.damage, decoder.damage
    pictures = [picture for picture, _ in shown if picture is not None]
    assert len(pictures) == len(shown)
    return Shown(np.stack(pictures), np.array([time for _, time in shown]))


def compare(path: Path, case: Case) -> None:
    ours, theirs = shown_by_us(path), shown_by_ffmpeg(path, case.fields)
    assert ours.pictures.shape == theirs.pictures.shape
    times = np.arange(len(ours.times)) / float(Fraction(case.rate)) if case.nominal else theirs.times
    np.testing.assert_allclose(ours.times, times, atol=1e-3)
    difference = np.abs(ours.pictures.astype(np.int16) - theirs.pictures).mean(axis=(1, 2, 3))
    assert difference.max() <= 2
    assert [corners(picture) for picture in ours.pictures] == [corners(picture) for picture in theirs.pictures]
    if case.upright:
        numbers = [number_in(picture) for picture in ours.pictures]
        assert numbers == [number_in(picture) for picture in theirs.pictures]
        assert numbers == list(range(numbers[0], case.frames))
        assert numbers[0] == 0 or not case.exact_numbers
        assert {corners(picture) for picture in ours.pictures} == {"RGBW"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_frames_are_those_that_ffmpeg_shows(tmp_path: Path, case: Case) -> None:
    compare(case.make(tmp_path), case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=str)
def test_frames_of_slow_codecs(tmp_path: Path, case: Case) -> None:
    compare(case.make(tmp_path), case)


def flip(path: Path, start: float, end: float) -> Path:
    """Flips one bit in every 40 bytes between two shares of a file."""
    data = bytearray(path.read_bytes())
    for place in range(int(len(data) * start), int(len(data) * end), 40):
        data[place] ^= 1 << place % 8
    path.write_bytes(data)
    return path


def cut_out(path: Path, start: float, end: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * start)] + data[int(len(data) * end) :])
    return path


LONG = 60
DAMAGED = [
    Case(file, coding, frames=LONG)
    for file, coding in {
        "h264.mp4": X264, "h264.mkv": X264, "h264.ts": X264, "h264.avi": f"{X264} -bf 0", 
        "hevc.mp4": X265, "vp9.webm": VP9, "av1.mp4": AV1, "mpeg2.mpg": MPEG2, "mjpeg.avi": "-c:v mjpeg -q:v 3",
    }.items()
]  # fmt: skip


@pytest.mark.parametrize("fault", [flip, blank, cut_out], ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("case", DAMAGED, ids=str)
def test_damage_is_counted_and_sound_frames_are_right(tmp_path: Path, case: Case, fault: Callable[..., Path]) -> None:
    path = case.make(tmp_path)
    if fault is cut_out and path.suffix == ".mp4":
        pytest.skip("the index of an mp4 counts bytes, so nothing behind what was cut out is found")
    fault(path, 0.5, 0.56)
    with Decoder(path, 1) as decoder:
        shown = [(frame.state, frame.time, frame.picture()) for frame in decoder]
        damage = decoder.damage
    assert damage
    assert not damage.truncated or fault is cut_out
    sound = [(time, picture) for state, time, picture in shown if state == SOUND and picture is not None]
    assert len(sound) >= LONG / 3
    # AVI tells no times behind a gap, a pack of MPEG has one time for several frames, and in AV1 most bits are valid
    # either way: what a codec does not notice nobody can count.
    if path.name in ("h264.avi", "mjpeg.avi", "mpeg2.mpg", "av1.mp4"):
        return
    assert len(shown) + damage.missing == pytest.approx(LONG, abs=3)
    theirs = shown_by_ffmpeg(path)
    wrong = compared = 0
    for time, picture in sound:
        wrong += number_in(picture) != round(time * 25)
        other = int(np.abs(theirs.times - time).argmin())
        if abs(theirs.times[other] - time) <= 1e-3:  # ffmpeg drops frames that come out of order
            compared += 1
            wrong += np.abs(picture.astype(np.int16) - theirs.pictures[other]).mean() > 2
    assert wrong <= 1
    assert compared >= len(sound) - 3


@pytest.mark.parametrize("case", [case for case in DAMAGED if case.file[-3:] in ("mp4", "mkv", "avi", "ebm")], ids=str)
def test_a_truncated_file_is_said_to_be_so(tmp_path: Path, case: Case) -> None:
    path = truncate(case.make(tmp_path) if case.file[-3:] != "mp4" else fast(case, tmp_path), 0.7)
    with Decoder(path, 1) as decoder:
        shown = list(decoder)
        damage = decoder.damage
    assert damage.truncated
    assert len(shown) + damage.missing == pytest.approx(LONG, abs=2)
    assert damage.missing > 5


def fast(case: Case, folder: Path) -> Path:
    return replace(case, coding=f"{case.coding} -movflags +faststart").make(folder)


@pytest.mark.parametrize(("transfer", "primaries"), [("smpte2084", "bt2020"), ("arib-std-b67", "bt2020")])
def test_high_dynamic_range_comes_down_to_the_standard_one(tmp_path: Path, transfer: str, primaries: str) -> None:
    """Colours that were brought up to it look as before."""
    up = (
        f"zscale=tin=bt709:min=bt709:pin=bt709:rin=full:t={transfer}:m=bt2020nc:p={primaries}:r=limited:npl=203,"
        "format=yuv420p10le"
    )
    coding = (
        f"-vf {up} {X265} -pix_fmt yuv420p10le -color_trc {transfer} -color_primaries {primaries} -colorspace bt2020nc"
    )
    path = Case("high.mp4", coding, frames=4).make(tmp_path)
    ours = shown_by_us(path)
    for number, picture in enumerate(ours.pictures):
        assert number_in(picture) == number
        assert corners(picture) == "RGBW"
        assert np.abs(picture.astype(np.int16) - frame(number)).mean() < 12
    # Without it, all is dull and grey.
    plain = run(["-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
    dull = np.frombuffer(plain, np.uint8).reshape(frame(0).shape)
    assert np.abs(dull.astype(np.int16) - frame(0)).mean() > 12


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_change_nothing(tmp_path: Path, threads: int) -> None:
    case = next(case for case in CASES if case.file == "h264.mkv")
    path = case.make(tmp_path)
    one, other = shown_by_us(path), shown_by_us(path, threads)
    assert (one.pictures == other.pictures).all()
    assert one.times.tolist() == other.times.tolist()
    assert len(one.times) == FRAMES


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.file in ("wide2.mp4", "turn90.mp4", "bt709.mp4", "h264.mkv")], ids=str
)
def test_the_reference_program_sees_what_opencv_gives_it(tmp_path: Path, case: Case) -> None:
    path = case.make(tmp_path)
    images = [chunk.images for chunk in SampledVideo(path, SamplingSpec("reference", FRAMES), lambda frames: frames)]
    ours = torch.cat(images).permute(0, 2, 3, 1).numpy()
    capture = cv2.VideoCapture(str(path))
    theirs = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(FRAMES)]
    np.testing.assert_allclose(ours, np.stack(theirs), atol=2)
