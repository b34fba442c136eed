"""The caption metrics by the figures they give. A new one is a subclass of `Metric` in a file of its own and a line.

A metric with several figures stands under the name of each.
"""

from __future__ import annotations

from clipcap_video.runs.options import Registry

METRICS = Registry(
    "metric",
    {
        **{f"Bleu_{n}": "clipcap_video.metrics.bleu:Bleu" for n in range(1, 5)},
        "METEOR": "clipcap_video.metrics.meteor:Meteor",
        "ROUGE_L": "clipcap_video.metrics.rouge:Rouge",
        "CIDEr": "clipcap_video.metrics.cider:Cider",
    },
)
