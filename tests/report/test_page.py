"""The report page: what it shows, that it asks for nothing, that no text in it can become markup."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from clipcap_video.captioning.predictions import Caption, Prediction
from clipcap_video.errors import ClipcapError
from clipcap_video.report.page import (
    ReportEntry,
    ReportFrame,
    encode_picture,
    format_seconds,
    thumbnail,
    write_report,
)

HOSTILE = "</script><img src=x onerror=alert(1)> & \"quoted\" 'single' <!-- {{cards}}"
VOID = {"meta", "link", "img", "input"}


class Page(HTMLParser):
    """Collects tags, scripts and the text of each card; fails on tags that do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cards: list[dict[str, list]] = []
        self.scripts: list[str] = []
        self.open: list[tuple[str, str]] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        kind = (attributes.get("class") or "").split(" ")[0]
        if tag == "article":
            self.cards.append({"attributes": [attributes], "text": [], "images": []})
        if tag == "script":
            self.scripts.append("")
        if tag == "img" and "article" in [name for name, _ in self.open]:
            self.cards[-1]["images"].append(attributes)
        if tag not in VOID:
            self.open.append((tag, kind))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self.open]
        if "script" in inside:
            self.scripts[-1] += data
        elif "article" in inside and data.strip():
            self.cards[-1]["text"].append((self.open[-1][0], self.open[-1][1], data.strip()))

    def texts(self, card: int, kind: str) -> list[str]:
        return [data for tag, cls, data in self.cards[card]["text"] if kind in (tag, cls)]


def caption(text: str, mean_logprob: float, logprob: float, **known: Any) -> Caption:
    return Caption(text, logprob, mean_logprob, 5, **known)


def report_entry(
    video: str,
    captions: list[Caption],
    frames: list[ReportFrame],
    *,
    references: list[str] | None = None,
    cider: float | None = None,
    **known: Any,
) -> ReportEntry:
    return ReportEntry(Prediction(video, captions, **known), frames, references or [], cider)


