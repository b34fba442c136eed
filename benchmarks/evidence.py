"""Which evidence is the more truthful: attention of the prefix to the frames, or leaving a frame out.

    python benchmarks/evidence.py --features features/ --annotations videodatainfo.json \
        --split validate [--model_dir out/]

Every way of ranking a video's frames goes through three tests. *Deletion*: without the half of the frames that ranks
highest, the caption's log-probability should fall more than without the other half. *New captions*: so should the CIDEr
of captions that are written anew. *A foreign frame*, of another video, is put among the frames: for the caption of the
video itself it should rank last, for the caption of the other video first. The reference is a random ranking. Videos of
fewer than four frames are left out. docs/report.md has the results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.cli import run_command
from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import select
from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.forced import forced_logprobs
from clipcap_video.features.base import stack_features
from clipcap_video.features.layouts import open_features
from clipcap_video.metrics.captioning import cider
from clipcap_video.models.mapping.transformer import Attention

Frames = list[np.ndarray]
Ranking = Callable[[Frames, list[list[int]]], list[np.ndarray]]
FEWEST = 4


class Judge:
    """A captioner, and the ways of ranking frames by their importance for its captions."""

    def __init__(self, captioner: Captioner) -> None:
        self.captioner = captioner
        self.settings = DecodingSettings(beam_size=5, length_penalty=captioner.length_penalty)

    def captions(self, videos: Frames) -> list[list[int]]:
        """Tokens of each video's best caption, its stop token among them."""
        found = []
        for start in range(0, len(videos), 64):
            best = [own[0] for own in self.captioner.caption_features(videos[start : start + 64], self.settings)]
            found += [one.tokens + ([] if one.stop_token is None else [one.stop_token]) for one in best]
        return found

    @torch.inference_mode()
    def logprobs(self, videos: Frames, captions: Sequence[list[int]]) -> np.ndarray:
        found: list[float] = []
        for start in range(0, len(videos), 128):
            texts = captions[start : start + 128]
            state = self.captioner.model.start(*stack_features(videos[start : start + 128]), max(map(len, texts)))
            found += forced_logprobs(state, texts).tolist()
        return np.array(found)

    def leaving_out(self, videos: Frames, captions: list[list[int]]) -> list[np.ndarray]:
        owner = [video for video, frames in enumerate(videos) for _ in frames]
        rest = [np.delete(frames, place, axis=0) for frames in videos for place in range(len(frames))]
        without = self.logprobs(rest, [captions[video] for video in owner])
        whole = self.logprobs(videos, captions)
        bounds = np.cumsum([len(frames) for frames in videos])[:-1]
        return np.split(whole[owner] - without, bounds)

    def last_attention(self, videos: Frames, captions: list[list[int]]) -> list[np.ndarray]:
        """What the prefix constants attend to in the last layer, mean over heads and constants."""
        return [self._attention(frames)[-1][len(frames) :, : len(frames)].mean(0).numpy() for frames in videos]

    def rollout(self, videos: Frames, captions: list[list[int]]) -> list[np.ndarray]:
        """Attention through all layers, half of each being the residual (Abnar & Zuidema 2020)."""
        found = []
        for frames in videos:
            layers = self._attention(frames)
            total = torch.eye(len(layers[0]))
            for weights in layers:
                total = (weights + torch.eye(len(weights))) / 2 @ total
            found.append(total[len(frames) :, : len(frames)].mean(0).numpy())
        return found

    @torch.inference_mode()
    def _attention(self, frames: np.ndarray) -> list[Tensor]:
        """Weights [N, N] of each layer over frames and prefix constants."""
        layers: list[Tensor] = []

        def record(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            assert isinstance(module, Attention)
            x = inputs[0]
            queries = module.to_queries(x).view(x.shape[1], module.heads, -1)
            keys = module.to_keys_values(x).view(x.shape[1], 2, module.heads, -1)[:, 0]
            scores = torch.einsum("nhd,mhd->hnm", queries, keys) * queries.shape[-1] ** -0.5
            layers.append(scores.softmax(-1).mean(0))

        modules = [module for module in self.captioner.model.mapping.modules() if isinstance(module, Attention)]
        hooks = [module.register_forward_hook(record) for module in modules]
        try:
            self.captioner.model.mapping(*stack_features([frames]))
        finally:
            for hook in hooks:
                hook.remove()
        return layers

    def at_random(self, videos: Frames, captions: list[list[int]]) -> list[np.ndarray]:
        return [np.random.default_rng(video).random(len(frames)) for video, frames in enumerate(videos)]


def halves(frames: np.ndarray, importance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames without the most important half, and without the least important half."""
    order = np.argsort(importance, kind="stable")
    kept = len(frames) - len(frames) // 2
    return frames[np.sort(order[:kept])], frames[np.sort(order[len(frames) - kept :])]


def main(
    data: Annotated[Path, typer.Option("--features", help="Features that fit the model.")],
    caption: Annotated[list[Path], typer.Option("--annotations", help="Annotations.")],
    split: Annotated[str, typer.Option("--split", help="Split to look at.")] = "validate",
    model_dir: Annotated[
        Path | None, typer.Option("--model_dir", help="A captioner; the starter unless given.")
    ] = None,
) -> None:
    """Compare ways of telling which frames a caption rests on."""
    store = open_features(data)
    captioner = Captioner.from_pretrained(model_dir, device="cpu", precision="fp32")
    captioner.check_features(store)
    records = [record for record in select(read_annotations(caption), split) if record.video_id in store]
    videos = [np.asarray(store.load(record.video_id).features, dtype=np.float32) for record in records]
    records = [record for record, frames in zip(records, videos, strict=True) if len(frames) >= FEWEST]
    videos = [frames for frames in videos if len(frames) >= FEWEST]
    references = {record.video_id: record.captions for record in records}
    judge = Judge(captioner)
    captions = judge.captions(videos)
    whole = judge.logprobs(videos, captions)

    def score(frames: Frames) -> float:
        texts = [captioner.model.decode_tokens(tokens, None) for tokens in judge.captions(frames)]
        return 100 * cider(dict(zip(references, texts, strict=True)), references)[0]

    rng = np.random.default_rng(0)
    other = np.roll(np.arange(len(videos)), 1)
    spliced, places = [], []
    for own, foreign in zip(videos, other, strict=True):
        kept = own[: captioner.model.config.mapping.max_frames - 1]
        places.append(int(rng.integers(len(kept) + 1)))
        spliced.append(np.insert(kept, places[-1], videos[foreign][rng.integers(len(videos[foreign]))], axis=0))

    def share(values: list[np.ndarray], rank: Callable[[np.ndarray], int]) -> float:
        return 100 * float(np.mean([rank(value) == place for value, place in zip(values, places, strict=True)]))

    print(f"{len(videos)} videos of at least {FEWEST} frames; CIDEr of all frames {score(videos):.2f}")
    print(f"by chance a frame is first or last in {100 * np.mean([1 / len(f) for f in spliced]):.0f} % of the videos")
    print("ranking           fall without top/bottom half  CIDEr without top/bottom  foreign last  foreign first")
    rankings: dict[str, Ranking] = {
        "leaving out": judge.leaving_out,
        "attention, last": judge.last_attention,
        "attention rollout": judge.rollout,
        "random": judge.at_random,
    }
    for name, rank in rankings.items():
        parts = [halves(frames, value) for frames, value in zip(videos, rank(videos, captions), strict=True)]
        top, bottom = [part[0] for part in parts], [part[1] for part in parts]
        falls = [float((whole - judge.logprobs(half, captions)).mean()) for half in (top, bottom)]
        last = share(rank(spliced, captions), lambda value: int(value.argmin()))
        first = share(rank(spliced, [captions[foreign] for foreign in other]), lambda value: int(value.argmax()))
        print(
            f"{name:<18}{falls[0]:12.2f} {falls[1]:12.2f} {score(top):15.2f} {score(bottom):9.2f} "
            f"{last:13.0f} % {first:12.0f} %",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_command(main)
