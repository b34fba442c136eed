"""`clipcap-video search`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipcap_video.cli.command import Command
from clipcap_video.runs.options import SHARED, Options, option


@dataclass
class SearchConfig(Options):
    """Options of `clipcap-video search`."""

    text: str | None = option(None, "What the videos should show: 'a man riding a horse'.", argument=True)
    features: Path = option(Path("features"), "Features to search: a folder from extract_features.py, or .hdf5.")
    like: str | None = option(None, "Search by a video instead: a file, or the id of one in the features.")
    model_dir: Path | None = option(
        None,
        "A retrieval model trained on these features; without it, the encoder that made them reads the text.",
    )
    top: int = option(10, "Videos to show.", least=1)
    rank_by: Literal["moment", "video"] = option(
        "moment", "moment: by a video's best frame. video: by the mean of its frames, as CLIP4Clip does."
    )
    json: bool = option(False, "Print one JSON object instead of lines.")
    index: Literal["exact", "ivf"] = option(
        "exact",
        "ivf: look at candidates alone, for millions of frames (pip install 'clipcap-video[search]'); below a million, "
        "search is exact all the same.",
    )
    index_dir: Path | None = option(None, "Folder for the search index; FEATURES/search unless given.", made=SHARED)
    encoder: str | None = option(None, "Where the encoder is, if not where the features say.")
    encoder_weights: Path | None = option(None, "A file of weights for the encoder, where its own cannot be had.")
    device: str = option("auto", "auto takes CUDA, then MPS, then the CPU.")


def _search(config: SearchConfig) -> None:
    """Find videos by a text, or by another video.

    Prints the best videos with their scores (cosines) and the time of the frame that fits best. The index of all
    frames is made once, beside the features, and brought up to date when they change.

    Examples:
      clipcap-video search 'a man riding a horse' --features features/
      clipcap-video search --like clip.mp4 --features features/ --top 5
    """
    import json
    from dataclasses import asdict

    from clipcap_video.errors import ClipcapError

    text, like = config.text, config.like
    if (text is None) == (like is None):
        raise ClipcapError("give either a text to search for, or a video with --like")
    from clipcap_video.report.page import format_seconds
    from clipcap_video.search.searching import VideoSearch

    videos = VideoSearch(
        config.features,
        config.model_dir,
        index_folder=config.index_dir,
        ivf=config.index == "ivf",
        encoder=config.encoder,
        encoder_weights=config.encoder_weights,
        device=config.device,
    )
    rank_by = config.rank_by
    if like is not None:
        hits = videos.by_video(like, config.top, rank_by)
    else:
        hits = videos.by_text(text or "", config.top, rank_by)
    if config.json:
        results = [{"rank": rank, **asdict(hit)} for rank, hit in enumerate(hits, 1)]
        query = {"text": text} if like is None else {"like": like}
        print(json.dumps({**query, "rank_by": rank_by, "videos": len(videos.index.ids), "results": results}, indent=1))
        return
    width = max((len(hit.video) for hit in hits), default=0)
    for rank, hit in enumerate(hits, 1):
        moment = f"frame {hit.frame + 1}" if hit.time is None else f"at {format_seconds(hit.time)}"
        print(f"{rank:>4}  {hit.video:<{width}}  {hit.score:.3f}  {moment}")


search_videos = Command(SearchConfig, _search, "search")
