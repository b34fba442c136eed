"""Evidence, and the log-probabilities under it, against scores that are computed plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.evidence import explain, stretches
from clipcap_video.captioning.predictions import Caption, FrameEvidence, Prediction, PredictionFile
from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.forced import forced_logprobs
from clipcap_video.features.base import stack_features
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import write_features
from clipcap_video.models.checkpoint import CheckpointInfo
from clipcap_video.models.language_model import load_language_model
from clipcap_video.models.mapping import MAPPING_NETWORKS
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.prefix import CaptionerConfig, PrefixCaptioner
from tests.tiny import WIDTH, captions_of, features_of, fingerprint


def build(tiny_lm: Path, mapping_type: str = "transformer", max_frames: int = 30) -> Captioner:
    """A random captioner whose captions depend on the frames."""
    torch.manual_seed(0)
    language_model, tokenizer = load_language_model(str(tiny_lm))
    mapping = MappingConfig(mapping_type, WIDTH, 32, prefix_length=4, max_frames=max_frames, num_layers=2)
    model = PrefixCaptioner(CaptionerConfig(mapping, "tiny", "none", only_prefix=False), language_model, tokenizer)
    for parameter in model.mapping.parameters():
        parameter.data.normal_(std=1.0)
    return Captioner(model, CheckpointInfo(fingerprint()), Path("nowhere"), torch.device("cpu"), "fp32")


def plain_logprob(captioner: Captioner, features: np.ndarray, text: str) -> float:
    """Of one caption and its end, in one pass without a cache."""
    model = captioner.model
    tokens = torch.tensor([model.encode_caption(text, 40)])
    with torch.no_grad():
        prefix = model.mapping(*stack_features([features]))
        embedded = torch.cat([prefix, model.language_model.get_input_embeddings()(tokens)], dim=1)
        logits = model.language_model(inputs_embeds=embedded).logits[:, prefix.shape[1] - 1 : -1]
    return float(logits.log_softmax(-1).gather(2, tokens[:, :, None]).sum())


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


def test_stretches_cover_all_frames_once_and_are_equal() -> None:
    assert stretches(3) == [(0, 0), (1, 1), (2, 2)]
    assert stretches(28) == [(0, 3), (4, 7), (8, 11), (12, 15), (16, 18), (19, 21), (22, 24), (25, 27)]
    assert stretches(0) == []


@pytest.mark.parametrize("mapping_type", list(MAPPING_NETWORKS))
def test_evidence_is_what_is_lost_without_the_frames(tiny_lm: Path, tmp_path: Path, mapping_type: str) -> None:
    captioner = build(tiny_lm, mapping_type)
    lengths = {"video0": 3, "video1": 1, "video2": 19, "video3": 8}
    for number, (video, frames) in enumerate(lengths.items()):
        # Frames that differ, unlike those of `features_of`: otherwise none would be missed.
        features = np.random.default_rng(number).normal(size=(frames, WIDTH)).astype(np.float32)
        write_features(tmp_path, video, features, np.arange(frames), fingerprint())
    predictions = [Prediction(video, [Caption(captions_of(n)[0], -1, -1, 1)]) for n, video in enumerate(lengths)]
    predictions += [Prediction("unknown", predictions[0].captions), Prediction("video3", [])]
    store = open_features(tmp_path)
    found = explain(captioner.model, store, predictions, captioner.device, captioner.precision, batch_size=5)
    assert [len(prediction.evidence) for prediction in found] == [3, 0, 8, 8, 0, 0]
    for prediction in found:
        if not prediction.evidence:
            continue
        features = store.load(prediction.video).features
        whole = plain_logprob(captioner, features, prediction.text)
        for part in prediction.evidence:
            rest = np.concatenate([features[: part.first], features[part.last + 1 :]])
            assert part.drop == pytest.approx(whole - plain_logprob(captioner, rest, prediction.text), abs=3e-4)
        assert np.std([part.drop for part in prediction.evidence]) > 1e-3


def test_evidence_counts_the_frames_that_the_model_saw(tiny_lm: Path, tmp_path: Path) -> None:
    captioner = build(tiny_lm, max_frames=4)
    write_features(tmp_path, "video0", features_of(0, 11), np.arange(11), fingerprint())
    store = open_features(tmp_path)
    (found,) = explain(
        captioner.model,
        store,
        captioner.caption_store(store, ["video0"]),
        captioner.device,
        captioner.precision,
    )
    assert [part.first for part in found.evidence] == [0, 1, 2, 3]
    assert len(found.timestamps) == 4


def test_evidence_survives_the_file(tmp_path: Path) -> None:
    evidence = [FrameEvidence(0, 2, 1.5), FrameEvidence(3, 3, -0.25)]
    given = Prediction("a", [Caption("x", -1.0, -1.0, 1)], [0.0, 1.0, 2.0, 3.0], evidence=evidence)
    PredictionFile("m", None, {}, [given]).save(tmp_path / "p.json")
    assert PredictionFile.load(tmp_path / "p.json").predictions[0].evidence == evidence
