"""Captions in the order of what a consensus network expects of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.predictions import Caption
from clipcap_video.consensus.network import ConsensusConfig, ConsensusRanker, Judgement
from clipcap_video.consensus.table import NgramTable
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.models.checkpoint import CONSENSUS
from tests.tiny import WIDTH


def merit(caption: Caption) -> float:
    assert caption.expected_cider is not None
    assert caption.support is not None
    return Judgement(caption.expected_cider, caption.support, 1.0).merit(0.0)


def test_hypotheses_come_in_its_order(ranked: Path) -> None:
    captioner = Captioner.from_pretrained(ranked / "out", device="cpu")
    store = open_features(ranked / "features")
    ids = [f"video{number}" for number in range(108, 120)]
    settings = DecodingSettings(beam_size=6, num_return=6, length_penalty=captioner.model.length_penalty)
    plain = captioner.caption_store(store, ids, DecodingSettings(**{**vars(settings), "rerank": "none"}))
    found = captioner.caption_store(store, ids, settings)
    for before, after in zip(plain, found, strict=True):
        assert sorted(caption.text for caption in before.captions) == sorted(caption.text for caption in after.captions)
        assert all(caption.expected_cider is caption.support is None for caption in before.captions)
        merits = [merit(caption) for caption in after.captions if not caption.cut]
        assert merits == sorted(merits, reverse=True)
    best = captioner.caption_store(store, ids, DecodingSettings(**{**vars(settings), "num_return": 1}))
    assert [one.text for one in best] == [one.text for one in found]
    alone = [captioner.caption_store(store, [name], settings)[0] for name in ids]
    assert [one.text for one in alone] == [one.text for one in found]


def test_what_cannot_be_read_is_one_sentence(ranked: Path, tmp_path: Path) -> None:
    shutil.copytree(ranked / "out" / "best", tmp_path / "copy")
    file = tmp_path / "copy" / CONSENSUS
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ClipcapError, match=r"cannot read the consensus network .* train-consensus"):
        Captioner.from_pretrained(tmp_path / "copy", device="cpu")
    other = ConsensusRanker(ConsensusConfig(WIDTH + 1), NgramTable.of([[["a"]], [["b"]]], 10))
    other.save(file)
    with pytest.raises(ClipcapError, match=f"reads features {WIDTH + 1} wide"):
        Captioner.from_pretrained(tmp_path / "copy", device="cpu")
