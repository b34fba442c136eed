"""How much of a video is damaged, in words and numbers, and what containers promise of their own length."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from clipcap_video.video.damage import Damage, begins_as_video, bytes_missing


def test_shares_and_words() -> None:
    assert not Damage(60)
    found = Damage(60, corrupt=2, missing=1, errors=1)
    assert found
    assert str(found) == "3 of 60 frames are damaged (5.0%: 2 corrupt, 1 missing, 1 decoder error)"
    assert str(Damage(60, truncated=True)) == "the file is truncated"
    # More may be found than there are frames to lose.
    assert Damage(10, corrupt=8, missing=9).share == 1
    assert Damage(0, errors=3).share == 0


def test_it_survives_its_stored_form_and_later_fields_do_no_harm() -> None:
    found = Damage(60, missing=1, truncated=True, whole=False)
    assert Damage.from_json({**found.to_json(), "colour": "wrong"}) == found
    assert [Damage.from_json(other) for other in (None, 3, {}, {"colour": 1})] == [None] * 4


def box(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(content) if length is None else length, kind) + content


def ebml(identity: bytes, content: bytes, length: int | None = None) -> bytes:
    """An element of Matroska whose length has eight bytes."""
    size = len(content) if length is None else length
    return identity + bytes([1]) + size.to_bytes(7, "big") + content


HEADER, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
UNKNOWN = 2**56 - 1


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (box(b"ftyp", b"isom") + box(b"mdat", bytes(100)), 0),
        (box(b"ftyp", b"isom") + box(b"mdat", bytes(100), length=150), 42),
        (box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"mdat", 2**33) + bytes(84), 2**33 - 100),
        (box(b"ftyp", b"isom") + box(b"mdat", bytes(100), length=0), None),  # to the end of the file
        (b"RIFF" + struct.pack("<I", 104) + b"AVI " + bytes(100), 0),
        (b"RIFF" + struct.pack("<I", 124) + b"AVI " + bytes(100), 20),
        (b"RIFF" + struct.pack("<I", 0) + b"AVI " + bytes(100), None),  # its length was never written
        (ebml(HEADER, b"webm") + ebml(SEGMENT, bytes(90)), 0),
        (ebml(HEADER, b"webm") + ebml(SEGMENT, bytes(90), length=100), 10),
        (ebml(HEADER, b"webm") + ebml(SEGMENT, bytes(90), length=UNKNOWN), None),  # a stream
        (b"GIF89a" + bytes(20), None),
        (b"", None),
    ],
)
def test_bytes_that_a_container_promises(tmp_path: Path, content: bytes, missing: int | None) -> None:
    (tmp_path / "v").write_bytes(content)
    assert bytes_missing(tmp_path / "v") == missing
    assert begins_as_video(tmp_path / "v") == bool(content)


def test_a_text_begins_as_no_video(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_text("this is no video")
    assert not begins_as_video(tmp_path / "v.mp4")
