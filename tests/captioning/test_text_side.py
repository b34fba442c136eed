"""Captions in the order of how well they fit, against sums over all of them done by hand."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.config import InferConfig, chosen_settings
from clipcap_video.captioning.ranking import FIT_IN_CIDER, FIT_IN_LOGPROB
from clipcap_video.captioning.run import with_defaults_of
from clipcap_video.captioning.text_side import load_text_side
from clipcap_video.consensus.network import ConsensusConfig, ConsensusRanker
from clipcap_video.consensus.table import NgramTable
from clipcap_video.decoding import DecodingSettings
from clipcap_video.encoders import load_encoder, load_text_encoder
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.metrics.cider import caption_words
from clipcap_video.models.base import TrainingFacts
from clipcap_video.models.checkpoint import CONSENSUS, CheckpointInfo, save_checkpoint
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.retrieval.model import load_retrieval, save_retrieval
from clipcap_video.training.config import TrainConfig
from tests.commands import refused
from tests.retrieval.test_model import model as retrieval_model
from tests.tiny import captions_of, fingerprint
from tests.tiny_clip import EMBED_DIM, save_tiny_clip, tiny_clip

CPU = torch.device("cpu")
BEAMS = DecodingSettings(beam_size=6, num_return=6, entry_length=12, complete=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path) -> Path:
    """An untrained captioner on features of a tiny CLIP, with a consensus network that knows nothing either."""
    folder = tmp_path_factory.mktemp("fit")
    encoder = load_encoder(str(save_tiny_clip(folder / "clip.pt")), CPU)
    made = Fingerprint(encoder.name, encoder.weights_digest, encoder.preprocessing, fingerprint().sampling, False)
    config = TrainConfig(data=folder, caption=[folder], lm=str(tiny_lm), num_layers=1, prefix_length=4)
    captioner = PrefixCaptioner.build(config, TrainingFacts(EMBED_DIM, 8, []))

    def add_network(partial: Path) -> None:
        torch.manual_seed(1)
        table = NgramTable.of([[caption_words(text) for text in captions_of(number)] for number in range(9)], 200)
        ConsensusRanker(ConsensusConfig(EMBED_DIM, 8), table).save(partial / CONSENSUS)

    save_checkpoint(folder / "model", captioner, CheckpointInfo(made), extra=add_network)
    return folder


@pytest.fixture(scope="module")
def captioner(folder: Path) -> Captioner:
    return Captioner.from_pretrained(folder / "model", device="cpu", precision="fp32")


def videos() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(frames, EMBED_DIM)).astype(np.float32) for frames in (3, 1, 5)]


def cosines_by_hand(features: np.ndarray, texts: list[str]) -> list[float]:
    import clip

    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    said = tiny_clip().encode_text(clip.tokenize(texts)).double().numpy()
    mean = unit.mean(0)
    return (said @ mean / np.linalg.norm(said, axis=1) / np.linalg.norm(mean)).tolist()


def test_clip_adds_fit_to_the_language_model(captioner: Captioner) -> None:
    plain = captioner.caption_features(videos(), replace(BEAMS, rerank="none"))
    found = captioner.caption_features(videos(), replace(BEAMS, rerank="clip"))
    best = captioner.caption_features(videos(), replace(BEAMS, rerank="clip", num_return=1))
    changed = 0
    for features, before, after, first in zip(videos(), plain, found, best, strict=True):
        texts = [captioner.model.decode_tokens(one.tokens, one.stop_token) for one in before]
        fits = [100 * cosine for cosine in cosines_by_hand(features, texts)]
        worth = [one.score + FIT_IN_LOGPROB * fit for one, fit in zip(before, fits, strict=True)]
        expected = sorted(range(6), key=lambda place: (before[place].ended, worth[place]), reverse=True)
        assert [one.tokens for one in after] == [before[place].tokens for place in expected]
        assert first[0].tokens == after[0].tokens
        assert after[0].expected_cider is None
        changed += after[0].tokens != before[0].tokens
    assert changed


@pytest.mark.parametrize("caution", [0.0, 2.0])
def test_both_adds_fit_to_what_the_network_expects(captioner: Captioner, caution: float) -> None:
    settings = replace(BEAMS, caution=caution)
    asked = replace(settings, num_return=6)
    plain = captioner.caption_features(videos(), replace(asked, rerank="consensus"))
    found = captioner.caption_features(videos(), replace(asked, rerank="both"))
    ranker = captioner.ranker
    assert ranker is not None
    for features, before, after in zip(videos(), plain, found, strict=True):
        texts = [captioner.model.decode_tokens(one.tokens, one.stop_token) for one in before]
        words = [caption_words(text, one.ended) for text, one in zip(texts, before, strict=True)]
        frames = torch.from_numpy(features)[None]
        (judged,) = ranker.judge(frames, torch.ones(1, len(features), dtype=torch.bool), [words])
        fits = [100 * cosine for cosine in cosines_by_hand(features, texts)]
        worth = [one.merit(caution) + FIT_IN_CIDER * fit for one, fit in zip(judged, fits, strict=True)]
        expected = sorted(range(6), key=lambda place: (before[place].ended, worth[place]), reverse=True)
        assert [one.tokens for one in after] == [before[place].tokens for place in expected]
        assert all(one.expected_cider is not None for one in after)


def test_a_retrieval_model_reads_the_captions(tmp_path: Path) -> None:
    """Fits are what the model's own head gives of each pair."""
    words = load_text_encoder("starter", CPU)
    made = retrieval_model("seqTransf", text_encoder="starter", text_dim=words.dim, text_digest=words.weights_digest)
    save_retrieval(tmp_path / "out", made, CheckpointInfo())
    model, _ = load_retrieval(tmp_path / "out")
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    features = torch.randn(2, 4, 12) * mask[..., None]
    texts = [["a dog", "two men on a boat"], ["a man is singing"]]
    side = load_text_side(str(tmp_path / "out"), None, 12, CPU, encoder=lambda: pytest.fail("no encoder is needed"))
    frames = model.embed_frames(features, mask)
    expected = [model.similarity(model.embed_text(row), frames, mask)[:, number] for number, row in enumerate(texts)]
    for fits, wanted in zip(side.fit(features, mask, texts), expected, strict=True):
        torch.testing.assert_close(torch.tensor(fits), wanted, atol=1e-4, rtol=1e-4)


