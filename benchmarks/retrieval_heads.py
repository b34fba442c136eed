"""Trains the similarity heads on all training videos and on a few, at several learning rates, and compares them.

    python benchmarks/retrieval_heads.py --features features/ --annotations videodatainfo.json --out out_heads/

A run that was stopped resumes, and one that is finished is not trained again. Prints R@k from text to video on a split:
as queries all captions, and the first of each video, which is what the tight head can be asked in reasonable time.
Behind ± is the standard error over other videos of the kind (bootstrap, each video with all its captions); that of a
difference is smaller than that of the two figures, because both are of the same draws. Runs that differ in their seed
alone are one row: their hits are averaged.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

# It runs from any folder, installed package or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from clipcap_video.datasets.matching import with_captions
from clipcap_video.datasets.records import VideoRecord, select
from clipcap_video.features.layouts import open_features
from clipcap_video.metrics.bootstrap import resample_weights
from clipcap_video.metrics.retrieval import rank
from clipcap_video.retrieval.config import RetrievalTrainConfig
from clipcap_video.retrieval.data import RetrievalData
from clipcap_video.retrieval.model import RetrievalModel
from clipcap_video.retrieval.train import (
    annotated,
    embed_split,
    encode_texts,
    frame_source,
    train_retrieval,
)

RECALLS = (1, 5, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, required=True, help="Stored features.")
    parser.add_argument("--annotations", type=Path, required=True, help="Their annotations.")
    parser.add_argument("--out", type=Path, default=Path("out_heads"), help="Where the runs go.")
    parser.add_argument("--heads", nargs="+", default=["meanP", "seqLSTM", "seqTransf", "tightTransf"])
    parser.add_argument("--few", type=int, nargs="+", default=[0, 384], help="Training videos drawn; 0 is all.")
    parser.add_argument("--lr", nargs="+", default=["1e-3"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--bs", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--split", default="validate")
    options = parser.parse_args()

    records = annotated([options.annotations], open_features(options.features).ids(), str(options.features))
    captions = {few: chosen_videos(records, few, options.annotations, options.out) for few in options.few}
    for few in options.few:
        print_header(len(select(records, "train")) if few == 0 else few, options.split)
        base = None
        for head in options.heads:
            for lr in options.lr:
                hits = []
                for seed in options.seeds:
                    config = RetrievalTrainConfig(
                        data=options.features, caption=[captions[few]], sim_header=head,
                        cross_num_hidden_layers=1 if head.endswith("Transf") else None,
                        lr=float(lr), bs=options.bs, epochs=options.epochs, eval_every=options.epochs // 4 or 1,
                        seed=seed, resume=True,
                        out_dir=options.out / f"{few or 'all'}_{head}_{lr}_{seed}",
                    )  # fmt: skip
                    hits.append(measured(config, options.split))
                base = print_row(f"`{head}` | {lr}", hits, base)


def chosen_videos(records: list[VideoRecord], few: int, caption: Path, out: Path) -> Path:
    """Annotations with `few` of the training videos and all others; 0: the file as it is."""
    if not few:
        return caption
    training = sorted(record.video_id for record in select(records, "train"))
    left_out = set(training) - set(random.Random(0).sample(training, few))
    path = out / f"few_{few}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"video": record.video_id, "caption": text, "split": record.split})
        for record in records
        if record.video_id not in left_out
        for text in record.captions
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def measured(config: RetrievalTrainConfig, split: str) -> tuple[np.ndarray | None, np.ndarray]:
    """Per video, the share of its captions that find it among the first 1, 5, 10: float64 [V, 3].

    Of all captions (None for the tight head), and of the first. Trains the run unless it is there.
    """
    file = config.out_dir / f"hits_{split}.npz"
    if not file.exists():
        train_retrieval(config)
        model = RetrievalModel.from_pretrained(config.out_dir)
        store = open_features(config.data)
        records = with_captions(select(annotated(config.caption, store.ids(), str(config.data)), split))
        source = frame_source(model, config.max_frames, config.slice_framepos, store, {}, 1.0, 1)
        data = RetrievalData.of(records, source, lambda texts: encode_texts(model, texts), False)
        kept = {"first": hits(model, data, True)}
        if model.separable:
            kept["all"] = hits(model, data, False)
        np.savez(file, **kept)
    with np.load(file) as found:
        return found.get("all"), found["first"]


def hits(model: RetrievalModel, data: RetrievalData, first_only: bool) -> np.ndarray:
    """float64 [V, 3], of all captions or the first of each video."""
    part = embed_split(model, data, first_only)

    def rows(start: int, end: int) -> torch.Tensor:
        if part.mask is None:
            return part.text[start:end] @ part.videos.T
        return model.similarity(part.text[start:end], part.videos, part.mask)

    videos = len(part.videos)
    ranks = rank(rows, part.video_of, videos)
    found = (ranks[:, None] <= torch.tensor(RECALLS)).double()
    total = torch.zeros(videos, len(RECALLS), dtype=torch.float64).index_add_(0, part.video_of, found)
    return (total / torch.bincount(part.video_of)[:, None]).numpy()


def print_header(videos: int, split: str) -> None:
    print(f"\n{videos:,} training videos, split {split}\n")
    print("| head | `--lr` | R@1 | R@5 | R@10 | to first row | R@10, first captions | to first row |")
    print(f"|{' --- |' * 8}")


def print_row(name: str, runs: list, base: list[np.ndarray] | None) -> list[np.ndarray]:
    """Prints a row; gives the R@10 draws of the first row, which the others are compared with."""
    cells, draws = [], []
    for number in (0, 1):
        if any(run[number] is None for run in runs):
            cells += ["", "", "", ""] if number == 0 else ["", ""]
            draws.append(None)
            continue
        found = 100 * np.mean([run[number] for run in runs], axis=0)  # [V, 3]
        weights = resample_weights(len(found), 1000, 0) / len(found)
        drawn = weights @ found[:, 2]
        draws.append(drawn)
        means = [f"{mean:.1f}" for mean in found.mean(0)]
        cells += [*means[:2], f"{means[2]} ± {drawn.std():.1f}"] if number == 0 else [f"{means[2]} ± {drawn.std():.1f}"]
        if base is None or base[number] is None:
            cells.append("")
        else:
            gap = drawn - base[number]
            cells.append(f"{gap.mean():+.1f} ± {gap.std():.1f}")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return base or draws


if __name__ == "__main__":
    main()
