"""Frames of real files: which ones, when, and what happens to damaged ones."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipcap_video.errors import VideoError
from clipcap_video.video.decoder import Decoder, Frame
from clipcap_video.video.reader import SampledVideo, read_frames, read_frames_at
from clipcap_video.video.sampling import SamplingSpec, choose
from tests import clips
from tests.clips import write_clip

ALL = SamplingSpec("uniform", 5000)


def sample(path: Path, spec: SamplingSpec = ALL, chunk: int = 8) -> tuple[list[int], list[float], SampledVideo]:
    """Numbers shown by the kept frames, their times, and the exhausted video."""
    video = SampledVideo(path, spec, lambda frames: frames, chunk)
    chunks = list(video)
    assert all(1 <= len(part.images) <= chunk for part in chunks)
    numbers = [number for part in chunks for number in clips.numbers_in(part.images)]
    times = [float(time) for part in chunks for time in part.timestamps]
    return numbers, times, video


def count_walks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded from beginning to end, as often as they are."""
    walked: list[Path] = []
    original = Decoder.frames

    def counting(self: Decoder, start: float = 0.0) -> Iterator[Frame]:
        walked.append(self.path)
        return original(self, start)

    monkeypatch.setattr(Decoder, "frames", counting)
    return walked


@pytest.mark.parametrize("suffix", sorted(clips.CODECS))
def test_every_container_gives_all_frames_in_order_with_their_times(tmp_path: Path, suffix: str) -> None:
    numbers, times, video = sample(clips.write_clip(tmp_path / f"clip{suffix}", 23, fps=25))
    assert numbers == list(range(23))
    np.testing.assert_allclose(times, np.arange(23) / 25, atol=1e-6)
    assert video.warning is None


@pytest.mark.usefixtures("walked")
@pytest.mark.parametrize(
    "spec",
    [
        SamplingSpec("uniform", 7),
        SamplingSpec("uniform", 4, fps=2),
        SamplingSpec("head", 3),
        SamplingSpec("head", 3, fps=5),
        SamplingSpec("tail", 3),
        SamplingSpec("fps", fps=3),
        SamplingSpec("fps", fps=5, max_frames=9),
        SamplingSpec("reference"),
        SamplingSpec("reference", 10),
    ],
    ids=lambda spec: f"{spec.sampling}-{spec.frames}-{spec.fps}-{spec.max_frames}",
)
@pytest.mark.parametrize("frames", [1, 5, 57])
def test_each_sampling_keeps_the_frames_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: SamplingSpec, frames: int
) -> None:
    path = clips.write_clip(tmp_path / "clip.avi", frames)
    opened = count_walks(monkeypatch)
    numbers, times, _ = sample(path, spec, chunk=4)
    expected = choose(spec, np.arange(frames) / 10)
    assert numbers == expected.tolist()
    np.testing.assert_allclose(times, expected / 10, atol=1e-6)
    assert len(opened) == 1


@pytest.mark.usefixtures("walked")
@pytest.mark.parametrize("likely", [0, 1, 20, 29, 31, 300])
@pytest.mark.parametrize("spec", [SamplingSpec("uniform", 6), SamplingSpec("tail", 2), SamplingSpec("reference", 6)])
def test_a_wrong_guess_of_the_number_of_frames_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, likely: int, spec: SamplingSpec
) -> None:
    path = clips.write_clip(tmp_path / "clip.mp4", 30)
    monkeypatch.setattr(Decoder, "likely", likely)
    numbers, _, video = sample(path, spec)
    assert numbers == choose(spec, np.arange(30) / 10).tolist()
    assert video.warning is None


@pytest.mark.usefixtures("walked")
def test_a_second_decoding_makes_only_the_images_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clips.write_clip(tmp_path / "clip.mpg", 30)
    monkeypatch.setattr(Decoder, "likely", 21)
    walks = count_walks(monkeypatch)
    made: list[int] = []

    def transform(frames: Tensor) -> Tensor:
        made.extend(clips.numbers_in(frames))
        return frames

    spec = SamplingSpec("uniform", 6)
    shown = [number for part in SampledVideo(path, spec, transform) for number in clips.numbers_in(part.images)]
    assert shown == choose(spec, np.arange(30)).tolist()
    assert len(walks) == 2
    assert len(made) == len(set(made))


