"""What a file holds, before one frame of it is decoded."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.errors import VideoError
from clipcap_video.video.reader import read_frames
from clipcap_video.video.sampling import SamplingSpec
from tests.clips import write_clip


@pytest.mark.parametrize(("name", "codec"), [("clip.avi", b"MJPG"), ("clip.mkv", b"V_FFV1")])
def test_a_codec_without_a_decoder_is_said_to_be_that(tmp_path: Path, name: str, codec: bytes) -> None:
    clip = write_clip(tmp_path / name, 8)
    content = clip.read_bytes()
    assert codec in content
    clip.write_bytes(content.replace(codec, codec[:2] + b"Q" * (len(codec) - 2)))
    with pytest.raises(VideoError, match="FFmpeg has no decoder for here; it is not damaged") as refused:
        read_frames(clip, SamplingSpec("uniform", 4))
    assert refused.value.kind == "no_decoder"
