"""The log-probability of given texts, against one pass without a cache and the decoder's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.forced import forced_logprobs
from clipcap_video.features.base import stack_features
from clipcap_video.models.mapping import MAPPING_NETWORKS
from tests.captioning.conftest import build, plain_logprob
from tests.tiny import captions_of, features_of


@pytest.mark.parametrize("mapping_type", list(MAPPING_NETWORKS))
def test_forced_logprobs_of_a_batch_are_those_of_one_pass_each(tiny_lm: Path, mapping_type: str) -> None:
    captioner = build(tiny_lm, mapping_type)
    videos, texts = [features_of(number) for number in range(3)], ["a dog", captions_of(1)[1], "two boys sing"]
    tokens = [captioner.model.encode_caption(text, 40) for text in texts]
    with torch.no_grad():
        found = forced_logprobs(captioner.model.start(*stack_features(videos), 40), tokens)
    expected = [plain_logprob(captioner, video, text) for video, text in zip(videos, texts, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_forced_logprob_of_a_decoded_caption_is_the_decoders(tiny_lm: Path) -> None:
    captioner = build(tiny_lm)
    videos = [features_of(number) for number in range(4)]
    found = [own[0] for own in captioner.caption_features(videos, DecodingSettings(entry_length=8))]
    with torch.no_grad():
        state = captioner.model.start(*stack_features(videos), 8)
        scores = forced_logprobs(state, [h.tokens + ([h.stop_token] if h.ended else []) for h in found])  # type: ignore[list-item]
    assert scores.tolist() == pytest.approx([h.logprob for h in found], abs=1e-4)
