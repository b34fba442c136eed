"""ClipCap for video: captions from frozen frame features and a language model.

>>> from clipcap_video import Captioner                      # doctest: +SKIP
>>> captioner = Captioner.from_pretrained("out/")            # no argument: the starter captioner
>>> print(captioner.caption("clip.mp4").text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from clipcap_video.errors import ClipcapError as ClipcapError
from clipcap_video.version import __version__ as __version__

if TYPE_CHECKING:
    from clipcap_video.captioning.captioner import Captioner as Captioner
    from clipcap_video.captioning.predictions import Prediction as Prediction
    from clipcap_video.decoding.settings import DecodingSettings as DecodingSettings

__all__ = ["Captioner", "ClipcapError", "DecodingSettings", "Prediction", "__version__"]

_PLACES = {
    "Captioner": "captioning.captioner",
    "DecodingSettings": "decoding.settings",
    "Prediction": "captioning.predictions",
}


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds; `--help` and the version must not wait for it.
    if name in _PLACES:
        return getattr(importlib.import_module(f"clipcap_video.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
