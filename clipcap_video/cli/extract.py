"""`extract_features.py` and `clipcap-video extract`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clipcap_video.cli.command import Command
from clipcap_video.files import remote_files, spelled, url_of
from clipcap_video.runs.engine import EngineOptions
from clipcap_video.runs.options import ANY, SHARED, Options, option
from clipcap_video.video.damage import MAX_DAMAGE

if TYPE_CHECKING:
    from clipcap_video.features.extract import Encode
    from clipcap_video.features.logs import ExtractionSummary
    from clipcap_video.features.resume import Request
    from clipcap_video.video.sampling import Span


@dataclass
class ExtractConfig(EngineOptions, Options):
    """Options of `extract_features.py`."""

    videos: list[Path] = option(
        [Path("videos")],
        "Folders (searched with their subfolders), videos, or text files of paths; the folder videos unless given.",
        argument=True,
    )
    caption: list[Path] | None = option(
        None,
        "Annotations: extract only the videos that they name. Of timed sentences (ActivityNet Captions, DiDeMo), each "
        "segment by itself, as OUT/VIDEO@START-END. May be given several times.",
    )
    paragraphs: bool = option(
        False, "With --annotations of timed sentences: extract the videos whole.", needs={"caption": ANY}
    )
    out: Path | None = option(
        None,
        "Folder for the features: one file a video. Named features unless given; see --format for hdf5.",
        made=SHARED,
    )
    format: Literal["safetensors", "parquet", "hdf5"] = option(
        "safetensors",
        "safetensors: one file a video. parquet: thousands in a file, for a million videos. hdf5: one file OUT as the "
        "MSR-VTT ClipCap program reads it, named MSRVTT_TRNVAL_CLIP_FEATURES.hdf5 unless given; the folder OUT without "
        "its ending holds the same features, for a run that resumes.",
    )
    shard_mb: float = option(
        256, "Megabytes of features in a file, about; a new one is also begun every ten minutes.", above=0,
        needs={"format": "parquet"},
    )  # fmt: skip

    encoder: str = option(
        "ViT-B/32",
        "A model of OpenAI's clip or a path to its .pt; hf:NAME_OR_PATH for a CLIP, SigLIP, DINO, VideoMAE and others; "
        "open_clip:NAME/PRETRAINED; timm:NAME; resnet18 to resnet152; efficientnet-lite0 to 4.",
        panel="Encoder",
    )
    encoder_weights: Path | None = option(
        None, "A file of weights for the encoder, where its own cannot be downloaded.", panel="Encoder"
    )
    normalize: bool = option(False, "Divide each feature by its L2 norm.", panel="Encoder")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "auto is bf16 where the device is fast at it.", panel="Encoder"
    )
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.", panel="Encoder")
    bs: int = option(64, "Frames encoded at once; whole clips of an encoder of clips.", panel="Encoder", least=1)

    frames: int = option(28, "Frames kept of each video, at most.", panel="Frames")
    sampling: Literal["uniform", "head", "tail", "fps", "reference"] = option(
        "uniform",
        "uniform: evenly over the video. head, tail: its first or last frames, taken at --fps. fps: all frames taken "
        "at --fps. reference: every (count // FRAMES)-th frame, as the MSR-VTT ClipCap program does.",
        panel="Frames",
    )
    fps: float | None = option(
        None,
        "Take frames at this rate first; 1 for head, tail and fps, every frame for uniform, unless given.",
        panel="Frames",
    )
    max_frames: int | None = option(None, "With --sampling fps: at most so many, evenly spread.", panel="Frames")
    key_frames: bool = option(
        False,
        "Take the nearest key frame where there is one near: long videos are read many times faster, and their frames "
        "are no longer evenly spread to the second.",
        panel="Frames",
    )

    max_damage: float = option(
        MAX_DAMAGE,
        "Use a video of which at most this share of the frames is damaged; sound frames are taken where there are "
        "some. 1 uses all that can be read.",
        panel="Frames",
        least=0,
        most=1,
    )

    workers: int = option(2, "Threads that decode videos.", panel="Run", least=1, most=1000)
    overwrite: bool = option(False, "Make all features anew, whatever is in OUT.", panel="Run")
    dry_run: bool = option(
        False, "Say what the run would take, measured on a few videos, and do nothing.", panel="Run", once=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        from clipcap_video.errors import ClipcapError
        from clipcap_video.runs.defaults import FEATURES, PROGRAM_FEATURES

        if Path(self.encoder).is_file():
            self.encoder = str(Path(self.encoder).resolve())
        if self.out is not None and url_of(self.out) is not None:
            if self.format == "hdf5" or "safetensors" in (self.format if "format" in self.given else ""):
                raise ClipcapError(
                    f"--out {url_of(self.out)}: at a URL features lie in Parquet files; leave out --format"
                )
            self.format = "parquet"
        self.out = self.out or (Path(PROGRAM_FEATURES) if self.format == "hdf5" else FEATURES)
        if self.format == "hdf5" and self.out.suffix not in (".hdf5", ".h5"):
            raise ClipcapError(f"--format hdf5 writes one file; give --out a name that ends in .hdf5, not {self.out}")


def _extract(config: ExtractConfig) -> None:
    """Turn videos into frame features, once, with a frozen encoder.

    Writes OUT/ID.safetensors for every video, ID being the file's name without its ending; Parquet files of many
    videos with --format parquet. Videos that are done are skipped, so a run that was stopped resumes where it was. A
    video that cannot be read is listed with the reason in OUT/failures.jsonl, and the exit status is 1. OUT/run.yaml
    repeats the run.

    Examples:
      clipcap-video extract clips/ --out features/
      clipcap-video extract clips/ --out features/ --encoder efficientnet-lite2 --frames 8
      clipcap-video extract clips/ --out features/ --annotations captions.csv --dry_run
      clipcap-video extract clips/ --out shards/ --format parquet --shard 3/16
    """
    from clipcap_video.datasets.annotations import read_annotations
    from clipcap_video.datasets.matching import count_ids, match_videos
    from clipcap_video.features.resume import Request
    from clipcap_video.features.shards import require_pyarrow
    from clipcap_video.video.files import find_all_videos
    from clipcap_video.video.sampling import SamplingSpec

    assert config.out is not None
    if config.format == "parquet":
        require_pyarrow()
    folder = config.out.with_suffix("") if config.format == "hdf5" else config.out
    spec = SamplingSpec(config.sampling, config.frames, config.fps, config.max_frames, config.key_frames)
    videos = find_all_videos(config.videos, partial(print, file=sys.stderr))
    spans: dict[str, Span] = {}
    if config.caption:
        annotated = match_videos(read_annotations(config.caption, config.paragraphs, need_splits=False), videos)
        videos, spans = annotated.videos, annotated.spans
        if annotated.missing:
            print(f"{count_ids(annotated.missing, 'annotated video')} not among --videos: left out", file=sys.stderr)
    if (shard := config.share) is not None:
        videos = shard.of(videos)
        spans = {video_id: span for video_id, span in spans.items() if video_id in videos}
    name = str(Path(config.encoder).resolve()) if Path(config.encoder).is_file() else config.encoder
    request = Request(name, config.encoder_weights, spec, config.normalize)
    with _home(folder) as (home, place):
        _do_missing(config, request, home, place, videos, spans)


def _do_missing(
    config: ExtractConfig, request: Request, folder: Path, place: Path | None, videos: dict[str, Path],
    spans: dict[str, Span],
) -> None:  # fmt: skip
    from clipcap_video.features.resume import clear_leftovers, missing_videos
    from clipcap_video.runs.places import check_writable

    assert config.out is not None
    shard = config.share
    # Nothing to do is found out before torch and the encoder are loaded.
    known = request.recall(folder) if config.format != "hdf5" and not (config.overwrite or config.dry_run) else None
    parquet = config.format == "parquet"
    if known is not None and not missing_videos(videos, place or folder, known, overwrite=False, parquet=parquet):
        clear_leftovers(folder, shard)
        print(f"all {len(videos)} videos done before; nothing to do in {spelled(place or folder)}")
        return
    if not config.dry_run and place is None:
        check_writable("--out", config.out)
    _make(config, request, folder, place, videos, spans)


@contextmanager
def _home(folder: Path) -> Iterator[tuple[Path, Path | None]]:
    """The folder for all that a run writes beside features, and where those go if elsewhere: of a URL a folder here,
    whose files are put there in the end."""
    if (url := url_of(folder)) is None:
        yield folder, None
        return
    with tempfile.TemporaryDirectory(prefix="clipcap-video-") as here:
        with remote_files(url) as (system, place):
            before = [name for name in (system.ls(place, detail=False) if system.exists(place) else [])
                      if name.endswith((".jsonl", ".json", ".yaml"))]  # fmt: skip
            for name in before:
                system.get_file(name, str(Path(here) / Path(name).name))
        try:
            yield Path(here), folder
        finally:
            with remote_files(url) as (system, place):
                for name in before:
                    if not (Path(here) / Path(name).name).exists():
                        system.rm(name)
                for file in Path(here).iterdir():
                    system.put_file(str(file), f"{place}/{file.name}")


def _make(
    config: ExtractConfig, request: Request, folder: Path, place: Path | None, videos: dict[str, Path],
    spans: dict[str, Span],
) -> None:  # fmt: skip
    """Makes the features, and leaves what tells how."""
    from clipcap_video.devices import pick_device, pick_precision
    from clipcap_video.encoders import load_encoder
    from clipcap_video.features.extract import extract, fingerprint_of, plan_extraction
    from clipcap_video.features.hdf5 import check_replaceable
    from clipcap_video.runs.options import options_of
    from clipcap_video.runs.record import RUN_FILE, videos_digest, write_run

    assert config.out is not None
    if config.format == "hdf5" and not config.overwrite:
        check_replaceable(config.out, {*videos, *(file.stem for file in folder.glob("*.safetensors"))})
    encode = _with_ray(config, request) if config.engine == "ray" and not config.dry_run else None
    # The nodes encode, so that the fingerprint alone is wanted here.
    device = pick_device("cpu" if encode else config.device)
    encoder = load_encoder(request.encoder, device, pick_precision(device, config.precision), config.encoder_weights)
    choices: dict[str, Any] = {
        "batch_size": config.bs, "workers": config.workers, "normalize": config.normalize,
        "overwrite": config.overwrite, "spans": spans, "max_damage": config.max_damage,
        "shard_mb": config.shard_mb if config.format == "parquet" else None,
    }  # fmt: skip
    if config.dry_run:
        plan = plan_extraction(videos, encoder, request.sampling, folder, **choices)
        if config.format == "hdf5":
            plan.disk, plan.where = 2 * plan.disk, f"{folder} and {config.out}"
        print(plan.describe())
        return

    def record() -> None:
        # After the work: a folder with features of another kind is refused, and keeps its own record.
        sources = {
            "videos": len(videos),
            "video_files": videos_digest(videos),
            "features": asdict(fingerprint_of(encoder, request.sampling, config.normalize)),
        }
        write_run(
            folder / RUN_FILE, "extract", options_of(config), sources, device=str(device), precision=encoder.precision
        )

    try:
        summary = extract(
            videos, encoder, request.sampling, folder, shard=config.share, encode=encode, place=place, **choices
        )
    except KeyboardInterrupt:
        record()
        print("stopped; the same command resumes from here", file=sys.stderr)
        sys.exit(130)
    record()
    request.remember(folder, summary.fingerprint)
    _report(config, summary, folder, spelled(place or folder))


def _report(config: ExtractConfig, summary: ExtractionSummary, folder: Path, place: str) -> None:
    """Says what was done, and ends with status 1 where something failed. place: where the features are, in words."""
    from clipcap_video.features.hdf5 import write_hdf5
    from clipcap_video.features.layouts import open_features
    from clipcap_video.features.resume import FAILURES_FILE

    assert config.out is not None
    for video_id, warning in summary.warnings.items():
        print(f"warning: {video_id}: {warning}", file=sys.stderr)
    rate = summary.frames / summary.seconds if summary.seconds else 0.0
    print(
        f"{summary.done} videos done, {summary.skipped} done before, {summary.failed} failed; "
        f"{summary.frames} frames in {summary.seconds:.1f} s ({rate:.1f} frames/s) to {place}"
    )
    if config.format == "hdf5" and summary.done + summary.skipped:
        print(f"{write_hdf5(open_features(folder), config.out)} videos in {config.out}")
    if summary.failed:
        print(f"failures and their reasons: {place}/{FAILURES_FILE}", file=sys.stderr)
        sys.exit(1)


def _with_ray(config: ExtractConfig, request: Request) -> Encode:
    from clipcap_video.scale.ray_data import encode_with_ray, start_ray

    start_ray(config)
    return encode_with_ray(
        config, config.workers, encoder=request.encoder, weights=config.encoder_weights, sampling=request.sampling,
        normalize=config.normalize, precision=config.precision, device=config.device, batch_size=config.bs,
        workers=config.workers, max_damage=config.max_damage,
    )  # fmt: skip


extract_features = Command(ExtractConfig, _extract, "extract")
