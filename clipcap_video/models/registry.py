"""The kinds of captioner by name, each as its options, which know its class.

A new kind is a file with a subclass of `models.base.CaptionModel` and one of `ModelOptions`, and a line here.
"""

from __future__ import annotations

from clipcap_video.models.options import LstmOptions, PrefixOptions
from clipcap_video.runs.options import Registry

CAPTIONERS = Registry("model", {"prefix": PrefixOptions, "lstm": LstmOptions})