def test_variable_frame_rate_gives_true_times(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.mp4", 8)
    tick = clips.time_scale(path) // 10
    clips.set_frame_durations(path, [tick * tenths for tenths in (1, 3, 1, 1, 15, 1, 1, 1)])
    expected = [0, 0.1, 0.4, 0.5, 0.6, 2.1, 2.2, 2.3]
    numbers, times, _ = sample(path)
    assert numbers == list(range(8))
    np.testing.assert_allclose(times, expected, atol=1e-3)
    # At or after 0, 1 and 2 s: frame 5 at 2.1 s is the first after both 1 s and 2 s.
    assert sample(path, SamplingSpec("fps"))[0] == [0, 5]
    assert sample(path, SamplingSpec("tail", 2, fps=2))[0] == [3, 5]


def test_gif_frames_keep_their_own_durations_and_transparency_is_no_obstacle(tmp_path: Path) -> None:
    numbers, times, _ = sample(clips.write_gif(tmp_path / "clip.gif", [100, 200, 100, 500, 100]))
    assert numbers == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(times, [0, 0.1, 0.3, 0.4, 0.9], atol=1e-6)
    assert sample(clips.write_gif(tmp_path / "clear.gif", [100] * 5, transparent=True))[0] == [0, 1, 2, 3, 4]


def test_a_rotation_flag_is_obeyed(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.mp4", 3)
    upright, _ = read_frames(path, ALL)
    clips.rotate_quarter(path)
    turned, _ = read_frames(path, ALL)
    assert turned.shape == (3, 64, 48, 3)
    np.testing.assert_array_equal(turned, np.rot90(upright, k=-1, axes=(1, 2)))


def test_gray_and_odd_sized_videos(tmp_path: Path) -> None:
    gray = (clips.numbered_frame(number)[:, :, 0] for number in range(5))
    assert sample(clips.encode(tmp_path / "gray.mkv", gray, 10, pixels="gray"))[0] == [0, 1, 2, 3, 4]
    assert sample(clips.write_clip(tmp_path / "odd.avi", 5, size=(63, 47)))[0] == [0, 1, 2, 3, 4]


def test_channels_come_as_red_green_blue(tmp_path: Path) -> None:
    red = np.full((48, 64, 3), (200, 20, 10), np.uint8)
    frames, _ = read_frames(clips.encode(tmp_path / "red.mkv", [red, red], 10), ALL)
    np.testing.assert_allclose(frames.mean(axis=(0, 1, 2)), [200, 20, 10], atol=3)


def test_damage_in_the_middle_loses_frames_but_not_the_rest(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.mp4", 100)
    data = bytearray(path.read_bytes())
    start, length = len(data) // 3, len(data) // 60
    data[start : start + length] = bytes(length)
    path.write_bytes(data)
    _, times, video = sample(path)
    assert 95 <= len(times) < 100
    assert times[-1] == pytest.approx(9.9)
    assert video.warning is not None
    assert 0 < video.damage.share <= 0.05
    numbers, times, _ = sample(path, SamplingSpec("uniform", 20))  # frames that are right are near
    assert len(numbers) == 20
    assert numbers == [round(10 * time) for time in times]


def test_a_truncated_file_fails_and_gives_what_it_has_if_asked_to(tmp_path: Path) -> None:
    path = clips.truncate(clips.write_clip(tmp_path / "clip.avi", 100), 0.5)
    with pytest.raises(VideoError, match=r"clip\.avi: the file is truncated; \d+ of 100 frames are damaged .*missing"):
        sample(path)
    for spec in (ALL, SamplingSpec("fps", fps=10)):
        video = SampledVideo(path, spec, lambda frames: frames, max_damage=1.0)
        numbers = [number for part in video for number in clips.numbers_in(part.images)]
        assert numbers == list(range(len(numbers)))
        assert 30 <= len(numbers) <= 60
        assert video.warning is not None
        assert video.warning.startswith("the file is truncated")
        assert video.damage.missing == 100 - len(numbers)


@pytest.mark.usefixtures("walked")
def test_a_frame_that_cannot_be_shown_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write_clip(tmp_path / "clip.avi", 6)
    original = Frame.picture

    def failing(self: Frame) -> np.ndarray | None:
        return None if self.number == 2 else original(self)

    walks = count_walks(monkeypatch)
    monkeypatch.setattr(Frame, "picture", failing)
    assert sample(path)[0] == [0, 1, 3, 4, 5]
    assert len(walks) == 1
    assert sample(path, SamplingSpec("fps", fps=10))[0] == [0, 1, 3, 4, 5]
    monkeypatch.setattr(Frame, "picture", lambda self: None)
    with pytest.raises(VideoError, match=r"not one frame of .*clip\.avi"):
        sample(path)


def unreadable(folder: Path) -> dict[str, Path]:
    (folder / "text.mp4").write_text("no video\n" * 100)
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    (folder / "empty.mp4").write_bytes(b"")
    clips.truncate(clips.write_clip(folder / "no-moov.mp4", 40), 0.5)
    names = ("text.mp4", "playlist.mp4", "empty.mp4", "no-moov.mp4", "absent.mp4")
    return {name: folder / name for name in names}


@pytest.mark.parametrize("spec", [ALL, SamplingSpec("fps")], ids=["planned", "online"])
def test_what_is_no_video_is_an_error_that_names_the_file(tmp_path: Path, spec: SamplingSpec) -> None:
    for name, path in unreadable(tmp_path).items():
        with pytest.raises(VideoError, match=name) as caught:
            sample(path, spec)
        assert "\n" not in str(caught.value)
    with pytest.raises(VideoError, match="0 bytes"):
        sample(tmp_path / "empty.mp4")


def test_the_libraries_print_nothing(tmp_path: Path) -> None:
    paths = [*unreadable(tmp_path).values(), clips.truncate(clips.write_clip(tmp_path / "cut.avi", 50), 0.4)]
    damaged = clips.write_clip(tmp_path / "damaged.mp4", 60)
    data = bytearray(damaged.read_bytes())
    data[3000:3400] = bytes(400)
    damaged.write_bytes(data)
    program = (
        "import sys\n"
        "from clipcap_video.errors import VideoError\n"
        "from clipcap_video.video.reader import read_frames\n"
        "from clipcap_video.video.sampling import SamplingSpec\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_frames(path, SamplingSpec())\n"
        "    except VideoError: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, [*paths, damaged])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_full_size_frames_never_accumulate(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "long.avi", 3000, fps=100)
    seen: list[int] = []

    def transform(frames: Tensor) -> Tensor:
        seen.append(len(frames))
        return frames[:, :, ::4, ::4].contiguous()

    kept = 0
    for part in SampledVideo(path, SamplingSpec("fps", fps=100), transform, chunk=8):
        kept += len(part.images)
        assert sum(seen) == kept  # nothing is decoded ahead of the consumer
    assert kept == 3000
    assert max(seen) == 8


@pytest.mark.usefixtures("walked")
def test_head_stops_decoding_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clips.write_clip(tmp_path / "clip.avi", 200)
    passed: list[float] = []
    original = Decoder.__iter__

    def counting(self: Decoder) -> Iterator[Frame]:
        for frame in original(self):
            passed.append(frame.time)
            yield frame

    monkeypatch.setattr(Decoder, "__iter__", counting)
    assert sample(path, SamplingSpec("head", 3))[0] == [0, 10, 20]
    assert len(passed) == 21


def test_a_set_stop_ends_the_iteration(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.avi", 50)
    for spec in (ALL, SamplingSpec("fps", fps=10)):
        stop = threading.Event()
        stop.set()
        assert list(SampledVideo(path, spec, lambda frames: frames, stop=stop)) == []


def test_read_frames_shrinks_to_the_longer_side_and_keeps_the_aspect(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "clip.mkv", 30)
    frames, times = read_frames(path, SamplingSpec("fps"), max_side=32)
    assert (frames.shape, frames.dtype, times.dtype) == ((3, 24, 32, 3), np.uint8, np.float32)
    assert clips.numbers_in(torch.from_numpy(frames).permute(0, 3, 1, 2)) == [0, 10, 20]
    assert times.tolist() == [0, 1, 2]
    assert read_frames(path, SamplingSpec("fps"), max_side=640)[0].shape == (3, 48, 64, 3)


def test_a_video_whose_frames_change_size(tmp_path: Path) -> None:
    path = tmp_path / "clip.264"
    for side in (48, 96):
        pictures = [clips.numbered_frame(side + number, side, side) for number in range(3)]
        part = clips.encode(tmp_path / f"{side}.264", pictures, 25, "libx264")
        path.write_bytes((path.read_bytes() if path.exists() else b"") + part.read_bytes())
    frames, _ = read_frames(path, ALL)
    assert frames.shape == (6, 48, 48, 3)
    assert clips.numbers_in(torch.from_numpy(frames).permute(0, 3, 1, 2)) == [48, 49, 50, 96, 97, 98]


def test_frames_at_times_are_the_frames_that_were_sampled(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", frames=30, first=7)
    images, times = read_frames(clip, SamplingSpec(frames=6))
    # As a predictions.json has them.
    again = read_frames_at(clip, [round(float(time), 3) for time in times], np.asarray)
    assert len(again) == 6
    for image, other in zip(images, again, strict=True):
        assert other is not None
        assert (image == other).all()
    # From the middle on, most of what comes before is skipped, and the frames are the same.
    for image, other in zip(images[3:], read_frames_at(clip, times[3:].tolist(), np.asarray), strict=True):
        assert other is not None
        assert (image == other).all()
    assert [image is None for image in read_frames_at(clip, [0.0, 1e6], np.asarray)] == [False, True]
    with pytest.raises(VideoError):
        read_frames_at(tmp_path / "nothing.mp4", [0.0], np.asarray)
