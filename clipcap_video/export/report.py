"""A report of captioned videos: one HTML page that needs no server, no network and no other file.

The page is complete without JavaScript; the script in it only adds search, sorting and keys. Whatever comes
from outside (captions, names, paths) is escaped, and the page's Content-Security-Policy allows no script but
that one, by its digest, so that even a slip in the escaping could not run anything.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path

import cv2
import numpy as np

from clipcap_video import __version__
from clipcap_video.errors import ClipcapError

FRAME_SIDE = 240
JPEG_QUALITY = 80

CONFIDENCE_TIP = (
    "How sure the model was of its own wording, not the chance that the caption is right: "
    "exp of the mean log-probability per token."
)
CUT_TIP = "The caption reached the length limit before the model ended it."


@dataclass(frozen=True, eq=False)
class ReportFrame:
    """One sampled frame. image: uint8 [H, W, 3], RGB. seconds: its time in the video."""

    image: np.ndarray
    seconds: float


@dataclass(frozen=True)
class ReportCaption:
    """One hypothesis. Log-probabilities are in nats: `mean_logprob` per token, `logprob` over the sentence.

    cut: the length limit ended the caption, not the model.
    """

    text: str
    mean_logprob: float
    logprob: float
    cut: bool = False


@dataclass(frozen=True, eq=False)
class ReportEntry:
    """One video of a report.

    captions: best first. cider: the score of the best caption, shown as it is given. duration: seconds.
    """

    video_id: str
    captions: Sequence[ReportCaption]
    frames: Sequence[ReportFrame]
    path: str | None = None
    references: Sequence[str] = field(default_factory=list)
    cider: float | None = None
    duration: float | None = None


def write_report(
    entries: Sequence[ReportEntry],
    out: Path,
    *,
    title: str,
    subtitle: str = "",
    details: Mapping[str, str] | None = None,
) -> Path:
    """Writes the page to `out` and returns `out`; the file appears, or is replaced, only when it is whole.

    entries: one card each, in this order. They are read once and one at a time; to hold thousands of them,
        keep `thumbnail(image)` in each `ReportFrame` in place of the full frame.
    details: short facts for the head of the page, such as model, encoder and decoding; name -> value.

    Raises ClipcapError if `out` is a directory, ValueError if a frame is no uint8 [H, W, 3] image.
    """
    out = Path(out)
    if out.is_dir():
        raise ClipcapError(f"{out} is a directory; name the report's file, for example {out / 'report.html'}.")
    template = _template()
    script = template[template.index("<script>") + len("<script>") : template.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values = {
        "script_hash": f"sha256-{digest}",
        "generator": escape(f"clipcap-video {__version__}"),
        "title": escape(title),
        "subtitle": f'<p class="subtitle" dir="auto">{escape(subtitle)}</p>\n' if subtitle else "",
        "count": f"{len(entries):,}",
        "details": "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in (details or {}).items()
        ),
    }
    head, tail = template.split("{{cards}}")

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        # A path that is no valid UTF-8 reaches Python with lone surrogates, which do not encode as they are.
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(_fill(head, values))
            for entry in entries:
                file.writelines(_card(entry))
            file.write(_fill(tail, values))
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Scales an image down, never up, to at most 240 pixels a side: uint8 [H, W, 3] -> uint8 [h, w, 3]."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"a report frame is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    scale = FRAME_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def format_seconds(seconds: float) -> str:
    """m:ss.s, or h:mm:ss.s from an hour on; a dash for a time that is unknown (not finite)."""
    if not math.isfinite(seconds):
        return "–"
    tenths = round(abs(seconds) * 10)  # whole tenths first: 59.97 s is 1:00.0, not 0:60.0
    sign = "−" if seconds < 0 and tenths else ""
    minutes, tenths = divmod(tenths, 600)
    rest = f"{tenths // 10:02d}.{tenths % 10}"
    if minutes < 60:
        return f"{sign}{minutes}:{rest}"
    return f"{sign}{minutes // 60}:{minutes % 60:02d}:{rest}"


def _template() -> str:
    # Universal newlines matter: browsers digest the script with LF, whatever the file on disk has.
    return resources.files("clipcap_video.export").joinpath("report_template.html").read_text("utf-8")


def _fill(template: str, values: Mapping[str, str]) -> str:
    # One pass, so that a title which looks like a placeholder stays a title.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _card(entry: ReportEntry) -> Iterator[str]:
    best = entry.captions[0] if entry.captions else None
    figures = ""
    if best is not None and math.isfinite(best.mean_logprob):
        figures += f' data-confidence="{best.mean_logprob:.6g}"'
    if entry.cider is not None and math.isfinite(entry.cider):
        figures += f' data-cider="{entry.cider:.6g}"'
    yield f'<article class="card" tabindex="-1"{figures}>\n'
    yield f'<div class="card-head"><h2 class="find" dir="auto">{escape(entry.video_id)}</h2>'
    if entry.duration is not None:
        yield f'<span class="num">{format_seconds(entry.duration)}</span>'
    if entry.path is not None:
        yield f'<bdi class="path">{escape(entry.path)}</bdi>'
    if entry.cider is not None:
        yield f'<span class="cider num">CIDEr <b>{_number(entry.cider)}</b></span>'
    yield "</div>\n"
    yield from _strip(entry)

    yield '<div class="words"><div>\n'
    if best is None:
        yield '<p class="best none">No caption</p>'
    else:
        yield f'<p class="best" dir="auto">{_sentence(best)}</p>\n{_confidence(best)}'
    yield "</div>\n"
    if len(entry.captions) > 1:
        yield '<ol class="others" aria-label="Other captions">\n'
        for caption in entry.captions[1:]:
            yield (
                f'<li><span dir="auto">{_sentence(caption)}</span>'
                f'<span class="num" title="{_tip(caption)}"><b>{_percent(caption.mean_logprob)}</b>'
                f" {_number(caption.mean_logprob)}</span></li>\n"
            )
        yield "</ol>\n"
    yield "</div>\n"

    if entry.references:
        count = len(entry.references)
        yield f'<details class="refs"><summary>{count} reference{"s" if count > 1 else ""}</summary><ul>\n'
        for reference in entry.references:
            yield f'<li class="find" dir="auto">{escape(reference)}</li>\n'
        yield "</ul></details>\n"
    yield "</article>\n"


def _strip(entry: ReportEntry) -> Iterator[str]:
    if not entry.frames:
        return
    for index, frame in enumerate(entry.frames):
        try:
            small = thumbnail(frame.image)
        except ValueError as error:
            raise ValueError(f"{entry.video_id}, frame {index}: {error}") from None
        height, width = small.shape[:2]
        if index == 0:
            # The strip lays its frames out by their shape, which all frames of a video share.
            yield f'<div class="strip" style="--ratio:{width / height:.4f}">\n'
        time = format_seconds(frame.seconds)
        yield (
            f'<figure><img src="{_data_uri(small)}" width="{width}" height="{height}" alt="Frame at {time}" '
            f'loading="lazy" decoding="async"><figcaption class="num">{time}</figcaption></figure>\n'
        )
    yield "</div>\n"


def _data_uri(image: np.ndarray) -> str:
    bgr = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError("OpenCV could not encode a JPEG image")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _sentence(caption: ReportCaption) -> str:
    text = f'<span class="find">{escape(caption.text)}</span>'
    if not caption.text.strip():
        text = '<span class="none">(empty caption)</span>'
    return f'{text} <span class="cut" title="{CUT_TIP}">cut</span>' if caption.cut else text


def _confidence(caption: ReportCaption) -> str:
    share = min(math.exp(min(caption.mean_logprob, 0.0)), 1.0) if not math.isnan(caption.mean_logprob) else 0.0
    return (
        f'<p class="sure" title="{_tip(caption)}">'
        f'<span class="level" style="--p:{share:.3f}" aria-hidden="true"></span>'
        f'<span>per-word probability <b class="num">{_percent(caption.mean_logprob)}</b></span>'
        f'<span>mean log-probability <b class="num">{_number(caption.mean_logprob)}</b></span></p>\n'
    )


def _tip(caption: ReportCaption) -> str:
    return f"{CONFIDENCE_TIP} Whole sentence: log-probability {_number(caption.logprob)}."


def _percent(mean_logprob: float) -> str:
    if math.isnan(mean_logprob):
        return "–"
    percent = 100 * math.exp(min(mean_logprob, 0.0))
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.1f}%"


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    text = f"{value:.2f}"
    return f"−{text[1:]}" if text.startswith("-") and text != "-0.00" else text.lstrip("-")
