"""Self-critical sequence training: captions are sampled, and those that score a higher CIDEr become likelier.

Rennie et al., CVPR 2017: the gradient of the expected reward is that of -(r(w) - b) log p(w) for a sampled caption w,
where the baseline b does not depend on w. It is the reward of the greedy caption there (their equation 9), or here
the mean reward of the video's other samples, which costs no further decoding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.hypotheses import Hypothesis
from clipcap_video.decoding.search import decode
from clipcap_video.features.base import stack_features
from clipcap_video.metrics.cider import CiderReward, caption_words
from clipcap_video.models.base import CaptionModel
from clipcap_video.models.packing import PackedCaptions, pack
from clipcap_video.training.data import LONGEST_CAPTION, CaptionData, EpochOrder
from clipcap_video.training.objectives.base import Objective


class SelfCritical(Objective):
    """Makes training batches of sampled captions, each weighted by how far its reward lies above the baseline.

    samples: captions drawn for each video. baseline: "mean" of the other samples, or "greedy".
    top_p: samples are drawn from the fewest likeliest tokens whose probabilities sum to at least this. Without the
    tail, which label smoothing makes heavy, most samples would hold a word that fits nothing, the more of them the
    longer they are, and what is learned first would be to end early.
    max_tokens: longest sample; one that reaches it has no end token, in the loss as in the reward.
    """

    def __init__(
        self,
        model: CaptionModel,
        data: CaptionData,
        records: Sequence[VideoRecord],
        *,
        samples: int,
        baseline: str,
        top_p: float,
        max_tokens: int,
        seed: int,
    ) -> None:
        super().__init__(model)
        self.data = data
        self.samples, self.baseline, self.top_p = samples, baseline, top_p
        self.max_tokens, self.seed = max_tokens, seed
        self.reward = CiderReward(
            {record.video_id: [caption_words(caption) for caption in record.captions] for record in records}
        )
        self.mean_reward = 0.0
        """CIDEr of the last batch's samples, end token counted, times 1."""
        self.reward_seconds = 0.0
        """Time spent on rewards so far."""

    @classmethod
    def build(
        cls, config: Any, captioner: CaptionModel, data: CaptionData, records: Sequence[VideoRecord]
    ) -> SelfCritical:
        return cls(
            captioner,
            data,
            records,
            samples=config.samples,
            baseline=config.baseline,
            top_p=config.sample_top_p,
            max_tokens=min(LONGEST_CAPTION, config.max_caption_tokens),
            seed=config.seed,
        )

    def forward(self, batch: PackedCaptions) -> Tensor:
        return self.captioner(batch)

    def load(self, order: EpochOrder, epoch: int, step: int, group: Sequence[list[int]]) -> Iterator[PackedCaptions]:
        for indices in group:
            yield self.sample(step, indices)

    def logged(self) -> dict[str, float]:
        return {"reward": self.mean_reward}

    def sample(self, step: int, indices: Sequence[int]) -> PackedCaptions:
        """Captions of the videos `indices`, each weighted; what is drawn follows from seed, step and video."""
        features = self.data.features(indices)
        videos = [self.data.video_ids[index] for index in indices]
        stacked, mask = (part.to(self.captioner.device) for part in stack_features(features))
        was_training = self.captioner.training
        self.captioner.eval()
        drawn = self._decode(stacked, mask, videos, step)
        rewards = [self._rewards(video, hypotheses) for video, hypotheses in zip(videos, drawn, strict=True)]
        if self.baseline == "greedy":
            greedy = self._decode(stacked, mask, videos, None)
            baselines = [
                self._rewards(video, hypotheses) * self.samples
                for video, hypotheses in zip(videos, greedy, strict=True)
            ]
        else:
            baselines = [[(sum(row) - reward) / (len(row) - 1) for reward in row] for row in rewards]
        self.captioner.train(was_training)
        self.mean_reward = sum(map(sum, rewards)) / (len(rewards) * self.samples)

        captions = [[_tokens(hypothesis) for hypothesis in hypotheses] for hypotheses in drawn]
        batch = pack(features, captions)
        batch.label_weight = torch.tensor(
            [
                reward - level
                for row, levels, lists in zip(rewards, baselines, captions, strict=True)
                for reward, level, tokens in zip(row, levels, lists, strict=True)
                for _ in tokens
            ]
        )
        return batch

    def _decode(
        self, features: Tensor, mask: Tensor, videos: Sequence[str], step: int | None
    ) -> list[list[Hypothesis]]:
        """Samples of a step, or without one the greedy captions."""
        settings = DecodingSettings(
            entry_length=self.max_tokens,
            use_beam_search=False,
            sample=step is not None,
            top_p=None if step is None else self.top_p,
            num_return=1 if step is None else self.samples,
            seed=0 if step is None else hash((self.seed, step)) & 0x7FFF_FFFF,
            complete=False,
        )
        with torch.no_grad():
            state = self.captioner.start(features, mask, self.max_tokens)
        return decode(state, len(videos), self.captioner.stop_tokens, settings, video_keys=videos)

    def _rewards(self, video: str, hypotheses: Sequence[Hypothesis]) -> list[float]:
        texts = [self.captioner.decode_tokens(hypothesis.tokens, hypothesis.stop_token) for hypothesis in hypotheses]
        started = time.perf_counter()
        words = [caption_words(text, hypothesis.ended) for text, hypothesis in zip(texts, hypotheses, strict=True)]
        rewards = self.reward.score(video, words)
        self.reward_seconds += time.perf_counter() - started
        return rewards


def _tokens(hypothesis: Hypothesis) -> list[int]:
    return hypothesis.tokens if hypothesis.stop_token is None else [*hypothesis.tokens, hypothesis.stop_token]
