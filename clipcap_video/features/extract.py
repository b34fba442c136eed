"""Frame features on disk: a run that does what is missing, lists what cannot be read, and may be killed any time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from clipcap_video import console
from clipcap_video.devices import peak_device_memory
from clipcap_video.encoders.base import ImageEncoder
from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.features.base import Origin
from clipcap_video.features.encode import EncodedVideo, encode_videos
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.logs import ExtractionSummary, Failure, Log, Warned, keep_warnings
from clipcap_video.features.resume import (
    FAILURES_FILE,
    WARNINGS_FILE,
    clear_leftovers,
    join_parts,
    missing_videos,
)
from clipcap_video.features.shards import ShardWriter
from clipcap_video.features.store import SUFFIX, FileWriter
from clipcap_video.files import alone_in, fits_a_name
from clipcap_video.runs.engine import Shard
from clipcap_video.runs.plan import Plan, measure, peak_memory
from clipcap_video.video.damage import MAX_DAMAGE
from clipcap_video.video.decoder import DECODER
from clipcap_video.video.files import shown
from clipcap_video.video.sampling import SamplingSpec, Span


class Encode(Protocol):
    """Makes the features of videos (id -> path), in any order. spans: the parts of those that are not read whole."""

    def __call__(
        self, videos: dict[str, Path], *, spans: Mapping[str, Span] | None
    ) -> Iterable[tuple[str, EncodedVideo | VideoError]]: ...


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
    max_damage: float = MAX_DAMAGE,
    shard: Shard | None = None,
    shard_mb: float | None = None,
    encode: Encode | None = None,
    place: Path | None = None,
) -> ExtractionSummary:
    """Writes the features of each of `videos` (id -> path) that `out` lacks, in their order.

    batch_size, workers, normalize, max_damage: see `encode_videos`. overwrite: make all anew, whatever is there.
    spans: the part to read of those videos (by id) that are not read whole; several ids may share a file.
    shard: which share of all videos `videos` are, where other runs do the others in the same folder.
    shard_mb: megabytes of a Parquet file; None is a file `<out>/<video_id>.safetensors` a video.
    place: where the features go if not to `out`, a URL say. encode: makes the features, unless this process does.

    A video that cannot be read becomes a line of `<out>/failures.jsonl`, which holds the failures of this run alone and
    is absent when there are none; one that is damaged less, of `<out>/warnings.jsonl`, those of earlier runs included.
    A run may be killed at any moment and started again. Raises ClipcapError before any work when `out` holds features
    of another kind, or another process extracts into it, unless both do a shard.
    """
    if batch_size < 1 or workers < 1:
        raise ClipcapError(f"batch size {batch_size} and workers {workers} must both be 1 or more")
    start = time.perf_counter()
    fingerprint = fingerprint_of(encoder, spec, normalize)
    _make_folder(out)
    with alone_in(out, "extracting into", shared=shard is not None):
        todo = missing_videos(videos, place or out, fingerprint, overwrite, shard_mb is not None)
        clear_leftovers(out, shard)
        failed, warned = (shard.part_of(name) if shard else name for name in (FAILURES_FILE, WARNINGS_FILE))
        summary = ExtractionSummary(fingerprint, skipped=len(videos) - len(todo))
        bar = tqdm(total=len(videos), initial=summary.skipped, unit="video", disable=console.hides_bars(progress))
        keep_warnings(out / warned, todo)
        writer = _writer(place or out, encoder.dim, fingerprint, shard_mb)
        encode = encode or partial(
            encode_videos, encoder=encoder, spec=spec, batch_size=batch_size, workers=workers, normalize=normalize,
            max_damage=max_damage,
        )  # fmt: skip
        with bar, Log(out / failed) as failures, Log(out / warned, append=True) as warnings, writer:
            for video_id, video in _all_of(todo, encode, spans):
                line = _keep(video_id, todo[video_id], video, writer, summary)
                if line is not None:
                    (warnings if isinstance(line, Warned) else failures).add(line)
                bar.set_postfix_str(f"{summary.frames / (time.perf_counter() - start):.0f} frames/s", refresh=False)
                bar.update()
        if shard is not None:
            join_parts(out, FAILURES_FILE, shard.count, videos)
            join_parts(out, WARNINGS_FILE, shard.count, todo)
    summary.seconds = time.perf_counter() - start
    return summary


def _writer(out: Path, dim: int, fingerprint: Fingerprint, shard_mb: float | None) -> FileWriter | ShardWriter:
    return FileWriter(out, fingerprint) if shard_mb is None else ShardWriter(out, dim, fingerprint, shard_mb)


def _all_of(
    videos: dict[str, Path], encode: Encode, spans: Mapping[str, Span] | None
) -> Iterator[tuple[str, EncodedVideo | VideoError]]:
    """What becomes of each of `videos`; those come first whose names no file of features can have."""
    unnamed = {name: _too_long(name) for name in videos if not fits_a_name(f"{name}{SUFFIX}")}
    yield from unnamed.items()
    yield from encode({name: path for name, path in videos.items() if name not in unnamed}, spans=spans)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ClipcapError(f"{out} is not a folder; give another place for the features") from None


def _keep(
    video_id: str,
    path: Path,
    video: EncodedVideo | VideoError,
    writer: FileWriter | ShardWriter,
    summary: ExtractionSummary,
) -> Failure | Warned | None:
    """Writes what became of a video. Returns the line that is to be kept of it, if one."""
    if isinstance(video, EncodedVideo):
        writer.add(video_id, video.features, video.timestamps, Origin(DECODER, video.damage))
    else:
        writer.fail(video_id, str(video))
    return summary.count(video_id, path, video)


def _too_long(name: str) -> VideoError:
    return VideoError(f"the name {shown(name)} is too long for a feature file; rename the video")


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
    max_damage: float = MAX_DAMAGE,
    shard_mb: float | None = None,
) -> Plan:
    """What `extract` with these arguments would take, measured on some of the videos; `out` is left alone."""
    fingerprint = fingerprint_of(encoder, spec, normalize)
    todo = missing_videos(videos, out, fingerprint, overwrite, shard_mb is not None)
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
                max_damage=max_damage,
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
