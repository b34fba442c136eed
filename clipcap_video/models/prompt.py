"""A prompt of words: what a consensus network expects people to say of a video, for a language model to read.

Likely words stand beside the prefix as in CARE (Yang et al., IEEE TIP 2023) and ViECap (Fei et al., ICCV 2023),
captions of other videos as in SmallCap (Ramos et al., CVPR 2023) and EVCap (Li et al., CVPR 2024). One network
chooses both from the frames: no text encoder takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clipcap_video.consensus.caution import content_words, stem
from clipcap_video.consensus.memory import CaptionMemory
from clipcap_video.consensus.network import ConsensusRanker
from clipcap_video.errors import ClipcapError

# The files of a checkpoint.
WORDS, MEMORY = "words.safetensors", "memory.safetensors"
WORD_TOKENS = 3  # a word of more is left out
CAPTION_TOKENS = 14  # a caption of more is cut
# Captions of the memory that compete with the beams.
CANDIDATES = 20


def prompt_lengths(words: int, captions: int) -> tuple[int, int]:
    """Tokens that so many words take, a quarter of them with two tokens, and those that so many captions take.

    Raises ValueError for what is no number of them.
    """
    if min(words, captions) < 0:
        raise ValueError(f"a prompt of {words} words and {captions} captions")
    return words + words // 4, CAPTION_TOKENS * captions


class Prompter:
    """Chooses what a language model is to read of each video. On the CPU, wherever the captioner is: it chooses alike.

    words, captions: how many. memory: where captions come from; None without them. encode: texts -> tokens. end: the
    end token, which stands wherever there is nothing to say.
    """

    def __init__(
        self,
        ranker: ConsensusRanker,
        memory: CaptionMemory | None,
        words: int,
        captions: int,
        encode: Callable[[list[str]], list[list[int]]],
        end: int,
    ) -> None:
        self.ranker, self.memory = ranker, memory
        self.words, self.captions = words, captions
        self.encode, self.end = encode, end
        said = [ngram[0] for ngram in ranker.ngrams if len(ngram) == 1 and content_words(ngram)]
        # Each with its stem and its tokens, as they are within a caption.
        known = zip(said, map(stem, said), encode([f" {word}" for word in said]), strict=True)
        self._words = [entry for entry in known if len(entry[2]) <= WORD_TOKENS] if words else []
        self._places = [ranker.known[word,] for word, _, _ in self._words]

    @torch.no_grad()
    def shares(self, features: Tensor, mask: Tensor) -> Tensor:
        """features [B, T, D], mask [B, T] bool -> the shares of people that the network expects, [B, G]."""
        with torch.autocast("cpu", enabled=False):
            return self.ranker(self.ranker.pool(features.float().cpu(), mask.cpu())).sigmoid()

    def tokens(self, shares: Tensor, without: Sequence[int] | None = None) -> Tensor:
        """The prompts of shares [B, G]: int64 [B, H]. without: of each, the video whose captions it may not have."""
        lengths = prompt_lengths(self.words, self.captions)
        rows = [[token for _, tokens in words for token in tokens] for words in self.likeliest(shares)]
        prompt = self._padded(rows, lengths[0])
        if self.memory is None:
            return prompt
        found = self.memory.best(shares, self.captions, without)
        encoded = iter(self.encode([text for texts in found for text in texts]))
        rows = [[token for _ in texts for token in self._ended(next(encoded))] for texts in found]
        return torch.cat([prompt, self._padded(rows, lengths[1])], dim=1)

    def likeliest(self, shares: Tensor) -> list[list[tuple[str, list[int]]]]:
        """Words with their tokens, likeliest first: of each stem the likeliest form, as many as there is room for."""
        room, _ = prompt_lengths(self.words, self.captions)
        chosen = []
        for order in shares[:, self._places].argsort(dim=1, descending=True, stable=True).tolist():
            taken: dict[str, tuple[str, list[int]]] = {}
            left = room
            for place in order:
                word, root, tokens = self._words[place]
                if root in taken:
                    continue
                if len(taken) == self.words or len(tokens) > left:
                    break
                taken[root] = word, tokens
                left -= len(tokens)
            chosen.append(list(taken.values()))
        return chosen

    def candidates(self, features: Tensor, mask: Tensor) -> list[list[str]]:
        """The best captions of the memory for each video, which has to be there."""
        assert self.memory is not None
        return self.memory.best(self.shares(features, mask), CANDIDATES)

    def _ended(self, caption: list[int]) -> list[int]:
        """CAPTION_TOKENS of them, the last of which ends it."""
        kept = caption[: CAPTION_TOKENS - 1]
        return kept + [self.end] * (CAPTION_TOKENS - len(kept))

    def _padded(self, rows: Sequence[list[int]], length: int) -> Tensor:
        padded = [tokens + [self.end] * (length - len(tokens)) for tokens in rows]
        return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), length)

    def save(self, folder: Path) -> None:
        """Writes what `load` needs into a checkpoint."""
        self.ranker.save(folder / WORDS)
        if self.memory is not None:
            self.memory.save(folder / MEMORY)


def read_prompter(checkpoint: Path, feature_dim: int, captions: int) -> tuple[ConsensusRanker, CaptionMemory | None]:
    """The parts of a prompter in a checkpoint. Raises ClipcapError when one is missing, damaged or does not fit."""
    remedy = "the checkpoint is damaged, use another"
    ranker = ConsensusRanker.load(checkpoint / WORDS, remedy)
    if ranker.config.feature_dim != feature_dim:
        raise ClipcapError(
            f"{checkpoint / WORDS} reads features {ranker.config.feature_dim} wide and the captioner beside it "
            f"{feature_dim}; {remedy}"
        )
    return ranker, CaptionMemory.load(checkpoint / MEMORY, len(ranker.ngrams), remedy) if captions else None
