"""A report of captioned videos: one HTML page that needs no server, no network and no other file.

The page is complete without JavaScript; the script in it only adds search, filters, sorting, larger frames and
keys. Whatever comes from outside (captions, names, paths) is escaped, and the page's Content-Security-Policy allows
no script but that one, by its digest, so that even a slip in the escaping could not run anything.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path

import cv2
import numpy as np

from clipcap_video.errors import ClipcapError
from clipcap_video.files import whole_file
from clipcap_video.report.verdicts import Verdict
from clipcap_video.version import __version__

CONFIDENCE_TIP = (
    "How sure the model was of its own wording, not the chance that the caption is right: "
    "exp of the mean log-probability per token."
)
EXPECTED_TIP = (
    "The score that the captioner's consensus network expects, times 100. With the support it made this order."
)
SUPPORT_TIP = (
    "The share of the caption's words, each by its rarity, that somebody can be expected to say of this video."
)
CUT_TIP = "The caption reached the length limit before the model ended it."


@dataclass(frozen=True)
class Picture:
    """A small WebP image, as `encode_picture` makes it; half the size of a JPEG that looks the same."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True)
class ReportFrame:
    """One sampled frame, or the middle one of a stretch. seconds: its time in the video, None where unknown.

    drop: evidence, the nats by which the best caption's log-probability falls without the stretch; None where that
    was not looked into. spans: first and last time of the stretch, in seconds, if it has several frames.
    """

    picture: Picture | None
    seconds: float | None
    drop: float | None = None
    spans: tuple[float, float] | None = None


@dataclass(frozen=True)
class ReportCaption:
    """One hypothesis. Log-probabilities are in nats: `mean_logprob` per token, `logprob` over the sentence.

    cut: the length limit ended the caption, not the model. expected: the CIDEr (0 to 10) that a consensus network
    expects of it, where one chose; support: the share (0 to 1) of its words that somebody would say.
    """

    text: str
    mean_logprob: float
    logprob: float
    cut: bool = False
    expected: float | None = None
    support: float | None = None


@dataclass(frozen=True, eq=False)
class ReportEntry:
    """One video of a report.

    captions: best first. cider: the score of the best caption, as a fraction. start, end: the part of the video that
    is described, in seconds; None for all of it. damage: how much of the video is damaged, in words. verdict: what
    somebody found who looked at the best caption.
    """

    video_id: str
    captions: Sequence[ReportCaption]
    frames: Sequence[ReportFrame]
    path: str | None = None
    references: Sequence[str] = field(default_factory=list)
    cider: float | None = None
    start: float | None = None
    end: float | None = None
    verdict: Verdict | None = None
    damage: str | None = None


def write_report(
    entries: Iterable[ReportEntry],
    out: Path,
    *,
    count: int,
    counted: str = "videos",
    title: str,
    subtitle: str = "",
    details: Mapping[str, str] | None = None,
) -> Path:
    """Writes the page to `out` and returns `out`; the file appears, or is replaced, only when it is whole.

    entries: one card each, in this order. They are read once and one at a time. count, counted: how many they are,
        of what.
    details: short facts for the head of the page, such as model, encoder and decoding; name -> value.

    Raises ClipcapError if `out` is a directory or cannot be written.
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
        "count": f"{count:,}",
        "counted": escape(counted),
        "details": "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in (details or {}).items()
        ),
    }
    head, tail = template.split("{{cards}}")

    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A path that is no valid UTF-8 reaches Python with lone surrogates, which do not encode as they are.
        with (
            whole_file(out) as partial,
            partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
        ):
            file.write(_fill(head, values))
            for entry in entries:
                file.writelines(_card(entry))
            file.write(_fill(tail, values))
    except OSError as error:
        raise ClipcapError(f"cannot write {out} ({error.strerror}); choose another place for the page") from None
    return out


def encode_picture(image: np.ndarray, side: int, quality: int) -> Picture:
    """A WebP of the image, uint8 RGB [H, W, 3], scaled down to at most `side` pixels a side.

    quality: 1 to 100. Raises ValueError if it is no such image.
    """
    small = np.ascontiguousarray(thumbnail(image, side))
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise RuntimeError("OpenCV could not encode a WebP image")
    return Picture(data.tobytes(), small.shape[1], small.shape[0])


def thumbnail(image: np.ndarray, side: int) -> np.ndarray:
    """Scales an image down, never up, to at most `side` pixels a side: uint8 [H, W, 3] -> uint8 [h, w, 3]."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"a report frame is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    scale = side / max(height, width)
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
    return resources.files("clipcap_video.report").joinpath("template.html").read_text("utf-8")


