"""`clipcap-video pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pack(
    model_dir: Annotated[Path, typer.Option("--model_dir", help="A checkpoint, or the out_dir of a run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the packed checkpoint; what is there is replaced.")],
) -> None:
    """Pack a checkpoint for sharing: half the size, and without the paths of the machine that trained it.

    Weights are stored as float16 and computed with in float32 as before. The starter captioner is made this way.
    """
    from clipcap_video.models.checkpoint import find_checkpoint, pack_checkpoint

    size = pack_checkpoint(find_checkpoint(model_dir), out)
    print(f"packed into {out}: {size / 1e6:.1f} MB")
