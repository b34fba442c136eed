"""`clipcap-video convert`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

from clipcap_video.cli.command import Command
from clipcap_video.errors import ClipcapError
from clipcap_video.runs.options import ANY, FILE, FOLDER, Options, option


@dataclass
class ConvertConfig(Options):
    """Options of `clipcap-video convert`."""

    old: Path = option(
        MISSING,
        "A checkpoint PREFIX-EPOCH.pt of ClipCap or its MSR-VTT version, or pytorch_model.bin.N of CLIP4Clip; of a "
        "folder of them the last. With --format, features in any layout.",
        argument=True,
    )
    out: Path = option(MISSING, "Folder for the checkpoint, or place of the features.", made=FOLDER)
    format: Literal["safetensors", "parquet", "hdf5"] | None = option(None, "Turn features into this layout.")
    to: Literal["clipcap", "clip4clip"] | None = option(
        None,
        "Turn a checkpoint of ours into that program's, where it has such a form: OUT/clipcap-009.pt, or "
        "OUT/pytorch_model.bin.0.",
        unless={"format": ANY},
    )
    shard_mb: float = option(256, "Megabytes of a Parquet file, about.", above=0, needs={"format": "parquet"})
    lm: str = option(
        "gpt2",
        "The language model that it was trained with, which the file does not name: a Hugging Face name or a local "
        "folder.",
    )
    cross: bool = option(False, "It was trained with --cross, which the file does not tell.")
    normalize_prefix: bool = option(False, "It was trained with --normalize_prefix.")
    prefix_length_clip: int = option(28, "Frames of each video that it was trained on.", least=1)
    max_frames: int = option(12, "CLIP4Clip's option of that name.", least=1)
    max_words: int = option(32, "CLIP4Clip's option of that name.", least=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format == "hdf5" and self.out.suffix not in (".hdf5", ".h5"):
            raise ClipcapError(f"--format hdf5 writes one file; give --out a name that ends in .hdf5, not {self.out}")

    def outputs(self) -> list[tuple[str, Path, str]]:
        return [("--out", self.out, FILE if self.format == "hdf5" else FOLDER)]


def _convert(config: ConvertConfig) -> None:
    """Turn a checkpoint of the ClipCap programs or of CLIP4Clip into one of ours, or features into another layout.

    Prints each key that was mapped or dropped, and each choice that was inferred. The checkpoint remembers how those
    programs decode, so inference writes the captions that they wrote. One of CLIP4Clip becomes a retrieval model: which
    head and which patch projection it has follows from the file. Features keep what is known of how they were made.

    Examples:
      clipcap-video convert coco_prefix-009.pt --out converted/ --lm gpt2
      clipcap-video convert out/ --to clipcap --out old/
      clipcap-video convert features/ --out shards/ --format parquet
    """
    if config.format is not None:
        from clipcap_video.features.layouts import convert_features, open_features

        count = convert_features(open_features(config.old), config.out, config.format, config.shard_mb)
        print(f"features of {count:,} videos written to {config.out}")
        return
    if config.to is not None:
        print(f"written to {_back(config.old, config.out, config.to)}")
        return
    from clipcap_video.models.checkpoint import CheckpointInfo, find_checkpoint, save_checkpoint
    from clipcap_video.models.legacy import LegacyChoices, load_legacy
    from clipcap_video.retrieval.clip4clip import is_clip4clip, last_clip4clip, load_clip4clip
    from clipcap_video.retrieval.model import save_retrieval

    old = config.old
    if old.is_dir():
        old = last_clip4clip(old) or find_checkpoint(old)
    if old.is_dir():
        raise ClipcapError(f"{old} needs no conversion; give it to the other commands with --model_dir")
    if is_clip4clip(old):
        retrieval, report = load_clip4clip(old, config.max_frames, config.max_words)
        save_retrieval(config.out, retrieval, CheckpointInfo())
    else:
        choices = LegacyChoices(
            cross=config.cross, normalize_prefix=config.normalize_prefix, frames=config.prefix_length_clip
        )
        model, report = load_legacy(old, config.lm, choices)
        save_checkpoint(config.out, model, CheckpointInfo())
    print("\n".join(report.lines()))
    print(f"written to {config.out}")


def _back(old: Path, out: Path, to: str) -> Path:
    """Writes a checkpoint of ours in another program's form; the file."""
    import torch

    from clipcap_video.files import whole_file

    if to == "clip4clip":
        from clipcap_video.retrieval.clip4clip import clip4clip_state
        from clipcap_video.retrieval.model import load_retrieval

        state, file = clip4clip_state(load_retrieval(old)[0], old), out / "pytorch_model.bin.0"
    else:
        from clipcap_video.models.checkpoint import load_checkpoint
        from clipcap_video.models.legacy_back import legacy_state

        state, file = legacy_state(load_checkpoint(old)[0], old), out / "clipcap-009.pt"
    with whole_file(file) as partial:
        torch.save(state, partial)
    return file


convert = Command(ConvertConfig, _convert, "convert", records=True)
