"""Loss and figures of a validation, against one caption at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.search import decode
from clipcap_video.features.base import stack_features
from clipcap_video.features.layouts import open_features
from clipcap_video.metrics.captioning import cider
from clipcap_video.training.data import CaptionData
from clipcap_video.training.validation import validate
from tests.prefix_models import build, row_a_caption
from tests.tiny import captions_of, write_feature_folder


@pytest.mark.parametrize("beam_size", [1, 3])
def test_it_is_the_mean_over_all_tokens_and_the_captions_of_inference(
    tiny_lm: Path, tmp_path: Path, beam_size: int
) -> None:
    model = build(tiny_lm)
    store = open_features(write_feature_folder(tmp_path / "features", range(5)))
    records = [VideoRecord(f"video{number}", "validate", captions_of(number)[: 1 + number % 3]) for number in range(5)]
    data = CaptionData.tokenise(records, store, lambda texts: model.encode_captions(texts, 40), max_frames=9)
    videos = [store.load(f"video{number}").features for number in range(5)]
    model.eval()
    with torch.no_grad():
        loss = row_a_caption(model, videos, [list(captions) for captions in data.captions])
    settings = DecodingSettings(
        entry_length=8, use_beam_search=beam_size > 1, beam_size=beam_size, complete=model.whole_captions,
        length_penalty=model.length_penalty,
    )  # fmt: skip
    said = {}
    for record, video in zip(records, videos, strict=True):
        with torch.inference_mode():
            (hypotheses,) = decode(model.start(*stack_features([video]), 8), 1, model.stop_tokens, settings)
        said[record.video_id] = model.decode_tokens(hypotheses[0].tokens, hypotheses[0].stop_token)
    # What a random model says is in no reference; of some videos it is the reference here.
    referred = [
        replace(one, captions=[said[one.video_id]]) if number % 2 else one for number, one in enumerate(records)
    ]
    expected, _ = cider(said, {one.video_id: one.captions for one in referred})
    assert expected > 0

    model.train()
    for batch_size in (2, 5):
        found = validate(model, data, referred, batch_size, 8, beam_size, ("CIDEr", "Bleu_1"))
        assert model.training
        assert found.loss == pytest.approx(loss.item(), rel=1e-4)
        assert found.figures["CIDEr"] == pytest.approx(expected)
        assert found.figures.keys() == {"CIDEr", "Bleu_1"}
        assert found.example == said["video0"]
