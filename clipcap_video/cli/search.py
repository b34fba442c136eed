"""`clipcap-video search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def search_videos(
    text: Annotated[str | None, typer.Argument(help="What the videos should show: 'a man riding a horse'.")] = None,
    features: Annotated[
        Path, typer.Option("--features", help="Features to search: a folder from extract_features.py, or .hdf5.")
    ] = Path("features"),
    like: Annotated[
        str | None,
        typer.Option("--like", help="Search by a video instead: a file, or the id of one in the features."),
    ] = None,
    model_dir: Annotated[
        Path | None,
        typer.Option(
            "--model_dir",
            help="A retrieval model trained on these features; without it, the encoder that made them reads the text.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", help="Videos to show.", min=1)] = 10,
    rank_by: Annotated[
        Literal["moment", "video"],
        typer.Option(
            "--rank_by", help="moment: by a video's best frame. video: by the mean of its frames, as CLIP4Clip does."
        ),
    ] = "moment",
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
    index: Annotated[
        Path | None, typer.Option("--index", help="Folder for the search index; FEATURES/search unless given.")
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the index anew, whatever is there.")] = False,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Where the encoder is, if not where the features say.")
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option("--encoder_weights", help="A file of weights for the encoder, where its own cannot be had."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto takes CUDA, then MPS, then the CPU.")] = "auto",
) -> None:
    """Find videos by a text, or by another video.

    Prints the best videos with their scores (cosines) and the time of the frame that fits best. The index of all
    frames is made once, beside the features, and brought up to date when they change.
    """
    import json
    from dataclasses import asdict

    from clipcap_video.errors import ClipcapError

    if (text is None) == (like is None):
        raise ClipcapError("give either a text to search for, or a video with --like")
    from clipcap_video.export.report import format_seconds
    from clipcap_video.search.searching import VideoSearch

    videos = VideoSearch(
        features, model_dir, index_folder=index, rebuild=rebuild, encoder=encoder, encoder_weights=encoder_weights,
        device=device,
    )  # fmt: skip
    hits = videos.by_video(like, top, rank_by) if like is not None else videos.by_text(text or "", top, rank_by)
    if json_output:
        results = [{"rank": rank, **asdict(hit)} for rank, hit in enumerate(hits, 1)]
        query = {"text": text} if like is None else {"like": like}
        print(json.dumps({**query, "rank_by": rank_by, "videos": len(videos.index.ids), "results": results}, indent=1))
        return
    width = max((len(hit.video) for hit in hits), default=0)
    for rank, hit in enumerate(hits, 1):
        moment = f"frame {hit.frame + 1}" if hit.time is None else f"at {format_seconds(hit.time)}"
        print(f"{rank:>4}  {hit.video:<{width}}  {hit.score:.3f}  {moment}")