def _fill(template: str, values: Mapping[str, str]) -> str:
    # One pass, so that a title which looks like a placeholder stays a title.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _card(entry: ReportEntry) -> Iterator[str]:
    best = entry.captions[0] if entry.captions else None
    figures = ""
    if best is not None and math.isfinite(best.mean_logprob):
        figures += f' data-confidence="{best.mean_logprob:.6g}"'
    if best is not None and best.expected is not None:
        figures += f' data-expected="{best.expected:.6g}"'
    if best is not None and best.support is not None:
        figures += f' data-support="{best.support:.6g}"'
    if entry.cider is not None and math.isfinite(entry.cider):
        figures += f' data-cider="{entry.cider:.6g}"'
    drops = [frame.drop for frame in entry.frames if frame.drop is not None and math.isfinite(frame.drop)]
    if drops:
        figures += f' data-evidence="{_share(max(drops)):.6g}"'
    yield f'<article class="card" tabindex="-1"{figures}>\n'
    yield f'<div class="card-head"><h2 class="find" dir="auto">{escape(entry.video_id)}</h2>'
    if entry.start is not None and entry.end is not None:
        yield f'<span class="num">{format_seconds(entry.start)} to {format_seconds(entry.end)}</span>'
    if entry.path is not None:
        yield f'<bdi class="path">{escape(entry.path)}</bdi>'
    if entry.damage is not None:
        said = f'<span class="find">{escape(entry.damage)}</span>'
        yield f'<span class="verdict"><b class="find wrong">damaged</b> {said}</span>'
    if entry.verdict is not None:
        yield (
            f'<span class="verdict"><b class="find {entry.verdict.judgement}">{entry.verdict.judgement}</b> '
            f'<span class="find" dir="auto">{escape(entry.verdict.note)}</span></span>'
        )
    if entry.cider is not None:
        yield f'<span class="cider num">CIDEr <b>{_number(100 * entry.cider, 1)}</b></span>'
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
                f'<span class="num" title="{_tip(caption)}">{_expected(caption)}'
                f"<b>{_percent(caption.mean_logprob)}</b> {_number(caption.mean_logprob)}</span></li>\n"
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
    # The strip lays its frames out by their shape, which all frames of a video share.
    shape = next((frame.picture for frame in entry.frames if frame.picture is not None), None)
    ratio = shape.width / shape.height if shape is not None else 1.0
    yield f'<div class="strip" style="--ratio:{ratio:.4f}">\n'
    for frame in entry.frames:
        time = "–" if frame.seconds is None else format_seconds(frame.seconds)
        yield "<figure>"
        if frame.picture is not None:
            data = base64.b64encode(frame.picture.data).decode("ascii")
            yield (
                f'<img src="data:image/webp;base64,{data}" width="{frame.picture.width}" '
                f'height="{frame.picture.height}" alt="Frame at {time}" loading="lazy" decoding="async">'
            )
        yield f'<figcaption class="num"><span>{time}</span>{_evidence(frame)}</figcaption></figure>\n'
    yield "</div>\n"


def _evidence(frame: ReportFrame) -> str:
    """A bar and a figure: the share of the caption's probability that goes with the frame, or comes without it."""
    if frame.drop is None or not math.isfinite(frame.drop):
        return ""
    without = (
        "this frame" if frame.spans is None else "the frames from {} to {}".format(*map(format_seconds, frame.spans))
    )
    times = math.exp(min(abs(frame.drop), 50.0))
    change = f"{times:.3g} times {'less' if frame.drop >= 0 else 'more'} likely"
    tip = f"Without {without}, this caption would be {change} (log-probability {_number(-frame.drop, sign=True)})."
    percent = _number(100 * (math.exp(min(-frame.drop, 2.3)) - 1), 0, sign=True) + "%"
    kind = "owed" if frame.drop >= 0 else "owed against"
    return f'<span class="{kind}" title="{tip}" style="--p:{abs(_share(frame.drop)):.2f}"><i></i>{percent}</span>'


def _share(drop: float) -> float:
    """Share of the caption's probability that is lost without the frames; below zero, of that which is gained."""
    return 1 - math.exp(-drop) if drop >= 0 else math.exp(drop) - 1


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
        f'<span>mean log-probability <b class="num">{_number(caption.mean_logprob)}</b></span>'
        f"{_expected(caption)}</p>\n"
    )


def _expected(caption: ReportCaption) -> str:
    parts = []
    if caption.expected is not None:
        parts.append((EXPECTED_TIP, "expected CIDEr", _number(100 * caption.expected, 0)))
    if caption.support is not None:
        parts.append((SUPPORT_TIP, "support", f"{100 * caption.support:.0f}%"))
    return "".join(f'<span title="{tip}">{name} <b class="num">{value}</b></span> ' for tip, name, value in parts)


def _tip(caption: ReportCaption) -> str:
    return f"{CONFIDENCE_TIP} Whole sentence: log-probability {_number(caption.logprob)}."


def _percent(mean_logprob: float) -> str:
    if math.isnan(mean_logprob):
        return "–"
    percent = 100 * math.exp(min(mean_logprob, 0.0))
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.1f}%"


def _number(value: float, places: int = 2, sign: bool = False) -> str:
    """With a true minus, no minus before zero and, on request, a plus."""
    if math.isnan(value):
        return "–"
    text = f"{abs(value):.{places}f}"
    zero = not text.strip("0.")
    return text if zero or (value > 0 and not sign) else f"{'+' if value > 0 else '−'}{text}"
