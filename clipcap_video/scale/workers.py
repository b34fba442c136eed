"""What an engine runs on its machines: a model is loaded once a process, then called with batches of paths.

>>> ray.data.read_parquet("paths/").map_batches(FeatureExtractor, batch_size=16, concurrency=8)  # doctest: +SKIP

Paths go in and features or captions come out; frames never leave the process that decodes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clipcap_video.errors import VideoError
from clipcap_video.video.damage import MAX_DAMAGE
from clipcap_video.video.sampling import SamplingSpec, Span

Columns = dict[str, np.ndarray]


class _Worker:
    """Pickled as the arguments that made it, so that a copy loads its own model."""

    _arguments: dict[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), self._arguments)


def _remade(kind: type[Any], arguments: dict[str, Any]) -> Any:
    return kind(**arguments)


class FeatureExtractor(_Worker):
    """Videos to frame features, as `extract_features.py` makes them.

    encoder, weights: as --encoder and --encoder_weights. sampling: which frames, 28 evenly spread unless given.
    normalize: divide each frame's features by their L2 norm. batch_size: frames encoded at once. workers: threads that
    decode, each a whole video. max_damage: the largest share of damaged frames with which a video is used.
    Raises ClipcapError when the encoder cannot be had.
    """

    def __init__(
        self,
        encoder: str = "ViT-B/32",
        *,
        weights: str | Path | None = None,
        sampling: SamplingSpec | None = None,
        normalize: bool = False,
        precision: str = "auto",
        device: str = "auto",
        batch_size: int = 64,
        workers: int = 1,
        max_damage: float = MAX_DAMAGE,
    ) -> None:
        from clipcap_video.devices import pick_device, pick_precision
        from clipcap_video.encoders import load_encoder

        self._arguments = {
            "encoder": encoder, "weights": weights, "sampling": sampling, "normalize": normalize,
            "precision": precision, "device": device, "batch_size": batch_size, "workers": workers,
            "max_damage": max_damage,
        }  # fmt: skip
        place = pick_device(device)
        self.encoder = load_encoder(
            encoder, place, pick_precision(place, precision), None if weights is None else Path(weights)
        )
        self._choices: dict[str, Any] = {
            "spec": sampling or SamplingSpec(), "batch_size": batch_size, "workers": workers, "normalize": normalize,
            "max_damage": max_damage,
        }  # fmt: skip

    def __call__(self, batch: Columns) -> Columns:
        """batch: path [n], texts; perhaps video_id [n], and start and end [n] in seconds of the part to read, NaN for
        all of it. Returns these columns and, of each video,

        features: float16 [T, D], with T = 0 where it cannot be read; timestamps: float32 [T] in seconds.
        error: why it cannot be read, "" where it can. warning: one sentence about damage, "" for a sound video.
        damage: as six numbers, those of `Damage`.
        """
        from clipcap_video.features.encode import encode_videos

        paths, spans = _videos(batch)
        rows = []
        for _, video in encode_videos(paths, self.encoder, spans=spans, **self._choices):
            if isinstance(video, VideoError):
                empty = np.empty((0, self.encoder.dim), np.float16)
                rows.append((empty, np.empty(0, np.float32), str(video), "", np.zeros(6, np.int64)))
            else:
                damage = np.array(list(video.damage.to_json().values()), np.int64)
                features, times = video.features.astype(np.float16), video.timestamps.astype(np.float32)
                rows.append((features, times, "", video.warning or "", damage))
        return {**batch, **_columns(("features", "timestamps", "error", "warning", "damage"), rows)}


class VideoCaptioner(_Worker):
    """Videos to captions, as `inference_vtt.py` writes them.

    model_dir: a checkpoint; the starter captioner unless given. settings: see DecodingSettings.
    encoder, weights: where the encoder is, if not where the checkpoint says. lm: the same of the language model.
    Raises ClipcapError when the checkpoint is missing, damaged or does not fit.
    """

    def __init__(
        self,
        model_dir: str | Path | None = None,
        *,
        settings: Any = None,
        lm: str | None = None,
        encoder: str | None = None,
        weights: str | Path | None = None,
        legacy: Any = None,
        precision: str = "auto",
        device: str = "auto",
        max_damage: float = MAX_DAMAGE,
        evidence: bool = False,
    ) -> None:
        from clipcap_video.captioning.captioner import Captioner

        self._arguments = {
            "model_dir": model_dir, "settings": settings, "lm": lm, "encoder": encoder, "weights": weights,
            "legacy": legacy, "precision": precision, "device": device, "max_damage": max_damage, "evidence": evidence,
        }  # fmt: skip
        self.captioner = Captioner.from_pretrained(model_dir, lm=lm, device=device, precision=precision, legacy=legacy)
        if encoder or weights:
            self.captioner.load_encoder(encoder, None if weights is None else Path(weights))
        self._choices: dict[str, Any] = {"max_damage": max_damage, "evidence": evidence}
        self._settings = settings

    def __call__(self, batch: Columns) -> Columns:
        """batch: path [n], texts, and perhaps video_id [n]. Returns these columns and, of each video,

        caption: the best one, "" where the video cannot be read; prediction: all that is known of it, as a line of
        JSON; frames: those that were seen. error, warning, damage: as of FeatureExtractor.
        """
        from clipcap_video.captioning.predictions import to_line

        paths, _ = _videos(batch)
        predictions, summary = self.captioner.caption_files(paths, self._settings, progress=False, **self._choices)
        captioned = {one.video: one for one in predictions}
        reasons = {failure.video: failure.reason for failure in summary.failures}
        rows = []
        for video_id in paths:
            one, warned = captioned.get(video_id), summary.warnings.get(video_id)
            damage = np.array(list(warned.damage.values()) if warned else [0] * 6, np.int64)
            line, text = ("", "") if one is None else (to_line(one), one.text)
            frames = 0 if one is None else len(one.timestamps)
            rows.append((text, line, frames, reasons.get(video_id, ""), "" if warned is None else str(warned), damage))
        return {**batch, **_columns(("caption", "prediction", "frames", "error", "warning", "damage"), rows)}


def _videos(batch: Columns) -> tuple[dict[str, Path], dict[str, Span]]:
    """The videos of a batch under their ids, or under running numbers; the parts of them that are to be read."""
    texts = [str(path) for path in batch["path"]]
    ids = (
        [str(video_id) for video_id in batch["video_id"]] if "video_id" in batch else list(map(str, range(len(texts))))
    )
    spans = {}
    if "start" in batch:
        times = zip(ids, batch["start"].tolist(), batch["end"].tolist(), strict=True)
        spans = {video_id: Span(start, end) for video_id, start, end in times if start == start}
    return dict(zip(ids, map(Path, texts), strict=True)), spans


def _columns(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Columns:
    """One array a column; of objects where its entries are arrays or texts."""
    made: Columns = {}
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        if isinstance(values[0], np.ndarray | str):
            made[name] = np.empty(len(values), object)
            for row, value in enumerate(values):
                made[name][row] = value
        else:
            made[name] = np.array(values)
    return made
