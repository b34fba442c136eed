"""Which of a captioner's own captions people would most agree on: a network that expects the CIDEr of any caption.

    frame features [B, T, D] -> mean and maximum over frames -> one hidden layer -> p [B, G]

p[g] is the share of people who would use n-gram g (of one to four words) of this video. A caption's CIDEr (Vedantam et
al., CVPR 2015) is a sum over its n-grams of its weight times theirs, so what it can be expected to score follows from p
without a reference, and the hypotheses of beam search are ranked by it. The choice is that of minimum Bayes risk (Kumar
and Byrne, HLT-NAACL 2004) with CIDEr for the utility. It is predicted from the frames, not counted over samples
or over captions of similar videos (Devlin et al., arXiv 1505.04467), and so owes nothing to the captioner.

CIDEr asks how much of what people say a caption has, and hardly whether they say what it has. So the caption's support
counts beside it: the share of its words, each by its rarity, that one person at least would use of the video. Or, with
caution, its sureness: the product over its content words of the probability that one person at least uses each. From
that follows, calibrated on the validation split, the probability that it holds no wrong word.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from clipcap_video.consensus.caution import Words, content_words, stem
from clipcap_video.consensus.config import UNSURE_BELOW, Order
from clipcap_video.consensus.table import NgramTable, length_penalty
from clipcap_video.files import open_safetensors, whole_file
from clipcap_video.metrics.cider import LONGEST, count_ngrams, vector_norms
from clipcap_video.runs.field_types import check_types

# People who caption one video agree. That one of the twenty of an MSR-VTT video uses a word is as likely as among so
# many who know nothing of each other (7 to 10 of them, for words that 5 to 40 % use; counted on the validation split).
INDEPENDENT_PEOPLE = 8
# The same for words whose endings do not matter, and so for whether they are right.
INDEPENDENT_JUDGES = 6
# A word that is not in the table: the probability that somebody uses it.
UNKNOWN_SAID = 0.02
# What full support is worth in CIDEr, on its scale of 0 to 10.
SUPPORT_WORTH = 0.5


@dataclass(frozen=True)
class Calibration:
    """From a caption's sureness to the probability that it holds no wrong word: sigmoid(slope * logit + intercept).

    caution: with which the captions were chosen that it was fitted on (Platt scaling). unsure_below: captions of a
    lower probability are not to be relied on.
    """

    caution: float
    slope: float = 1.0
    intercept: float = 0.0
    unsure_below: float = 0.5

    def probability(self, sureness: float) -> float:
        clipped = min(max(sureness, 1e-3), 1 - 1e-3)
        return 1 / (1 + math.exp(-self.slope * math.log(clipped / (1 - clipped)) - self.intercept))


@dataclass(frozen=True)
class ConsensusConfig:
    """feature_dim: D. hidden_dim: width of the hidden layer. dropout: in training, before both layers.

    unsure_below: captions of less support than this are not to be relied on, where there is no calibration.
    calibrations: one for each caution that was tried on the validation split; the first is that of the default.
    rerank: consensus or both, the order that they are of, and the default; see `DecodingSettings.rerank`.
    """

    feature_dim: int
    hidden_dim: int = 384
    dropout: float = 0.5
    unsure_below: float = UNSURE_BELOW
    calibrations: tuple[Calibration, ...] = ()
    rerank: Order = "consensus"

    def calibration(self, caution: float) -> Calibration | None:
        """The one for the nearest caution."""
        return min(self.calibrations, key=lambda one: abs(one.caution - caution), default=None)


@dataclass(frozen=True)
class Judgement:
    """What a caption can be expected to be worth.

    cider: its CIDEr, 0 to 10 (as `CiderReward`). support: the share of its words that somebody would say, 0 to 1.
    sureness: the product of the probabilities that somebody says each content word, endings left out; 0 to 1.
    """

    cider: float
    support: float
    sureness: float

    def merit(self, caution: float) -> float:
        """What captions are ranked by."""
        return self.cider + (caution * self.sureness if caution else SUPPORT_WORTH * self.support)


def pooled_frames(features: Tensor, mask: Tensor) -> Tensor:
    """features [B, T, D], mask [B, T] bool -> mean and maximum over the real frames, [B, 2D]."""
    real = mask.unsqueeze(-1)
    mean = features.masked_fill(~real, 0.0).sum(1) / real.sum(1)
    highest = features.masked_fill(~real, float("-inf")).amax(1)
    return torch.cat([mean, highest], dim=-1)


class ConsensusRanker(nn.Module):
    """Predicts which n-grams people use of a video, and from that what a caption can be expected to score."""

    mean: Tensor
    std: Tensor
    rarity: Tensor
    unknown: Tensor
    weight: Tensor
    lengths: Tensor

    def __init__(self, config: ConsensusConfig, table: NgramTable) -> None:
        super().__init__()
        self.config = config
        self.ngrams = list(table.ngrams)
        self._place = {ngram: place for place, ngram in enumerate(self.ngrams)}
        # Word stems, and for each n-gram of one word which of them it has.
        self._stems: dict[str, list[int]] = defaultdict(list)
        for ngram, place in self._place.items():
            if len(ngram) == 1:
                self._stems[stem(ngram[0])].append(place)
        width = 2 * config.feature_dim
        # Of the pooled features of the training videos: encoders differ in scale, and so do their dimensions.
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        for name in ("rarity", "unknown", "weight", "lengths"):
            self.register_buffer(name, getattr(table, name).float())
        self.layers = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(width, config.hidden_dim),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden_dim, len(self.ngrams)),
        )

    @classmethod
    def folded(cls, rankers: Sequence[ConsensusRanker]) -> ConsensusRanker:
        """One network with the hidden units of all, whose logits are the mean of theirs; all read the same inputs."""
        first, states = rankers[0], [ranker.state_dict() for ranker in rankers]
        table = NgramTable(first.ngrams, first.rarity, first.unknown, first.weight, first.lengths)
        width = sum(ranker.config.hidden_dim for ranker in rankers)
        state = states[0] | {
            "layers.1.weight": torch.cat([each["layers.1.weight"] for each in states]),
            "layers.1.bias": torch.cat([each["layers.1.bias"] for each in states]),
            "layers.4.weight": torch.cat([each["layers.4.weight"] for each in states], dim=1) / len(states),
            "layers.4.bias": torch.stack([each["layers.4.bias"] for each in states]).mean(0),
        }
        one = cls(replace(first.config, hidden_dim=width), table)
        one.load_state_dict(state)
        return one.eval()

    def narrowed(self, places: Sequence[int]) -> ConsensusRanker:
        """The same network of some of its n-grams."""
        kept = torch.tensor(places, dtype=torch.long)
        table = NgramTable(
            [self.ngrams[place] for place in places], self.rarity[kept], self.unknown, self.weight[kept], self.lengths
        )
        last = [f"layers.4.{name}" for name in ("weight", "bias")]
        state = self.state_dict()
        one = ConsensusRanker(self.config, table)
        one.load_state_dict({**state, **{name: state[name][kept] for name in ("rarity", "weight", *last)}})
        return one.train(self.training)

    def pool(self, features: Tensor, mask: Tensor) -> Tensor:
        """features [B, T, D], mask [B, T] bool -> mean and maximum over the real frames, standardised, [B, 2D]."""
        return (pooled_frames(features, mask) - self.mean) / self.std

    def forward(self, pooled: Tensor) -> Tensor:
        """pooled: [B, 2D], by `pool` -> logits of p, [B, G]."""
        return self.layers(pooled)

    def targets(self, captions: Iterable[Sequence[str]]) -> Tensor:
        """p as the captions of one video have it: the share of them that has each n-gram, float32 [G]."""
        lists = list(captions)
        places = [self._place[ngram] for words in lists for ngram in count_ngrams(words) if ngram in self._place]
        return torch.bincount(torch.tensor(places, dtype=torch.long), minlength=len(self.ngrams)) / len(lists)

    def is_unsure(self, judgement: Judgement, caution: float) -> bool:
        """Whether a caption is not to be relied on: by its probability, or without a calibration by its support."""
        calibration = self.config.calibration(caution)
        if calibration is None:
            return judgement.support < self.config.unsure_below
        return calibration.probability(judgement.sureness) < calibration.unsure_below

    @property
    def caution(self) -> float:
        """The default of this network; 0 without a calibration."""
        return self.config.calibrations[0].caution if self.config.calibrations else 0.0

    @property
    def known(self) -> Mapping[Words, int]:
        """The n-grams, each with its place."""
        return self._place

    def rarity_of(self, word: str) -> float:
        """log(videos / videos with a caption that has the word), in nats."""
        place = self._place.get((word,))
        return float(self.unknown[0] if place is None else self.rarity[place])

    @torch.inference_mode()
    def judge(
        self, features: Tensor, mask: Tensor, captions: Sequence[Sequence[Sequence[str]]]
    ) -> list[list[Judgement]]:
        """What can be expected of each of the captions of B videos, given as lists of words by `caption_words`.

        features: [B, T, D]; mask: [B, T] bool. References are taken to be as long as captions are on the whole.
        """
        shares = self(self.pool(features.float(), mask)).sigmoid()  # [B, G]
        worth = (shares * self.weight).tolist()
        said = (1 - (1 - shares) ** INDEPENDENT_PEOPLE).tolist()
        by_stem = self._said_stems(shares)
        rarity, unknown, lengths = self.rarity.tolist(), self.unknown.tolist(), self.lengths.tolist()
        return [
            [
                Judgement(
                    length_penalty(len(words), lengths) * self._expected_cider(words, own_worth, rarity, unknown),
                    self._support(words, own_said, rarity, unknown[0]),
                    math.prod(own_stems.get(stem(word), UNKNOWN_SAID) for word in content_words(words)),
                )
                for words in texts
            ]
            for texts, own_worth, own_said, own_stems in zip(captions, worth, said, by_stem, strict=True)
        ]

    def _expected_cider(
        self, words: Sequence[str], worth: list[float], rarity: list[float], unknown: list[float]
    ) -> float:
        weights, gains = {}, [0.0] * LONGEST
        for ngram, times in count_ngrams(words).items():
            place, order = self._place.get(ngram), len(ngram) - 1
            weights[ngram] = times * (unknown[order] if place is None else rarity[place])
            if place is not None:
                gains[order] += weights[ngram] * worth[place]
        cosines = (gain / norm for gain, norm in zip(gains, vector_norms(weights), strict=True) if norm)
        return 10 * sum(cosines) / LONGEST

    def _said_stems(self, shares: Tensor) -> list[dict[str, float]]:
        """For each video, by stem: the probability that one person at least uses a word of it. shares: [B, G]."""
        sums = [shares[:, places].sum(1).clamp(max=1) for places in self._stems.values()]
        said = (1 - (1 - torch.stack(sums, dim=1)) ** INDEPENDENT_JUDGES).tolist()
        return [dict(zip(self._stems, row, strict=True)) for row in said]

    def _support(self, words: Sequence[str], said: list[float], rarity: list[float], unknown: float) -> float:
        supported = total = 0.0
        for word, times in Counter(words).items():
            place = self._place.get((word,))
            weight = unknown if place is None else rarity[place]
            # A word is supported once: nobody rides "a horse on a horse".
            total += times * weight
            supported += weight * (0.0 if place is None else said[place])
        return supported / total if total else 0.0

    def save(self, file: Path) -> None:
        """Writes the network with its n-grams as one file, in float16 what is large; whole or not at all."""
        from safetensors.torch import save

        tensors = {
            name: (tensor.half() if tensor.dim() == 2 else tensor.float()).contiguous().cpu()
            for name, tensor in self.state_dict().items()
        }
        described = {
            "hidden_dim": self.config.hidden_dim,
            "dropout": self.config.dropout,
            "unsure_below": self.config.unsure_below,
            "calibrations": [asdict(one) for one in self.config.calibrations],
            "rerank": self.config.rerank,
            "ngrams": [" ".join(ngram) for ngram in self.ngrams],
        }
        with whole_file(file) as partial:
            partial.write_bytes(save(tensors, {"consensus": json.dumps(described)}))

    @classmethod
    def load(cls, file: Path, remedy: str = "make it anew with clipcap-video train-consensus") -> ConsensusRanker:
        """Reads what `save` wrote, in eval mode. remedy: what to do if it cannot be read.

        Raises ClipcapError when the file is damaged or something else.
        """
        with open_safetensors(file, "the consensus network", remedy) as opened:
            described = json.loads(opened.metadata()["consensus"])
            tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118 (no dict)
            ngrams = [tuple(text.split(" ")) for text in described["ngrams"]]
            table = NgramTable(ngrams, tensors["rarity"], tensors["unknown"], tensors["weight"], tensors["lengths"])
            config = ConsensusConfig(
                len(tensors["mean"]) // 2,
                described["hidden_dim"],
                described["dropout"],
                described.get("unsure_below", UNSURE_BELOW),
                tuple(Calibration(**one) for one in described.get("calibrations", ())),
                described.get("rerank", "consensus"),
            )
            _check(config, table)
            # Without storage until the tensors are in their places: sizes are believed last.
            with torch.device("meta"):
                ranker = cls(config, table)
            ranker.load_state_dict(tensors, assign=True)
            if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
                raise ValueError("some of its weights are no finite numbers")
        return ranker.eval()


def _check(config: ConsensusConfig, table: NgramTable) -> None:
    """Raises an error where numbers of a network cannot be, or are not as many as its n-grams."""
    for one in (config, *config.calibrations):
        check_types(one)
    if not 0 <= config.dropout < 1:
        raise ValueError(f"a dropout of {config.dropout}")
    numbers = [number for one in config.calibrations for number in asdict(one).values()]
    if not all(map(math.isfinite, [config.unsure_below, *numbers])):
        raise ValueError("its calibration has no finite numbers")
    if len(set(table.ngrams)) < len(table.ngrams):
        raise ValueError("an n-gram is there twice")
    counts = {"rarity": len(table.ngrams), "weight": len(table.ngrams), "unknown": LONGEST}
    for name, count in counts.items():
        if getattr(table, name).shape != (count,):
            raise ValueError(f"{name} has the shape {list(getattr(table, name).shape)}, not [{count}]")
    if table.lengths.dim() != 1 or not len(table.lengths):
        raise ValueError("it does not know how long captions are")
