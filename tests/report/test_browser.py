"""The report page in a real browser: search, filters, sorting, larger frames, keys, a narrow screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipcap_video.report.page import ReportEntry, ReportFrame, encode_picture, write_report
from tests.browser import browser, serious
from tests.report.test_page import caption, report_entry

HOSTILE = "<img src=x onerror=document.title='run'>"


def entry(number: int) -> ReportEntry:
    """Of number n: mean log-probability -n / 10, CIDEr (n * 7 mod 5) / 10, evidence rising with n."""
    picture = encode_picture(np.full((90, 160, 3), 40 * number % 256, np.uint8), 160, 55)
    words = ("dog", "cat", "horse", "man", "café")[number % 5]
    return report_entry(
        f"video{number}",
        [
            caption(
                f"a {words} number {number}",
                -number / 10,
                -number,
                cut=number == 3,
                expected_cider=number % 6 / 4,
                support=number % 4 / 4,
            ),
            caption("another caption", -2.0, -9.0),
        ],
        [ReportFrame(picture, 2.0 * turn, (-0.3, 0.1 * number, 0.02)[turn]) for turn in range(3)],
        path=f"clips/{HOSTILE}{number}.mp4",
        references=[f"reference {'odd' if number % 2 else 'even'}"],
        cider=number * 7 % 5 / 10,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    file = tmp_path_factory.mktemp("page") / "page.html"
    write_report([entry(number) for number in range(1, 12)], file, count=11, title="Captions")
    with browser() as chromium:
        opened = chromium.new_page(viewport={"width": 1280, "height": 900})
        opened.asked, opened.problems = [], []
        opened.on("request", lambda request: opened.asked.append(request.url))
        opened.on("console", lambda message: opened.problems.append(message.text))
        opened.on("pageerror", lambda error: opened.problems.append(str(error)))
        opened.goto(file.as_uri())
        opened.file = file.as_uri()
        yield opened


@pytest.fixture(autouse=True)
def fresh(page: Any) -> Iterator[None]:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(page.file)
    yield
    assert page.problems == []


def shown(page: Any) -> list[int]:
    names = page.eval_on_selector_all("article:not([hidden]) h2", "nodes => nodes.map(node => node.textContent)")
    return [int(name.removeprefix("video")) for name in names]


def test_it_asks_for_nothing_and_runs_nothing_of_the_texts(page: Any) -> None:
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert {url.split(":")[0] for url in page.asked} <= {"file", "data", "blob"}
    assert [url for url in page.asked if url.startswith("file:")] == [page.file] * page.asked.count(page.file)
    assert page.title() == "Captions"
    # Pictures out of sight are not loaded before they are scrolled to, and would never be decoded.
    images = """nodes => Promise.all(nodes.map(async node => {
        node.loading = "eager"; await node.decode(); return node.naturalWidth;
    }))"""
    assert page.eval_on_selector_all("article .strip img", images) == [160] * 33


def test_search(page: Any) -> None:
    page.fill("#search", "CAFE")
    assert shown(page) == [4, 9]
    page.fill("#search", '"reference odd" dog')
    assert shown(page) == [5]
    page.fill("#search", "giraffe")
    assert shown(page) == []
    assert page.is_visible("#nothing")
    assert page.text_content("#shown") == "0 of 11 shown"
    page.press("#search", "Escape")
    assert len(shown(page)) == 11


def test_sorting(page: Any) -> None:
    def order(choice: str) -> list[int]:
        page.select_option("#sort", choice)
        return shown(page)

    assert order("confidence,-1") == list(range(1, 12))
    assert order("confidence,1") == list(range(11, 0, -1))
    ciders = [number * 7 % 5 for number in order("cider,-1")]
    assert ciders == sorted(ciders, reverse=True)
    assert [number % 6 for number in order("expected,-1")] == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0]
    assert [number % 4 for number in order("support,1")] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert order("evidence,-1") == list(range(11, 0, -1))
    assert order("name") == list(range(1, 12))  # video2 before video10
    assert order("given") == list(range(1, 12))


def test_filters(page: Any) -> None:
    page.fill("#least", "60")  # exp(-0.5) is 61 %, exp(-0.6) 55 %
    assert shown(page) == [1, 2, 3, 4, 5]
    page.fill("#most", "20")
    assert shown(page) == [number for number in range(1, 6) if number * 7 % 5 <= 2]
    page.fill("#least", "")
    page.fill("#most", "")
    page.fill("#expected", "100")  # times 100
    assert shown(page) == [4, 5, 10, 11]
    page.fill("#expected", "")
    page.fill("#supported", "75")
    assert shown(page) == [3, 7, 11]
    page.fill("#supported", "")
    page.check("#cut")
    assert shown(page) == [3]


def test_a_click_shows_the_frame_with_what_it_meant(page: Any) -> None:
    page.locator("article").nth(6).locator(".strip img").nth(1).click()
    assert page.is_visible("#large")
    text = page.text_content("#large")
    assert "a horse number 7" in text
    assert "Frame at 0:02.0, 2 of 3." in text
    assert "2.01 times less likely" in text  # exp(0.7)
    page.keyboard.press("ArrowLeft")
    assert "1.35 times more likely" in page.text_content("#large")
    page.keyboard.press("Escape")
    assert not page.is_visible("#large")


def test_a_frame_is_enlarged_by_keyboard_and_the_focus_comes_back(page: Any) -> None:
    picture = page.locator("article").nth(1).locator(".strip img").nth(2)
    assert picture.get_attribute("alt") == "a horse number 2, at 0:04.0"
    page.keyboard.press("j")
    page.keyboard.press("j")
    for _ in range(3):
        page.keyboard.press("Tab")
    assert picture.evaluate("node => node === document.activeElement")
    for key in ("Enter", " "):
        page.keyboard.press(key)
        assert "Frame at 0:04.0, 3 of 3." in page.text_content("#large")
        page.keyboard.press("Escape")
        assert not page.is_visible("#large")
        assert picture.evaluate("node => node === document.activeElement")


def test_filters_fold_on_a_phone(page: Any) -> None:
    assert page.is_visible("#supported")
    assert not page.is_visible("#fold")
    page.set_viewport_size({"width": 390, "height": 844})
    assert not page.is_visible("#supported")
    assert page.is_visible("#search")
    page.focus("#fold")
    page.keyboard.press("Enter")
    assert page.get_attribute("#fold", "aria-expanded") == "true"
    page.fill("#supported", "75")
    page.click("#fold")
    assert not page.is_visible("#supported")
    assert page.text_content("#fold") == "Sort and filter (1)"
    assert shown(page) == [3, 7, 11]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Any, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    if width == 390:
        page.click("#fold")
    page.click("details.legend summary")
    assert serious(page) == []
    page.locator("article .strip img").first.click()
    assert serious(page) == []
    page.emulate_media(color_scheme="light")


def test_keys(page: Any) -> None:
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.querySelector('h2').textContent") == "video1"


def test_a_narrow_screen(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.fill("#search", "cat")
    page.click("#fold")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("article:not([hidden]) .strip img").first.click()
    box = page.locator("#large").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 844


def test_controls_for_figures_that_no_card_has_are_gone(page: Any, tmp_path: Path) -> None:
    plain = report_entry("a", [caption("x", float("nan"), float("nan"))], [])
    file = write_report([plain], tmp_path / "plain.html", count=1, title="Plain")
    page.goto(file.as_uri())
    assert page.eval_on_selector_all("#sort option", "nodes => nodes.map(node => node.value)") == ["given", "name"]
    assert [page.locator(name).count() for name in ("#least", "#expected", "#supported", "#most")] == [0, 0, 0, 0]
    assert not page.is_visible("#cut")
