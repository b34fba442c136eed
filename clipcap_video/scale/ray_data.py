"""Videos through Ray Data: which rows it is fed, and what is asked of it again when processes die.

Ray Data starts the processes, feeds them, starts them anew and reads what they made. Here stands only this: a batch
whose process died each time is fed again, a video at a time; the video at which it dies then is the one at fault.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clipcap_video import console
from clipcap_video.captioning.captioner import Captioner, CaptionFiles
from clipcap_video.captioning.predictions import Prediction, from_line
from clipcap_video.devices import may_use_gpu
from clipcap_video.errors import ClipcapError, VideoError, first_line
from clipcap_video.features.encode import EncodedVideo
from clipcap_video.features.extract import Encode
from clipcap_video.features.logs import ExtractionSummary, Failure, Warned
from clipcap_video.runs.engine import EngineOptions
from clipcap_video.scale.workers import Columns, FeatureExtractor, VideoCaptioner
from clipcap_video.version import __version__
from clipcap_video.video.damage import Damage
from clipcap_video.video.sampling import Span

# Videos that a process is handed at once. Their frames fill its batches: 7 of 64 with 28 frames each.
AT_ONCE = 16
# Of a process, fewer where there are so few videos that not every process would come to do so many parts.
PARTS = 4
# How often Ray hands a batch to another process when the one that had it died.
RETRIES = 2
# Seconds for a cluster to answer.
PATIENCE = 20


class Guarded:
    """A worker class on a node: what no retry can fix becomes a row that says so, for the driver to stop at."""

    def __init__(self, worker: type[Any], arguments: dict[str, Any], folder: str, version: str) -> None:
        self.problem = ""
        with suppress(OSError):  # a node without that folder; paths from the root are found anyway
            os.chdir(folder)
        if version != __version__:
            self.problem = (
                f"the node {os.uname().nodename} has clipcap-video {__version__} and the driver {version}; "
                "install one version everywhere"
            )
            return
        try:
            self.worker = worker(**arguments)
        except ClipcapError as error:
            self.problem = str(error)

    def __call__(self, batch: Columns) -> Columns:
        if self.problem:
            return {"video_id": batch["video_id"], "problem": np.array([self.problem] * len(batch["video_id"]), object)}
        return self.worker(batch)


def start_ray(options: EngineOptions) -> Any:
    """The module ray, connected to the cluster that the options name, or to one of its own on this machine.

    Raises ClipcapError, in one sentence, when Ray is missing, nothing answers, or versions differ.
    """
    # What Ray says about processes that died is said by us, once.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ClipcapError("--engine ray needs Ray; pip install 'clipcap-video[ray]'") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if not ray.is_initialized():
        place = options.ray_address
        try:
            _knock(place)
            with _without_stderr():  # where it tells that it heeds the level of its log
                ray.init(address=place or "local", logging_level=logging.CRITICAL, log_to_driver=False)
        except Exception as error:  # whatever Ray throws where it finds no cluster, or one that it does not fit
            said = " ".join(str(error).split())
            if "ersion mismatch" in said:
                raise ClipcapError(
                    f"the Ray cluster at {place} and this program have different versions ({said.rstrip('.')}); "
                    "install the same ones everywhere"
                ) from None
            raise ClipcapError(
                f"no Ray cluster at {place or 'this machine'} ({first_line(error)}); start one with "
                "`ray start --head`, or leave out --ray_address"
            ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # what they lack is seen, and asked for again
    return ray


def _knock(address: str | None) -> None:
    """Raises OSError where nothing listens at HOST:PORT, for which Ray would wait for minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), PATIENCE).close()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """A block in which what is written to file descriptor 2, by whatever library, goes nowhere."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def map_videos(
    worker: type[Any],
    arguments: dict[str, Any],
    videos: Mapping[str, Path],
    options: EngineOptions,
    *,
    cpus: int = 1,
    spans: Mapping[str, Span] | None = None,
) -> Iterator[dict[str, Any]]:
    """What `worker(**arguments)` makes of each of `videos` (id -> path), as rows, in the order in which they come.

    cpus: cores of a process. spans: the part to read of those videos (by id) that are not read whole.
    A video at which its process dies again and again becomes a row with an `error` alone.
    Raises ClipcapError for what concerns all videos.
    """
    ray = start_ray(options)
    cluster = ray.cluster_resources()
    gpus = options.gpus_per_actor
    if gpus is None:
        gpus = 1 if cluster.get("GPU") and may_use_gpu(arguments.get("device", "auto")) else 0
    room = min(cluster.get("CPU", 1) // cpus, cluster.get("GPU", 0) // gpus if gpus else math.inf)
    if room < 1:
        raise ClipcapError(
            f"no process fits the Ray cluster, which has {cluster.get('CPU', 0):.0f} cores and "
            f"{cluster.get('GPU', 0):.0f} GPUs; lower --workers or --gpus_per_actor"
        )
    missing = dict(videos)
    for alone in (False, True):
        actors = max(1, min(options.actors or int(room), len(missing)))
        at_once = 1 if alone else max(1, min(AT_ONCE, len(missing) // (PARTS * actors)))
        # By itself in its process, no video pays for another that kills it.
        waiting = {"max_tasks_in_flight_per_actor": 1} if alone else {}
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors, **waiting)
        made = _mapped(ray, _blocks(missing, at_once, spans or {}), (worker, arguments), at_once, pool, cpus, gpus)
        for batch in made.iter_batches(batch_size=None, batch_format="numpy"):
            for row in _rows(batch):
                if row.get("problem"):
                    raise ClipcapError(row["problem"])
                if missing.pop(row["video_id"], None) is not None:
                    yield row
        if not missing:
            return
    for video_id, path in missing.items():
        said = f"{path}: the process that read it died each of {1 + RETRIES} times; re-encode or remove the video"
        yield {"video_id": video_id, "error": said}


def _mapped(
    ray: Any, blocks: list[Any], worker: tuple[Any, Any], at_once: int, pool: Any, cpus: int, gpus: float
) -> Any:
    with warnings.catch_warnings():
        # Ray offers no other way yet to end retries; pyproject.toml says for which versions.
        warnings.simplefilter("ignore", DeprecationWarning)
        return ray.data.from_blocks(blocks).map_batches(
            Guarded, fn_constructor_args=(*worker, os.getcwd(), __version__), batch_size=at_once,
            batch_format="numpy", compute=pool, num_cpus=cpus, num_gpus=gpus, max_task_retries=RETRIES,
        )  # fmt: skip


def encode_with_ray(
    options: EngineOptions, cpus: int, worker: type[FeatureExtractor] = FeatureExtractor, **arguments: Any
) -> Encode:
    """What `extract` takes for `encode`: worker(**arguments) in the processes of Ray Data."""

    def encode(videos: dict[str, Path], spans: Mapping[str, Span] | None = None) -> Iterator[Any]:
        return _encoded(map_videos(worker, arguments, videos, options, cpus=cpus, spans=spans))

    return encode


def caption_with_ray(options: EngineOptions, captioner: Captioner, **arguments: Any) -> CaptionFiles:
    """What stands in for `captioner.caption_files`: VideoCaptioner(**arguments) in the processes of Ray Data."""

    def caption(
        videos: dict[str, Path],
        settings: Any,
        *,
        batch_size: int,
        evidence: bool,
        max_damage: float,
        keep: Callable[[list[Prediction]], list[Prediction]] = list,
    ) -> tuple[list[Prediction], ExtractionSummary]:
        summary = ExtractionSummary(captioner.require_fingerprint())
        chosen = {"settings": settings, "evidence": evidence, "max_damage": max_damage}
        made = map_videos(VideoCaptioner, arguments | chosen, videos, options, cpus=2)
        predictions: dict[str, Prediction] = {}
        for row in tqdm(made, total=len(videos), unit="video", disable=console.hides_bars()):
            video_id = row["video_id"]
            path = str(videos[video_id])
            if row["error"]:
                summary.failed += 1
                summary.failures.append(Failure(video_id, path, row["error"]))
                continue
            summary.done += 1
            summary.frames += int(row["frames"])
            (predictions[video_id],) = keep([from_line(row["prediction"], path)])
            if row["warning"]:
                summary.warnings[video_id] = Warned(video_id, path, row["warning"], _damage(row).to_json())
        in_order = {video_id: number for number, video_id in enumerate(videos)}
        summary.failures.sort(key=lambda failure: in_order[failure.video])
        return [predictions[video_id] for video_id in videos if video_id in predictions], summary

    return caption


def _encoded(rows: Iterator[dict[str, Any]]) -> Iterator[tuple[str, EncodedVideo | VideoError]]:
    """Rows of a FeatureExtractor as `encode_videos` gives them."""
    for row in rows:
        if row["error"]:
            yield row["video_id"], VideoError(row["error"])
        else:
            features, times = np.asarray(row["features"]), np.asarray(row["timestamps"])
            yield row["video_id"], EncodedVideo(features, times, _damage(row), row["warning"] or None)


def _damage(row: Mapping[str, Any]) -> Damage:
    frames, corrupt, missing, errors, truncated, whole = map(int, row["damage"])
    return Damage(frames, corrupt, missing, errors, bool(truncated), bool(whole))


def _blocks(videos: Mapping[str, Path], size: int, spans: Mapping[str, Span]) -> list[Any]:
    """Tables of `size` videos each."""
    import pyarrow

    columns: dict[str, Any] = {"video_id": list(videos), "path": [str(path) for path in videos.values()]}
    if spans:
        parts = [spans.get(video_id) for video_id in videos]
        columns["start"] = [math.nan if part is None else part.start for part in parts]
        columns["end"] = [math.nan if part is None else part.end for part in parts]
    table = pyarrow.table(columns)
    return [table.slice(start, size).combine_chunks() for start in range(0, len(videos), size)]


def _rows(batch: Columns) -> Iterator[dict[str, Any]]:
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(batch, values, strict=True))
