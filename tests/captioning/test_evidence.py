"""Evidence, and the log-probabilities under it, against scores that are computed plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipcap_video.captioning.evidence import explain, stretches
from clipcap_video.captioning.predictions import Caption, FrameEvidence, Prediction, PredictionFile
from clipcap_video.features.layouts import open_features
from clipcap_video.features.store import write_features
from clipcap_video.models.mapping import MAPPING_NETWORKS
from tests.captioning.conftest import build, plain_logprob
from tests.tiny import WIDTH, captions_of, features_of, fingerprint


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
