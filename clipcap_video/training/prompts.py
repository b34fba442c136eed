"""What a captioner's training videos are read with: words and captions, by networks that have not seen each video."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clipcap_video import console
from clipcap_video.consensus.config import FitConfig
from clipcap_video.consensus.fit import FitData, Lists, fit, pooled_videos
from clipcap_video.consensus.memory import CaptionMemory
from clipcap_video.consensus.network import ConsensusRanker
from clipcap_video.devices import one_thread
from clipcap_video.errors import ClipcapError
from clipcap_video.metrics.cider import caption_words
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.runs.plan import in_words
from clipcap_video.training.data import CaptionData

FOLDS = 4


def fit_prompts(model: PrefixCaptioner, data: CaptionData, seed: int, device: torch.device, apart: bool) -> None:
    """Gives `data` the prompts of its videos, each by a network fitted on the others, and `model` one fitted on all.

    What a network was fitted on it knows too well: a captioner that learned to trust it would be deceived by new
    videos. So the videos are cut into FOLDS parts (cross-fitting). Captions come from all videos but the video itself.
    apart: captions are those of the first of several annotation files (`--origin_token`).
    Raises ClipcapError for too few videos. All follows from data and seed.
    """
    started = time.perf_counter()
    origins = _numbered(data.origins if apart and data.origins else [0] * len(data))
    first = np.flatnonzero(origins == 0).tolist()
    if len(first) < 2 * FOLDS:
        raise ClipcapError(
            f"--predicted_words and --memory need {2 * FOLDS} training videos or more to tell new videos by, and there "
            f"are {len(first)}; leave them out"
        )
    console.say(f"fitting {FOLDS}+1 networks of what people say")
    words = [[caption_words(text) for text in texts] for texts in data.texts]
    pooled = pooled_videos(data.store, data.video_ids, data.max_frames)
    prompts = torch.zeros(len(data), model.config.prompt_length, dtype=torch.int64)
    parts = _parts(origins, seed)
    for part in range(FOLDS + 1):  # the last is none, so that all videos are others
        seen, unseen = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        ranker = _fitted([words[row] for row in seen], _numbered(origins[seen]), pooled[seen], seed, device, part)
        memory = None
        if model.config.memory:
            memory = CaptionMemory.of([data.texts[row] for row in first], first, ranker)
        else:  # nothing else is asked of it
            ranker = ranker.narrowed([place for ngram, place in ranker.known.items() if len(ngram) == 1])
        prompter = model.prompt_with(ranker, memory)
        for rows in np.array_split(unseen, -(-len(unseen) // 256)) if len(unseen) else ():
            shares = ranker((pooled[rows] - ranker.mean) / ranker.std).sigmoid().detach()
            prompts[rows] = prompter.tokens(shares, rows.tolist())
    data.prompts = prompts
    kept = f", {len(memory.texts):,} captions kept" if memory is not None else ""
    console.say(f"words: {FOLDS}+1 networks fitted in {in_words(time.perf_counter() - started)}{kept}")


def _numbered(origins: Sequence[int] | np.ndarray) -> np.ndarray:
    """Of the files that have videos, the first is 0."""
    return np.unique(np.asarray(origins), return_inverse=True)[1]


def _parts(origins: np.ndarray, seed: int) -> np.ndarray:
    """The part of each video, 0 to FOLDS - 1, drawn so that all have as many of each annotation file."""
    drawn = np.random.default_rng([seed, 3]).permutation(len(origins))
    parts = np.empty(len(origins), np.int64)
    parts[drawn[np.argsort(origins[drawn], kind="stable")]] = np.arange(len(origins)) % FOLDS
    return parts


def _fitted(
    words: Lists, origins: np.ndarray, pooled: Tensor, seed: int, device: torch.device, part: int
) -> ConsensusRanker:
    """One network, with the weights that its file will have."""
    config = FitConfig(networks=1, seed=seed)
    known = FitData.of(words, origins, pooled, config.ngrams)
    with one_thread():
        ranker = fit(known, config, device, f"words, part {part + 1}: network")
    ranker.load_state_dict(
        {name: tensor.half().float() if tensor.dim() == 2 else tensor for name, tensor in ranker.state_dict().items()}
    )
    return ranker