class Blind(ImageEncoder):
    """An encoder without a text side."""

    name = "blind"

    def preprocess(self, frames: Tensor) -> Tensor:
        return frames

    def encode_images(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 8)


def test_without_a_text_side_it_is_refused(tmp_path: Path, captioner: Captioner) -> None:
    with pytest.raises(ClipcapError, match=r"encoder blind has no text side.*--rerank_model$"):
        load_text_side(None, fingerprint(), 8, CPU, Blind)
    save_retrieval(tmp_path / "tight", retrieval_model("tightTransf"), CheckpointInfo())
    with pytest.raises(ClipcapError, match="tightTransf"):
        load_text_side(str(tmp_path / "tight"), None, 12, CPU, Blind)
    save_retrieval(tmp_path / "other", retrieval_model("meanP"), CheckpointInfo(fingerprint()))
    trained_on = captioner.info.fingerprint
    with pytest.raises(ClipcapError, match="reads features of"):
        load_text_side(str(tmp_path / "other"), trained_on, EMBED_DIM, CPU, Blind)
    with pytest.raises(ClipcapError, match="rerank is 'best'"):
        DecodingSettings(rerank="best")  # type: ignore[arg-type]


def test_the_network_says_which_order_is_the_default(folder: Path, captioner: Captioner, tmp_path: Path) -> None:
    ranker = captioner.ranker
    assert ranker is not None
    assert captioner.default_settings().rerank == "consensus"
    shutil.copytree(folder / "model", tmp_path / "model")
    before, ranker.config = ranker.config, replace(ranker.config, rerank="both")
    ranker.save(tmp_path / "model" / CONSENSUS)
    ranker.config = before
    other = Captioner.from_pretrained(tmp_path / "model", device="cpu")
    assert other.default_settings().rerank == "both"
    chosen: list[tuple[dict[str, Any], str]] = [({}, "both"), ({"rerank": "consensus"}, "consensus")]
    for given, expected in chosen:
        config = InferConfig(**given)
        assert with_defaults_of(chosen_settings(config), other, config).rerank == expected


def test_commands_refuse_what_has_no_effect(folder: Path) -> None:
    asked = ("clipcap-video", "infer", "--model_dir", folder / "model", "--features", folder, "--device", "cpu")
    assert "--rerank_model belongs to --rerank clip" in refused(*asked, "--rerank_model", folder)
    assert "--caution has no effect with --rerank clip" in refused(*asked, "--rerank", "clip", "--caution", 1)
    assert "--no_consensus has no effect with --rerank both" in refused(*asked, "--rerank", "both", "--no_consensus")
