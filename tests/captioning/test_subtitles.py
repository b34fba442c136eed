"""Subtitles, read back by libraries that have nothing to do with ours."""

from __future__ import annotations

import html
from datetime import timedelta
from io import StringIO
from itertools import pairwise

import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from clipcap_video.captioning.subtitles import LINE_LENGTH, LINES, clock, cues, subtitle_file, wrapped

Captions = list[tuple[float, float, str]]
TEXT = st.text(alphabet="abNhp <>&-.{}\\1\né漢", max_size=200)


@st.composite
def tracks(draw: st.DrawFn) -> Captions:
    """Captions one after the other, some with a gap between them, some without any text or length."""
    found, time = [], draw(st.floats(0, 5000))
    for text in draw(st.lists(TEXT, max_size=8)):
        time += draw(st.sampled_from([0.0, 0.0, 1.25]))
        end = time + draw(st.sampled_from([0.0, 0.04, 1 / 3, 2.0, 4000.0]))
        found.append((time, end, text))
        time = end
    return found


def milliseconds(time: timedelta) -> int:
    return round(time / timedelta(milliseconds=1))


@given(tracks())
def test_both_formats_say_the_same_in_order_without_overlap(captions: Captions) -> None:
    shown = list(cues(captions))
    subtitles = list(srt.parse(subtitle_file(shown, "srt")))
    assert [(milliseconds(sub.start), milliseconds(sub.end), sub.content.split("\n")) for sub in subtitles] == [
        (cue.start, cue.end, cue.lines) for cue in shown
    ]
    assert [sub.index for sub in subtitles] == list(range(1, len(shown) + 1))
    parsed = webvtt.from_buffer(StringIO(subtitle_file(shown, "vtt")))
    assert [(cue.start, cue.end, html.unescape(cue.text)) for cue in parsed] == [
        (srt_time(cue.start), srt_time(cue.end), "\n".join(cue.lines)) for cue in shown
    ]
    assert all(cue.start < cue.end for cue in shown)
    assert all(first.end <= second.start for first, second in pairwise(shown))
    assert all(len(cue.lines) <= LINES and all(0 < len(line) <= LINE_LENGTH for line in cue.lines) for cue in shown)


def srt_time(value: int) -> str:
    return f"{value // 3_600_000:02d}:{value // 60_000 % 60:02d}:{value // 1000 % 60:02d}.{value % 1000:03d}"


def test_what_the_files_look_like() -> None:
    shown = list(cues([(0, 1.5, r"a {\p1} <b> & \N"), (3600, 3600.25, "a dog")]))
    assert subtitle_file(shown, "srt").rstrip("\n") == (
        "1\n00:00:00,000 --> 00:00:01,500\na {\\p1} <b> & \\N\n\n2\n01:00:00,000 --> 01:00:00,250\na dog"
    )
    assert subtitle_file(shown, "vtt").startswith("WEBVTT\n\n")
    assert "00:00:00.000 --> 00:00:01.500\na {\\p1} &lt;b&gt; &amp; \\N\n" in subtitle_file(shown, "vtt")
    assert (subtitle_file([], "srt"), subtitle_file([], "vtt").strip()) == ("", "WEBVTT")


@given(TEXT)
def test_wrapping_keeps_every_letter(text: str) -> None:
    assert "".join("".join(wrapped(text)).split()) == "".join(text.split())


def test_two_even_lines() -> None:
    assert wrapped("a man in a red shirt is riding a bicycle down a steep hill") == [
        "a man in a red shirt is riding",
        "a bicycle down a steep hill",
    ]


def test_a_long_text_is_shown_in_turns_as_long_as_their_texts() -> None:
    text = " ".join(f"w{number:03d}" for number in range(42))
    found = list(cues([(0, 10, text)]))
    assert len(found) == 3  # six lines of eight words at most
    assert (found[0].start, found[-1].end) == (0, 10_000)
    assert " ".join(line for cue in found for line in cue.lines) == text
    total = sum(len(line) for cue in found for line in cue.lines)
    for cue in found:
        share = sum(len(line) for line in cue.lines) / total
        assert abs(cue.end - cue.start - 10_000 * share) <= 2


def test_cues_do_not_even_touch() -> None:
    found = list(cues([(0, 1.5, "a dog"), (1.5, 3, "a cat"), (3, 3.001, "a cow"), (3.001, 4, "a pig")]))
    assert [(cue.start, cue.end) for cue in found] == [(0, 1499), (1500, 2999), (3000, 3001), (3001, 4000)]


def test_neighbours_that_say_the_same_become_one_cue() -> None:
    found = list(cues([(0, 1, "a dog"), (1, 2, "a dog"), (3, 4, "a dog")]))
    assert [(cue.start, cue.end) for cue in found] == [(0, 2000), (3000, 4000)]


def test_clock() -> None:
    assert [clock(value) for value in (0, 59.99, 61, 3600 + 62)] == ["0:00", "0:59", "1:01", "1:01:02"]
