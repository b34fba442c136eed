"""The objectives by name, each as its options, which know its class.

A new one is a file with a subclass of `objectives.base.Objective` and one of `ObjectiveOptions`, and a line here.
"""

from __future__ import annotations

from clipcap_video.runs.options import Registry
from clipcap_video.training.objectives.options import ContrastiveOptions, CrossEntropyOptions, SelfCriticalOptions

OBJECTIVES = Registry(
    "objective", {"xe": CrossEntropyOptions, "contrastive": ContrastiveOptions, "scst": SelfCriticalOptions}
)
