"""Subtitles in SRT, WebVTT and ASS: wrapped, in order, never overlapping; and audio descriptions in WebVTT."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

LINE_LENGTH = 42  # characters, as broadcasters and streaming services have it
LINES = 2


@dataclass(frozen=True)
class Cue:
    """What is shown from `start` to `end`, in milliseconds."""

    start: int
    end: int
    lines: list[str]


def cues(captions: Iterable[tuple[float, float, str]]) -> Iterator[Cue]:
    """Cues of captions (start and end in seconds, text), which come in the order of their starts.

    Lines have at most LINE_LENGTH characters. A text of more than LINES of them is shown in several cues one after the
    other, each for a time that follows the length of its text. A cue ends a millisecond before the next one starts;
    neighbours that say the same become one. Captions without text or duration give none.
    """
    pending: Cue | None = None
    for start, end, text in captions:
        for cue in _split(round(start * 1000), round(end * 1000), text):
            if pending is not None:
                if pending.lines == cue.lines and pending.end >= cue.start:
                    pending = Cue(pending.start, max(pending.end, cue.end), cue.lines)
                    continue
                if pending.start < cue.start:
                    # Browsers that jump to where two cues meet show both, so a millisecond is left between them.
                    stop = min(pending.end, max(cue.start - 1, pending.start + 1))
                    yield Cue(pending.start, stop, pending.lines)
            pending = cue
    if pending is not None:
        yield pending


def _split(start: int, end: int, text: str) -> Iterator[Cue]:
    lines = wrapped(text)
    if not lines or start >= end:
        return
    pages = [lines[first : first + LINES] for first in range(0, len(lines), LINES)]
    total = sum(len(line) for line in lines)
    shown = 0
    for page in pages:
        begin = start + (end - start) * shown // total
        shown += sum(len(line) for line in page)
        until = start + (end - start) * shown // total
        if begin < until:
            yield Cue(begin, until, page)


def wrapped(text: str) -> list[str]:
    """The lines of a text: as few as LINE_LENGTH allows, and of those the most even; words longer than it are cut."""
    words = " ".join(text.split())
    lines = textwrap.wrap(words, LINE_LENGTH, break_on_hyphens=False)
    for width in range(LINE_LENGTH - 1, 0, -1):
        narrower = textwrap.wrap(words, width, break_on_hyphens=False, break_long_words=False)
        if len(narrower) > len(lines) or any(len(line) > LINE_LENGTH for line in narrower):
            break
        lines = narrower
    return lines


def subtitle_file(shown: Iterable[Cue], kind: str) -> str:
    """The text of a file of the cues, `srt`, `vtt` or `ass`; markup characters are escaped, or replaced in ASS."""
    from pysubs2 import SSAEvent, SSAFile

    file = SSAFile()
    for cue in shown:
        text = "\n".join(cue.lines)
        text = escape(text, quote=False) if kind == "vtt" else text
        text = text.replace("{", "(").replace("}", ")") if kind == "ass" else text  # ASS has no way to say them
        # To pysubs2 a backslash begins a command, unless a word joiner follows.
        file.append(SSAEvent(cue.start, cue.end, text.replace("\\", "\\\u2060")))
    written = file.to_string(kind, keep_ssa_tags=True)
    return written if kind == "ass" else written.replace("\\\u2060", "\\")


def description_file(captions: Iterable[tuple[float, float, str]]) -> str:
    """The text of a WebVTT file of kind `descriptions`, which a screen reader speaks: one sentence a cue, not wrapped.

    captions: start and end in seconds, text, in the order of their starts; they must not overlap.
    """
    blocks = ["WEBVTT\nKind: descriptions"]
    for start, end, text in captions:
        words = " ".join(text.split())
        if words and start < end:
            sentence = escape(words[0].upper() + words[1:], quote=False)
            stop = "" if sentence[-1] in ".!?" else "."
            blocks.append(f"{_vtt_time(start)} --> {_vtt_time(end)}\n{sentence}{stop}")
    return "\n\n".join(blocks) + "\n"


def _vtt_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def clock(seconds: float) -> str:
    """Seconds as a person reads them: 1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
