"""Metrics by the figures they give."""

from __future__ import annotations

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.registry import METRICS


def test_every_figure_is_given_by_the_metric_under_its_name() -> None:
    hypotheses, targets = {"a": ["a dog runs far"], "b": ["a cat"]}, {"a": ["a dog runs"], "b": ["two cats"]}
    for figure, kind in METRICS.items():
        metric = kind()
        if metric.missing(False) is None:
            assert figure in metric.score(hypotheses, targets).scores


def test_an_unknown_figure_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ClipcapError, match=r"unknown metric 'SPICE'.*Bleu_1, Bleu_2, Bleu_3, Bleu_4, METEOR, ROUGE_L"):
        METRICS.find("SPICE")
