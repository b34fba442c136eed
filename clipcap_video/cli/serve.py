"""`clipcap-video serve`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipcap_video import console
from clipcap_video.captioning.config import BeamOptions, CaptionerOptions, WordingOptions, chosen_settings
from clipcap_video.cli.caption import load_captioner
from clipcap_video.cli.command import Command
from clipcap_video.errors import ClipcapError
from clipcap_video.runs.options import ANY, Options, option

if TYPE_CHECKING:
    from clipcap_video.captioning.captioner import Captioner
    from clipcap_video.decoding import DecodingSettings


@dataclass
class ServeConfig(WordingOptions, BeamOptions, CaptionerOptions, Options):
    """Options of `clipcap-video serve`."""

    host: str = option(
        "127.0.0.1",
        "Address to listen at; 127.0.0.1 is reached from this machine alone. Whoever reaches the page sees every video "
        "on it.",
    )
    port: int = option(7860, "Port to listen at.", least=1, most=65535)
    max_mb: int = option(500, "Larger files are refused, in MB.", least=1)
    api: bool = option(False, "An HTTP endpoint instead of the page; see docs/serve.md.")
    api_key: str | None = option(
        None, "Token that callers of the endpoint must send; CLIPCAP_API_KEY unless given.", needs={"api": True}
    )
    root: Path | None = option(None, "Folder whose videos callers may name by their paths.", needs={"api": True})
    features: Path | None = option(None, "Features that /v1/search searches.", needs={"api": True})
    retrieval_dir: Path | None = option(
        None, "A retrieval model trained on these features, to search by.", needs={"features": ANY}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.api_key is not None and not self.api_key.strip():
            raise ClipcapError("--api_key is empty, and would let everybody in; give a token, or leave it out")


def _serve(config: ServeConfig) -> None:
    """A page in the browser: drop a video, get its captions and subtitles, search the videos so far. Or an endpoint.

    Needs pip install 'clipcap-video[web]'. Videos stay on this machine, and what was dropped is deleted when
    the page ends.

    Examples:
      clipcap-video serve
      clipcap-video serve --model_dir out/ --port 8000
      clipcap-video serve --api --port 8000 --root videos/ --features features/
    """
    from clipcap_video.captioning.results import require_support
    from clipcap_video.captioning.run import with_defaults_of

    settings = chosen_settings(config)
    captioner = load_captioner(config)
    settings = with_defaults_of(settings, captioner, config)
    require_support(config.min_support, captioner, settings)
    if config.api:
        return _serve_api(config, captioner, settings)
    from clipcap_video.web.page import Address, serve

    serve(captioner, settings, Address(config.host, config.port), max_mb=config.max_mb, wording=config.wording)


def _serve_api(config: ServeConfig, captioner: Captioner, settings: DecodingSettings) -> None:
    try:
        from clipcap_video.web.api import serve
    except ImportError as error:
        raise ClipcapError(f"--api needs {error.name}; install it with pip install 'clipcap-video[web]'") from None
    from clipcap_video.search.searching import VideoSearch
    from clipcap_video.web.batching import CaptionQueue
    from clipcap_video.web.library import MEGABYTE

    if config.root is not None and not config.root.is_dir():
        raise ClipcapError(f"--root {config.root} is no folder; name the folder of the videos")
    search = None
    if config.features is not None:
        search = VideoSearch(config.features, config.retrieval_dir, device=config.device)
        console.detail(f"{len(search.index.ids)} videos can be searched")
    serve(
        CaptionQueue(captioner, settings, config.max_mb * MEGABYTE),
        config.host,
        config.port,
        root=config.root,
        search=search,
        api_key=config.api_key or os.environ.get("CLIPCAP_API_KEY") or None,
        wording=config.wording,
    )


serve = Command(ServeConfig, _serve, "serve")
