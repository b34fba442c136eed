"""A real browser for tests of pages: Chromium, driven by playwright, with every request refused and recorded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None
)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless browser; skips the test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH")
    sandbox = [] if hasattr(os, "geteuid") and os.geteuid() else ["--no-sandbox"]  # root cannot have one
    quiet = ["--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*sandbox, *quiet])
        try:
            yield chromium
        finally:
            chromium.close()


def serious(page: Any) -> list[str]:
    """What axe-core finds on a page that is serious or critical; skips the test where AXE names no axe.min.js.

    It comes with the npm package axe-core.
    """
    axe = os.environ.get("AXE")
    if axe is None:
        pytest.skip("the variable AXE names no axe.min.js (npm pack axe-core)")
    # Past the page's Content-Security-Policy, which lets no other script in.
    page.evaluate(Path(axe).read_text("utf-8"))
    found = page.evaluate("axe.run().then(result => result.violations)")
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
