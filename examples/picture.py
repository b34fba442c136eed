"""The picture in the README: real output of the starter captioner, as its page shows it.

    make picture

Captions Big Buck Bunny (https://peach.blender.org, (c) Blender Foundation, CC BY 3.0), the one sample clip whose
licence lets its frames be shown here, and photographs the page's card in a headless Chromium. Needs playwright and
Chromium (chromium or google-chrome on the PATH).
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from clipcap_video.video.samples import sample_clips

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")


def make_page(folder: Path, arguments: list[str]) -> Path:
    clip = next(path for path in sample_clips() if path.stem == "bigbuckbunny")
    shutil.copy(clip, folder)  # the page shows the path
    command = [sys.executable, ROOT / "inference_vtt.py", "--videos", clip.name, "--report", "page.html"]
    command += ["--use_beam_search", "--num_return", "3", *arguments]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "page.html"


def photograph(page: Path, width: int) -> Image.Image:
    """The page's cards, without the tools above them."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("no Chromium on the PATH; install one")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        tab = chromium.new_page(viewport={"width": width, "height": 1200})
        tab.goto(page.resolve().as_uri())
        card = tab.locator("article.card").first
        card.scroll_into_view_if_needed()
        tab.wait_for_function("[...document.images].every(image => image.complete)")
        picture = card.screenshot()
        chromium.close()
    return Image.open(io.BytesIO(picture)).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "demo.png")
    parser.add_argument("--width", type=int, default=1100, help="of the window, in pixels")
    parser.add_argument("--page", type=Path, help="photograph this page instead of making one")
    options, others = parser.parse_known_args()  # others: of inference_vtt.py, such as --model_dir
    with tempfile.TemporaryDirectory() as folder:
        picture = photograph(options.page or make_page(Path(folder), others), options.width)
    # 256 colours show no difference here and take a third of the space.
    picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(options.out, optimize=True)
    print(f"{options.out}: {picture.width} x {picture.height}, {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