def gradient(height: int, width: int, red: int) -> np.ndarray:
    """Red is constant, green runs down, blue runs across: swapped channels or axes would show."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = red
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    image[..., 2] = np.linspace(0, 120, width)[None]
    return image


def frame(image: np.ndarray, seconds: float | None, **evidence: object) -> ReportFrame:
    return ReportFrame(encode_picture(image, 240, 75), seconds, **evidence)  # type: ignore[arg-type]


def entries() -> list[ReportEntry]:
    return [
        report_entry(
            "video10",
            [
                caption("a man is cooking", math.log(0.5), 5 * math.log(0.5)),
                caption("a man is in the", -1.25, -5.0, cut=True),
            ],
            [
                frame(gradient(360, 480, 200), 0.5, drop=math.log(4), spans=(0.0, 3.5)),
                frame(gradient(360, 480, 20), 61.25, drop=-math.log(1.25)),
            ],
            path="clips/video10.mp4",
            references=["someone cooks", "a chef at work"],
            cider=0.4321,
            start=0.0,
            end=65.0,
        ),
        report_entry("video2", [caption("ein Hund läuft", -2.0, -8.0)], []),
        report_entry("no-caption", [], [frame(gradient(50, 40, 90), 0.0)]),
    ]


def read(entries: list[ReportEntry], folder: Path, **options: Any) -> tuple[str, Page]:
    file = write_report(entries, folder / "report.html", **{"title": "Captions", "count": len(entries), **options})
    source = file.read_text("utf-8")
    return source, Page(source)


def test_one_card_an_entry_in_order_with_its_captions(tmp_path: Path) -> None:
    _, page = read(entries(), tmp_path)
    assert [page.texts(i, "h2") for i in range(len(page.cards))] == [["video10"], ["video2"], ["no-caption"]]
    first = [data for _, _, data in page.cards[0]["text"]]
    assert first.index("a man is cooking") < first.index("a man is in the") < first.index("someone cooks")
    assert "2 references" in first
    assert {"0:00.5", "1:01.2", "0:00.0 to 1:05.0", "clips/video10.mp4", "43.2"} <= set(first)
    assert "No caption" in [data for _, _, data in page.cards[2]["text"]]


def test_confidence_is_the_mean_log_probability_and_its_exponential(tmp_path: Path) -> None:
    _, page = read(entries(), tmp_path)
    first = [data for _, _, data in page.cards[0]["text"]]
    assert first[first.index("per-word probability") + 1] == "50%"
    assert first[first.index("mean log-probability") + 1] == "−0.69"
    assert {"29%", "−1.25"} <= set(first)  # the second caption: exp(-1.25)
    attributes = page.cards[0]["attributes"][0]
    assert float(attributes["data-confidence"]) == pytest.approx(math.log(0.5), rel=1e-5)
    assert float(attributes["data-cider"]) == pytest.approx(0.4321)
    assert "data-cider" not in page.cards[1]["attributes"][0]
    assert "data-confidence" not in page.cards[2]["attributes"][0]


def test_the_bar_is_the_support_and_unsure_is_said(tmp_path: Path) -> None:
    sure = Prediction("a", [caption("a dog", -0.5, -1.0, support=0.91, unsure=False)])
    doubted = Prediction("b", [caption("a cat", -0.1, -0.2, support=0.4, unsure=True)])
    theirs = Prediction("c", [caption("a cow", math.nan, math.nan, model="vlm"), *doubted.captions])
    text, page = read([ReportEntry(one, []) for one in (sure, doubted, theirs)], tmp_path)
    assert re.findall(r'class="level" style="--p:([0-9.]+)"', text) == ["0.910", "0.400"]
    said = [[data for _, _, data in card["text"]] for card in page.cards]
    assert ["unsure" in words for words in said] == [False, True, True]
    assert "40%" in said[1]
    assert "by vlm" in said[2]


def test_only_the_caption_that_was_cut_has_the_badge(tmp_path: Path) -> None:
    _, page = read(entries(), tmp_path)
    first = [data for _, _, data in page.cards[0]["text"]]
    assert [page.texts(i, "cut") for i in range(3)] == [["cut"], [], []]
    assert first.index("cut") == first.index("a man is in the") + 1


def test_hostile_text_stays_text_everywhere(tmp_path: Path) -> None:
    small = frame(gradient(9, 9, 0), 0.0)
    hostile = report_entry(HOSTILE, [caption(HOSTILE, -1.0, -1.0)] * 2, [small], path=HOSTILE, references=[HOSTILE])
    plain = report_entry("x", [caption("x", -1.0, -1.0)] * 2, [small], path="x", references=["x"])
    file = tmp_path / "hostile.html"
    write_report([hostile], file, count=1, title=HOSTILE, details={HOSTILE: HOSTILE})
    source = file.read_text("utf-8")
    page = Page(source)
    write_report([plain], file, count=1, title="x", details={"x": "x"})
    reference = Page(file.read_text("utf-8"))

    # The same tags and attribute names in the same order: nothing became markup.
    assert [(t, sorted(a)) for t, a in page.tags] == [(t, sorted(a)) for t, a in reference.tags]
    assert page.scripts == reference.scripts
    assert [data for _, _, data in page.cards[0]["text"]].count(HOSTILE) == 5
    assert "<img src=x" not in source


def test_page_asks_for_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    _, page = read(entries(), tmp_path)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    # The policy names the script by its digest; a stale digest would switch search and sorting off.
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert directives["script-src"] == f"'sha256-{digest}'"


def test_style_sheet_loads_nothing(tmp_path: Path) -> None:
    source, _ = read([], tmp_path)
    style = source[source.index("<style>") : source.index("</style>")]
    assert not re.search(r"url\(|@import|https?:|//", style)


def test_images_decode_to_the_frames(tmp_path: Path) -> None:
    _, page = read(entries(), tmp_path)
    images = page.cards[0]["images"]
    assert [(a["width"], a["height"]) for a in images] == [("240", "180")] * 2
    for attributes, red in zip(images, (200, 20), strict=True):
        kind, _, payload = attributes["src"].partition(",")
        assert kind == "data:image/webp;base64"
        bgr = cv2.imdecode(np.frombuffer(base64.b64decode(payload), np.uint8), cv2.IMREAD_COLOR)
        expected = cv2.resize(gradient(360, 480, red), (240, 180), interpolation=cv2.INTER_AREA)
        error = np.abs(bgr[..., ::-1].astype(int) - expected)
        assert error.mean() < 4
        assert error.max() < 40


def test_evidence_is_the_share_of_probability_that_goes_with_a_frame(tmp_path: Path) -> None:
    _, page = read(entries(), tmp_path)
    owed = [a for tag, a in page.tags if tag == "span" and (a.get("class") or "").startswith("owed")]
    assert [data for tag, _, data in page.cards[0]["text"] if data.endswith("%") and data[0] in "−+"] == [
        "−75%",
        "+25%",
    ]
    assert [a["class"] for a in owed] == ["owed", "owed against"]
    assert [a["style"] for a in owed] == ["--p:0.75", "--p:0.20"]
    assert "Without the frames from 0:00.0 to 0:03.5, this caption would be 4 times less likely" in str(
        owed[0]["title"]
    )
    assert "Without this frame, this caption would be 1.25 times more likely" in str(owed[1]["title"])
    assert float(page.cards[0]["attributes"][0]["data-evidence"]) == pytest.approx(0.75)
    assert "data-evidence" not in page.cards[1]["attributes"][0]


def test_evidence_without_pictures_or_times_is_shown(tmp_path: Path) -> None:
    odd = [ReportFrame(None, None, 0.0), ReportFrame(None, 2.0, math.nan), ReportFrame(None, 3.0, 1e9)]
    source, page = read([report_entry("v", [caption("a", -1.0, -1.0)], odd)], tmp_path)
    texts = [data for _, _, data in page.cards[0]["text"]]
    assert {"–", "0%", "0:02.0", "−100%"} <= set(texts)
    assert "nan" not in source[source.index("<article") : source.index("</article>")]


def test_thumbnail_only_scales_down_and_keeps_the_shape() -> None:
    small = gradient(50, 40, 9)
    assert thumbnail(small, 240) is small
    assert thumbnail(gradient(1080, 1920, 9), 240).shape == (135, 240, 3)
    assert thumbnail(gradient(1920, 1080, 9), 240).shape == (240, 135, 3)
    assert thumbnail(gradient(2, 4000, 9), 240).shape == (1, 240, 3)
    # Mean grey survives, as it would not if pixels were merely dropped from a checkerboard.
    board = np.repeat((np.indices((480, 480)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, 2)
    assert np.abs(thumbnail(board, 240).astype(int) - 127).max() <= 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0:00.0"),
        (3.24, "0:03.2"),
        (59.97, "1:00.0"),
        (754.3, "12:34.3"),
        (3599.99, "1:00:00.0"),
        (3725.5, "1:02:05.5"),
        (-0.01, "0:00.0"),
        (-1.5, "−0:01.5"),
        (math.nan, "–"),
    ],
)
def test_times_are_minutes_and_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_figures_that_are_missing_or_impossible_still_make_a_page(tmp_path: Path) -> None:
    odd = [
        report_entry("nan", [caption("", math.nan, math.nan)], [], cider=math.nan, start=math.nan, end=math.nan),
        report_entry("inf", [caption("a", -math.inf, -math.inf)], []),
    ]
    source, page = read(odd, tmp_path)
    for card in page.cards:
        assert not {"data-confidence", "data-cider"} & set(card["attributes"][0])
    assert "(empty caption)" in [data for _, _, data in page.cards[0]["text"]]
    assert "0.0%" in [data for _, _, data in page.cards[1]["text"]]
    assert "nan%" not in source


def test_empty_report_is_a_page(tmp_path: Path) -> None:
    source, page = read([], tmp_path, title="Nothing")
    assert page.cards == []
    assert "{{" not in source.replace(page.scripts[0], "")


def test_absolute_paths_are_shown_from_where_the_page_is(tmp_path: Path) -> None:
    clip = tmp_path / "clips" / "a.mp4"
    shown = [report_entry("a", [], [], path=str(path)) for path in (clip, "b/c.mp4", "s3://bucket/d.mp4")]
    source, page = read(shown, tmp_path, details={"model": str(tmp_path / "out" / "best")})
    assert [page.texts(number, "path") for number in range(3)] == [["clips/a.mp4"], ["b/c.mp4"], ["s3://bucket/d.mp4"]]
    assert "<dd>out/best</dd>" in source
    assert str(tmp_path) not in source


def test_a_path_that_is_not_utf8_does_not_stop_the_report(tmp_path: Path) -> None:
    _, page = read([report_entry("v", [], [], path="clip\udcff.mp4")], tmp_path)
    assert "clip\\udcff.mp4" in [data for _, _, data in page.cards[0]["text"]]


def test_a_failed_report_leaves_the_old_one_and_no_rubbish(tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    write_report(entries(), out, count=3, title="Old")
    before = out.read_bytes()

    def breaking() -> Iterator[ReportEntry]:
        yield from entries()
        frame(np.zeros((4, 4, 3), np.float32), 0.0)

    with pytest.raises(ValueError, match=r"float32 \[4, 4, 3\]"):
        write_report(breaking(), out, count=4, title="New")
    assert out.read_bytes() == before
    assert [file.name for file in out.parent.iterdir()] == ["report.html"]


def test_the_page_appears_only_when_whole(tmp_path: Path) -> None:
    out = tmp_path / "report.html"

    class Watching(list[ReportEntry]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for entry in super().__iter__():
                assert not out.exists()
                yield entry

    assert write_report(Watching(entries()), out, count=3, title="t") == out
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match=re.escape(str(tmp_path))):
        write_report([], tmp_path, count=0, title="t")
