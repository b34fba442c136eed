"""ClipCap for video: captions from frozen frame features and a language model.

>>> from clipcap_video import Captioner                      # doctest: +SKIP
>>> captioner = Captioner.from_pretrained("out/")            # no argument: the starter captioner
>>> print(captioner.caption("clip.mp4").text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipcap_video.captioner import Captioner as Captioner

__version__ = "0.1.0"
__all__ = ["Captioner", "__version__"]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds; `--help` and the version must not wait for it.
    if name == "Captioner":
        from clipcap_video.captioner import Captioner

        return Captioner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
