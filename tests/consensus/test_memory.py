"""The memory of captions, against judging every caption by itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipcap_video.consensus.memory import CaptionMemory
from clipcap_video.consensus.network import ConsensusConfig, ConsensusRanker
from clipcap_video.consensus.table import NgramTable
from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.cider import caption_words

WORDS = ["a", "man", "is", "riding", "on", "the", "brown", "horse", "in", "field", "and", "two", "dogs", "run"]
REMEDY = "use another"


@pytest.fixture(scope="module")
def captions() -> list[list[str]]:
    """Of 30 videos, drawn; some are of several."""
    rng = random.Random(0)
    common = [" ".join(rng.sample(WORDS, 5)) for _ in range(6)]
    return [[" ".join(rng.sample(WORDS, rng.randint(1, 9))) for _ in range(4)] + [common[n % 6]] for n in range(30)]


@pytest.fixture(scope="module")
def ranker(captions: list[list[str]]) -> ConsensusRanker:
    """Fewer n-grams than the captions have."""
    torch.manual_seed(0)
    table = NgramTable.of([list(map(caption_words, texts)) for texts in captions], 150)
    return ConsensusRanker(ConsensusConfig(3, 8), table).eval()


def shares_of(ranker: ConsensusRanker, frames: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    return ranker(ranker.pool(frames, mask)).sigmoid().detach()


def test_it_chooses_what_judging_every_caption_would(captions: list[list[str]], ranker: ConsensusRanker) -> None:
    frames = 5 * torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(1))
    memory = CaptionMemory.of(captions, range(30), ranker)
    owner: dict[str, int] = {}
    for video, texts in enumerate(captions):
        for text in texts:
            owner.setdefault(text, video)
    assert list(memory.texts) == list(owner)
    judged = ranker.judge(frames, torch.ones(7, 2, dtype=torch.bool), [list(map(caption_words, owner))] * 7)
    expected = memory.expected(shares_of(ranker, frames))
    torch.testing.assert_close(expected, torch.tensor([[one.cider for one in row] for row in judged]))

    without = [int(memory.videos[row.argmax()]) for row in expected]  # of the best
    for count in (1, 3, 29, 200):
        found = memory.best(shares_of(ranker, frames), count, without)
        for row, own, texts in zip(judged, without, found, strict=True):
            ranked = sorted(zip(owner, row, strict=True), key=lambda pair: -pair[1].cider)
            brute: dict[int, str] = {}
            for text, _ in ranked:
                if owner[text] != own:
                    brute.setdefault(owner[text], text)
            assert texts == list(brute.values())[:count]
    assert memory.best(shares_of(ranker, frames), 1)[0] == [memory.texts[int(expected[0].argmax())]]


def test_it_is_saved_and_read_again(captions: list[list[str]], ranker: ConsensusRanker, tmp_path: Path) -> None:
    memory = CaptionMemory.of([["überall läuft", "a dog"], *captions], range(31), ranker)
    memory.save(tmp_path / "one")
    again = CaptionMemory.load(tmp_path / "one", len(ranker.ngrams), REMEDY)
    assert again.texts == memory.texts
    again.save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("wrong", ["texts", "videos", "starts", "columns", "values", "bytes"])
def test_a_damaged_one_is_refused(
    captions: list[list[str]], ranker: ConsensusRanker, tmp_path: Path, wrong: str
) -> None:
    file = tmp_path / "memory.safetensors"
    CaptionMemory.of(captions, range(30), ranker).save(file)
    if wrong == "bytes":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        tensors = load_file(file)
        changed = {
            "texts": tensors["texts"][:40],
            "videos": tensors["videos"].long(),
            "starts": tensors["starts"].flip(0),
            "columns": tensors["columns"] + 100,
            "values": tensors["values"] / 0,
        }
        save_file(tensors | {wrong: changed[wrong].contiguous()}, file)
    with pytest.raises(ClipcapError, match=rf"the memory of captions {file} .*; use another$"):
        CaptionMemory.load(file, len(ranker.ngrams), REMEDY)
