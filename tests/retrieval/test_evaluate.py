"""Scores of a checkpoint, against ranks that are counted one query at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.metrics.retrieval import RankScores
from clipcap_video.models.checkpoint import CheckpointInfo
from clipcap_video.retrieval.config import RetrievalEvaluationConfig
from clipcap_video.retrieval.evaluate import evaluate_checkpoint
from clipcap_video.retrieval.model import RetrievalConfig, RetrievalModel, load_retrieval, save_retrieval
from tests.bag_of_words import BagOfWords
from tests.conftest import TinyProject
from tests.tiny import WIDTH, captions_of, fingerprint


@pytest.fixture
def model(tiny_project: TinyProject, tmp_path: Path) -> Path:
    """An untrained model that says what it is of."""
    encoder = BagOfWords()
    torch.manual_seed(0)
    shape = RetrievalConfig("meanP", 8, WIDTH, encoder.dim, True, encoder.name, encoder.weights_digest)
    training = {"data": str(tiny_project.data), "caption": [str(tiny_project.caption)]}
    save_retrieval(tmp_path / "out", RetrievalModel(shape), CheckpointInfo(fingerprint(), training))
    return tmp_path / "out"


def evaluated(folder: Path, **options: Any) -> Any:
    return evaluate_checkpoint(RetrievalEvaluationConfig(model_dir=folder, device="cpu", **options))


def ranks_of_texts(folder: Path, store: Any, numbers: list[int], first: bool) -> list[int]:
    """Of each caption: how many videos are more like it than its own, plus one."""
    model, _ = load_retrieval(folder)
    vectors = []
    for number in numbers:
        frames = torch.from_numpy(store.load(f"video{number}").features)[None, : model.config.max_frames]
        with torch.inference_mode():
            of_frames = model.embed_frames(frames, torch.ones(frames.shape[:2], dtype=torch.bool))[0]
        vectors.append(torch.nn.functional.normalize(of_frames.mean(0), dim=0))
    ranks = []
    for place, number in enumerate(numbers):
        for caption in captions_of(number)[: 1 if first else None]:
            with torch.inference_mode():
                scores = torch.stack(vectors) @ model.embed_text([caption])[0]
            ranks.append(1 + int((scores > scores[place]).sum()))
    return ranks


@pytest.mark.parametrize(("split", "numbers"), [("test", range(30, 36)), ("validate", range(24, 30))])
@pytest.mark.parametrize("first", [False, True])
def test_it_scores_what_the_model_was_trained_on(
    model: Path, tiny_project: TinyProject, split: str, numbers: range, first: bool
) -> None:
    found = evaluated(model, split=split, first_caption=first)
    expected = ranks_of_texts(model, open_features(tiny_project.data), list(numbers), first)
    assert (found.split, found.videos, found.texts) == (split, 6, 6 if first else 18)
    assert found.text_to_video == RankScores.of(torch.tensor(expected))
    assert found.intervals == {}
    drawn = evaluated(model, split=split, first_caption=first, bootstrap=50)
    assert replace(drawn, intervals={}) == found
    low, high = drawn.intervals["text_to_video"]["MnR"]
    assert low <= found.text_to_video.MnR <= high


def test_what_is_missing_or_does_not_fit_is_one_sentence(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match="was trained on stored features; give --features, not --videos"):
        evaluated(model, videos=[tmp_path])
    with pytest.raises(ClipcapError, match="no split 'nowhere'"):
        evaluated(model, split="nowhere")
    loaded, info = load_retrieval(model)
    save_retrieval(tmp_path / "bare", loaded, replace(info, training={}))
    with pytest.raises(ClipcapError, match="does not say what it was trained on; give --annotations"):
        evaluated(tmp_path / "bare")
