"""`clipcap-video pack`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from clipcap_video.cli.command import Command
from clipcap_video.runs.options import FOLDER, Options, option


@dataclass
class PackConfig(Options):
    """Options of `clipcap-video pack`."""

    model_dir: Path = option(
        MISSING, "A checkpoint of a captioner or a retrieval model, or the folder of a run.", argument=True
    )
    out: Path = option(MISSING, "Folder for the packed checkpoint.", made=FOLDER)


def _pack(config: PackConfig) -> None:
    """Pack a checkpoint for sharing: half the size, and without the paths of the data that it was trained on.

    Weights are stored as float16 and computed with in float32 as before. A frozen language model and the encoder are
    not in it, and still named by their places. The starter captioner is made this way.

    Examples:
      clipcap-video pack out/ --out packed/
    """
    import torch

    from clipcap_video.captioning.ranking import load_ranker
    from clipcap_video.models.checkpoint import find_checkpoint, pack_checkpoint, read_config
    from clipcap_video.retrieval.model import holds_retrieval, pack_retrieval

    checkpoint = find_checkpoint(config.model_dir)
    retrieves = holds_retrieval(checkpoint)
    if checkpoint.is_dir() and not retrieves:  # a consensus network is packed as it is, if it is whole
        load_ranker(checkpoint, read_config(checkpoint)[0].feature_dim, torch.device("cpu"))
    # No record of the run is left: it would carry this machine's paths to whoever gets the folder.
    size = (pack_retrieval if retrieves else pack_checkpoint)(checkpoint, config.out)
    print(f"packed into {config.out}: {size / 1e6:.1f} MB")


pack = Command(PackConfig, _pack, "pack")
