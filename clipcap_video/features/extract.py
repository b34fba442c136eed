"""From video files to frame features on disk: threads decode, the main thread encodes batches and writes.

Frames of several videos share a batch, and batches are the same in every run over the same videos. A run that
resumes forms other batches; a frame's features depend on them only through the rounding of matrix products.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from clipcap_video.devices import peak_device_memory
from clipcap_video.encoders import load_encoder
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint, check_fingerprints
from clipcap_video.features.resume import FAILURES_FILE, clear_leftovers, missing_videos
from clipcap_video.features.store import SUFFIX, write_features
from clipcap_video.runs.plan import Plan, measure, peak_memory
from clipcap_video.video.ahead import DecodeAhead, VideoEnd
from clipcap_video.video.reader import FrameChunk
from clipcap_video.video.sampling import SamplingSpec, Span


@dataclass(frozen=True)
class Failure:
    """A video that could not be read; one line of failures.jsonl."""

    video: str
    path: str
    reason: str


@dataclass
class ExtractionSummary:
    """What a run did.

    done, skipped, failed: numbers of videos (skipped ones had their features already). frames: frames encoded
    into written files. seconds: wall time. failures: in the order of the videos. warnings: video id -> one
    sentence about a video that was read but is not what its header says. fingerprint: that of all files.
    """

    fingerprint: Fingerprint
    done: int = 0
    skipped: int = 0
    failed: int = 0
    frames: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)


def extract(
    videos: dict[str, Path],
    encoder: ImageEncoder,
    spec: SamplingSpec,
    out: Path,
    *,
    batch_size: int = 64,
    workers: int = 2,
    normalize: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    spans: Mapping[str, Span] | None = None,
) -> ExtractionSummary:
    """Writes `<out>/<video_id>.safetensors` for each of `videos` (id -> path) that lacks it, in their order.

    batch_size: frames encoded at once. workers: threads that decode, each a whole video.
    normalize: divide each frame's features by their L2 norm.
    overwrite: make all features anew, whatever is there.
    spans: the part to read of those videos (by id) that are not read whole; several ids may share a file.

    A video that cannot be read becomes a line of `<out>/failures.jsonl` and the run goes on; that file holds
    the failures of this run alone and is absent when there are none. A run may be killed at any moment and
    started again; two runs at a time need two folders. Raises ClipcapError before any work when `out` holds
    features of another kind.
    """
    if batch_size < 1 or workers < 1:
        raise ClipcapError(f"batch size {batch_size} and workers {workers} must both be 1 or more")
    start = time.perf_counter()
    fingerprint = fingerprint_of(encoder, spec, normalize)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ClipcapError(f"{out} is not a folder; give another place for the features") from None
    todo = missing_videos(videos, out, fingerprint, overwrite)
    clear_leftovers(out)
    summary = ExtractionSummary(fingerprint, skipped=len(videos) - len(todo))
    bar = tqdm(
        total=len(videos),
        initial=summary.skipped,
        unit="video",
        disable=not (progress and sys.stderr.isatty()),
    )
    ahead = DecodeAhead(todo, spec, encoder.preprocess, workers, spans)
    with bar, ahead, _FailureLog(out / FAILURES_FILE) as log:
        run = _Run(encoder, fingerprint, out, batch_size, summary, bar)
        for video_id, event in ahead:
            if isinstance(event, FrameChunk):
                run.add(video_id, event)
            elif isinstance(event, VideoEnd):
                if event.warning is not None:
                    summary.warnings[video_id] = event.warning
                run.end(video_id)
            else:
                run.abandon(video_id)
                failure = Failure(video_id, str(todo[video_id]), str(event))
                log.add(failure)
                summary.failures.append(failure)
                summary.failed += 1
                bar.update()
        run.finish()
    summary.seconds = time.perf_counter() - start
    return summary


def fitting_encoder(
    wanted: Fingerprint | None,
    device: torch.device,
    precision: str,
    name: str | None = None,
    weights: Path | None = None,
) -> ImageEncoder:
    """The encoder that features of the fingerprint `wanted` were made with.

    name, weights: where it is, if not where the fingerprint says; without a fingerprint a name has to be given.
    Raises ClipcapError when it is another encoder, or cannot be had.
    """
    encoder_name = name or (wanted.encoder if wanted is not None else None)
    if encoder_name is None:
        raise ClipcapError("the features do not say which encoder made them; name it with --encoder")
    encoder = load_encoder(encoder_name, device, precision, weights)
    if wanted is not None:
        given = replace(
            wanted, encoder=encoder.name, weights=encoder.weights_digest, preprocessing=encoder.preprocessing
        )
        check_fingerprints(wanted, given, f"encoder {encoder.name}")
    return encoder


def encode_frames(encoder: ImageEncoder, images: Tensor, normalize: bool) -> Tensor:
    """Features float32 [n, D] of preprocessed frames uint8 [n, 3, S, S]; normalize: divided by their L2 norm."""
    return _finished(encoder.encode_images(images), normalize)


def _finished(features: Tensor, normalize: bool) -> Tensor:
    features = features.float()
    return torch.nn.functional.normalize(features, dim=-1) if normalize else features


def fingerprint_of(encoder: ImageEncoder, spec: SamplingSpec, normalize: bool) -> Fingerprint:
    """Of the features that `extract` makes."""
    return Fingerprint(
        encoder=encoder.name,
        weights=encoder.weights_digest,
        preprocessing=encoder.preprocessing,
        sampling=spec,
        normalized=normalize,
    )


def plan_extraction(
    videos: dict[str, Path],
    encoder: ImageEncoder,
    spec: SamplingSpec,
    out: Path,
    *,
    batch_size: int = 64,
    workers: int = 2,
    normalize: bool = False,
    overwrite: bool = False,
    spans: Mapping[str, Span] | None = None,
) -> Plan:
    """What `extract` with these arguments would take, measured on some of the videos; `out` is left alone."""
    fingerprint = fingerprint_of(encoder, spec, normalize)
    todo = missing_videos(videos, out, fingerprint, overwrite)
    total = ExtractionSummary(fingerprint)
    written = 0

    def extract_some(part: Sequence[str]) -> None:
        nonlocal written
        chosen = {video_id: todo[video_id] for video_id in part}
        parts = {video_id: span for video_id, span in (spans or {}).items() if video_id in chosen}
        with tempfile.TemporaryDirectory(prefix="clipcap-video-") as folder:
            summary = extract(
                chosen, encoder, spec, Path(folder),
                batch_size=batch_size, workers=workers, normalize=normalize, progress=False, spans=parts,
            )  # fmt: skip
            written += sum(file.stat().st_size for file in Path(folder).glob(f"*{SUFFIX}"))
        total.done += summary.done
        total.failed += summary.failed
        total.frames += summary.frames

    # The first batch of full size costs far more than those that follow.
    a_batch = max(8, 2 * batch_size // max(1, spec.frames))
    rate = measure(list(todo), extract_some, first=a_batch, probe=a_batch)
    looked = total.done + total.failed
    notes = [f"{total.failed} of the {looked} videos looked at cannot be read"] if total.failed else []
    return Plan(
        command="extract",
        videos=len(todo),
        done=len(videos) - len(todo),
        frames=round(total.frames / looked * len(todo)) if looked else 0,
        disk=round(written / looked * len(todo)) if looked else 0,
        where=str(out),
        memory=peak_memory(),
        device_memory=peak_device_memory(encoder.device),
        seconds=rate.of(len(todo)),
        measured_on=f"{rate.items:,} videos in {rate.seconds:.1f} s",
        notes=notes,
    )


class _Run:
    """Forms batches across videos, hands features back to their videos and writes those that are complete."""

    def __init__(
        self,
        encoder: ImageEncoder,
        fingerprint: Fingerprint,
        out: Path,
        batch_size: int,
        summary: ExtractionSummary,
        bar: tqdm,
    ) -> None:
        self._encoder = encoder
        self._fingerprint = fingerprint
        self._out = out
        self._batch_size = batch_size
        self._summary = summary
        self._bar = bar
        self._start = time.perf_counter()
        self._open: deque[_Assembly] = deque()  # videos not yet written, in order
        self._waiting: deque[tuple[_Assembly, Tensor]] = deque()  # images [n, 3, S, S] not yet encoded, in order
        self._waiting_frames = 0
        self._encoding: deque[_Batch] = deque()  # begun, in order

    def add(self, video_id: str, chunk: FrameChunk) -> None:
        assembly = self._assembly(video_id)
        assembly.timestamps.append(chunk.timestamps)
        assembly.unencoded += len(chunk.images)
        self._waiting.append((assembly, chunk.images))
        self._waiting_frames += len(chunk.images)
        while self._waiting_frames >= self._batch_size:
            self._encode()
            while len(self._encoding) > 1:
                self._collect()

    def end(self, video_id: str) -> None:
        self._assembly(video_id).ended = True
        self._write_complete()

    def abandon(self, video_id: str) -> None:
        """Drops a video that turned out to be unreadable, perhaps after some of its frames."""
        kept = [(assembly, images) for assembly, images in self._waiting if assembly.video_id != video_id]
        self._waiting = deque(kept)
        self._waiting_frames = sum(len(images) for _, images in kept)
        self._open = deque(assembly for assembly in self._open if assembly.video_id != video_id)
        self._write_complete()

    def finish(self) -> None:
        while self._waiting_frames:
            self._encode()
        while self._encoding:
            self._collect()
        self._write_complete()

    def _assembly(self, video_id: str) -> _Assembly:
        # Videos come one after the other, so only the last can still grow.
        if not self._open or self._open[-1].video_id != video_id:
            self._open.append(_Assembly(video_id))
        return self._open[-1]

    def _encode(self) -> None:
        """Hands the next batch to the encoder, which may still be at the one before."""
        batch: list[tuple[_Assembly, Tensor]] = []
        room = self._batch_size
        while room and self._waiting:
            assembly, images = self._waiting.popleft()
            batch.append((assembly, images[:room]))
            if len(images) > room:
                self._waiting.appendleft((assembly, images[room:]))
            room -= len(batch[-1][1])
        self._waiting_frames -= self._batch_size - room
        # torch.cat would wake a thread on each core, and these wait busily for more work while others compute. The
        # pixels lie channels last.
        pixels = np.concatenate([images.permute(0, 2, 3, 1).numpy() for _, images in batch])  # [n, S, S, 3]
        features = self._encoder.begin_images(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        self._encoding.append(_Batch([(assembly, len(images)) for assembly, images in batch], features))

    def _collect(self) -> None:
        """Hands the features of the oldest batch back to its videos."""
        batch = self._encoding.popleft()
        features = _finished(batch.features(), self._fingerprint.normalized)
        for (assembly, count), part in zip(batch.parts, features.split([n for _, n in batch.parts]), strict=True):
            assembly.features.append(part.numpy())
            assembly.unencoded -= count
        self._write_complete()

    def _write_complete(self) -> None:
        while self._open and self._open[0].ended and self._open[0].unencoded == 0:
            assembly = self._open.popleft()
            features = np.concatenate(assembly.features)  # [T, D]
            timestamps = np.concatenate(assembly.timestamps)  # [T]
            write_features(self._out, assembly.video_id, features, timestamps, self._fingerprint)
            self._summary.done += 1
            self._summary.frames += len(features)
            rate = self._summary.frames / (time.perf_counter() - self._start)
            self._bar.set_postfix_str(f"{rate:.0f} frames/s", refresh=False)
            self._bar.update()


class _Assembly:
    """The features of one video as they come."""

    def __init__(self, video_id: str) -> None:
        self.video_id = video_id
        self.features: list[np.ndarray] = []  # [n, D] each
        self.timestamps: list[np.ndarray] = []  # [n] each, seconds
        self.unencoded = 0
        self.ended = False


@dataclass(frozen=True)
class _Batch:
    """Frames that are being encoded: videos with their numbers of frames, and what waits for the features."""

    parts: list[tuple[_Assembly, int]]
    features: Callable[[], Tensor]


class _FailureLog:
    """failures.jsonl, which comes into being with its first line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stream: TextIO | None = None

    def __enter__(self) -> _FailureLog:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def add(self, failure: Failure) -> None:
        if self._stream is None:
            self._stream = self._file.open("w", encoding="utf-8")
        self._stream.write(json.dumps(asdict(failure)) + "\n")
        self._stream.flush()
