"""Captioner.caption and stream, on what a caller holds: arrays, images, and segments while they are read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.errors import ClipcapError
from tests.captioning.conftest import SETTINGS, make
from tests.clips import encode, numbered_frame, write_shots


def frames_of(count: int = 9) -> np.ndarray:
    return np.stack([numbered_frame(number) for number in range(count)])


def test_arrays_and_images_are_captioned_as_the_file_with_these_frames(
    captioner: Captioner,
    tmp_path: Path,
) -> None:
    frames = frames_of()
    clip = encode(tmp_path / "a.avi", iter(frames), 10, "ffv1")  # without loss
    images = [Image.fromarray(frame) for frame in frames]
    from_file, *others = captioner.caption([clip, frames, torch.from_numpy(frames), images], SETTINGS)
    for other in others:
        assert other.captions[0].text == from_file.captions[0].text
        assert other.captions[0].logprob == pytest.approx(from_file.captions[0].logprob, abs=1e-3)
    assert [one.video for one in others] == ["1", "2", "3"]


def test_a_picture_is_a_video_of_one_frame(captioner: Captioner) -> None:
    frame = frames_of(1)[0]
    one = captioner.caption(frame, SETTINGS)
    assert captioner.caption(Image.fromarray(frame), SETTINGS).captions == one.captions
    assert captioner.caption(Image.fromarray(frame).convert("RGBA"), SETTINGS).captions == one.captions


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 4, 3), np.uint8), [[]]]
)
def test_what_is_no_video_is_said(captioner: Captioner, wrong: object) -> None:
    with pytest.raises(ClipcapError, match="give"):
        captioner.caption(wrong, SETTINGS)  # type: ignore[call-overload]


def test_segments_come_while_the_video_is_read(captioner: Captioner, talk: Path, tmp_path: Path) -> None:
    streamed = list(captioner.stream(talk, settings=SETTINGS))
    written = make(captioner, talk, tmp_path, batch_size=4).predictions
    assert [(one.start, one.end, one.text) for one in streamed] == [(one.start, one.end, one.text) for one in written]


def test_its_repr_says_what_it_is(captioner: Captioner) -> None:
    assert re.fullmatch(r"Captioner\(model: tiny, mapping network: mlp.*; fp32 on cpu\)", repr(captioner))


@pytest.mark.parametrize("length", [5, 60, 170])
def test_a_video_of_one_shot_has_the_caption_of_the_whole(captioner: Captioner, tmp_path: Path, length: int) -> None:
    clip = write_shots(tmp_path / "clip.mkv", [length])
    segmented = list(captioner.stream(clip, settings=SETTINGS))
    assert len(segmented) == 1
    whole = captioner.caption(clip, SETTINGS)
    assert (segmented[0].captions, segmented[0].timestamps) == (whole.captions, whole.timestamps)
    assert segmented[0].end == pytest.approx(length / 10)
