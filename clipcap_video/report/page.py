"""A report of captioned videos: one HTML page that needs no server, no network and no other file.

The page is complete without JavaScript; the script in it only adds search, filters, sorting, larger frames and
keys. Whatever comes from outside (captions, names, paths) is escaped, and the page's Content-Security-Policy allows
no script but that one, by its digest, so that even a slip in the escaping could not run anything.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipcap_video.captioning.predictions import Prediction
from clipcap_video.errors import ClipcapError
from clipcap_video.files import whole_file
from clipcap_video.report.verdicts import Verdict
from clipcap_video.version import __version__


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


@dataclass(frozen=True, eq=False)
class ReportEntry:
    """One video of a report, or a part of one, and what is known of it.

    cider: the score of the best caption, as a fraction. verdict: what somebody found who looked at that caption.
    """

    prediction: Prediction
    frames: Sequence[ReportFrame]
    references: Sequence[str] = ()
    cider: float | None = None
    verdict: Verdict | None = None


def write_report(
    entries: Iterable[ReportEntry],
    out: Path,
    *,
    count: int,
    counted: str = "videos",
    title: str,
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
    environment = Environment(
        loader=PackageLoader("clipcap_video.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"figures": _figures, "ratio": _ratio, "evidence": _evidence}
    environment.filters |= {
        "base64": _base64,
        "seconds": format_seconds,
        "number": _number,
        "percent": _percent,
        "near": partial(_near, folder=out.absolute().parent),
    }
    # Universal newlines matter: browsers digest the script with LF, whatever the file on disk has.
    script = resources.files("clipcap_video.report").joinpath("page.js").read_text("utf-8")
    page = environment.get_template("template.html").generate(
        entries=entries,
        count=f"{count:,}",
        counted=counted,
        title=title,
        details=details or {},
        script=Markup(script),
        script_hash="sha256-" + _base64(hashlib.sha256(script.encode()).digest()),
        generator=f"clipcap-video {__version__}",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A path that is no valid UTF-8 reaches Python with lone surrogates, which do not encode as they are.
        with (
            whole_file(out) as unfinished,
            unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
        ):
            file.writelines(page)
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


def format_seconds(seconds: float | None) -> str:
    """m:ss.s, or h:mm:ss.s from an hour on; a dash for a time that is unknown (None, or not finite)."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    tenths = round(abs(seconds) * 10)  # whole tenths first: 59.97 s is 1:00.0, not 0:60.0
    sign = "−" if seconds < 0 and tenths else ""
    minutes, tenths = divmod(tenths, 600)
    rest = f"{tenths // 10:02d}.{tenths % 10}"
    if minutes < 60:
        return f"{sign}{minutes}:{rest}"
    return f"{sign}{minutes // 60}:{minutes % 60:02d}:{rest}"


def _near(text: str, folder: Path) -> str:
    """A text, but an absolute path as it is reached from `folder`: the page may be sent on, and names no home."""
    if not os.path.isabs(text):
        return text
    try:
        return Path(os.path.relpath(text, folder)).as_posix()
    except ValueError:  # another drive
        return Path(text).name


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _figures(entry: ReportEntry) -> dict[str, float]:
    """What a card is sorted and filtered by; those that are known."""
    figures: dict[str, float | None] = {"cider": entry.cider}
    if entry.prediction.captions:
        best = entry.prediction.captions[0]
        figures |= {"confidence": best.mean_logprob, "expected": best.expected_cider, "support": best.support}
    drops = [frame.drop for frame in entry.frames if frame.drop is not None and math.isfinite(frame.drop)]
    figures["evidence"] = _share(max(drops)) if drops else None
    return {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}


def _ratio(frames: Sequence[ReportFrame]) -> float:
    """Width by height of the frames of a strip, which all frames of a video share."""
    return next((frame.picture.width / frame.picture.height for frame in frames if frame.picture is not None), 1.0)


def _evidence(frame: ReportFrame) -> dict[str, str] | None:
    """A bar and a figure: the share of the caption's probability that goes with the frame, or comes without it."""
    if frame.drop is None or not math.isfinite(frame.drop):
        return None
    without = (
        "this frame" if frame.spans is None else "the frames from {} to {}".format(*map(format_seconds, frame.spans))
    )
    times = math.exp(min(abs(frame.drop), 50.0))
    change = f"{times:.3g} times {'less' if frame.drop >= 0 else 'more'} likely"
    return {
        "kind": "owed" if frame.drop >= 0 else "owed against",
        "tip": f"Without {without}, this caption would be {change} "
        f"(log-probability {_number(-frame.drop, sign=True)}).",
        "share": f"{abs(_share(frame.drop)):.2f}",
        "percent": _number(100 * (math.exp(min(-frame.drop, 2.3)) - 1), 0, sign=True) + "%",
    }


def _share(drop: float) -> float:
    """Share of the caption's probability that is lost without the frames; below zero, of that which is gained."""
    return 1 - math.exp(-drop) if drop >= 0 else math.exp(drop) - 1


def _probability(mean_logprob: float) -> float:
    return 0.0 if math.isnan(mean_logprob) else math.exp(min(mean_logprob, 0.0))


def _percent(mean_logprob: float) -> str:
    percent = 100 * _probability(mean_logprob)
    return "–" if math.isnan(mean_logprob) else f"{percent:.{0 if percent >= 10 else 1}f}%"


def _number(value: float, places: int = 2, sign: bool = False) -> str:
    """With a true minus, no minus before zero and, on request, a plus."""
    if math.isnan(value):
        return "–"
    text = f"{abs(value):.{places}f}"
    zero = not text.strip("0.")
    return text if zero or (value > 0 and not sign) else f"{'+' if value > 0 else '−'}{text}"
