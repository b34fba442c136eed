"""`clipcap-video serve`."""

from __future__ import annotations

from dataclasses import dataclass

from clipcap_video.captioning.config import BeamOptions, CaptionerOptions, WordingOptions, chosen_settings
from clipcap_video.cli.caption import load_captioner
from clipcap_video.cli.command import Command
from clipcap_video.runs.options import Options, option


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


def _serve(config: ServeConfig) -> None:
    """A page in the browser: drop a video, get its captions and subtitles, search the videos so far.

    Needs Gradio: pip install 'clipcap-video[web]'. Videos stay on this machine, and what was dropped is deleted when
    the page ends.

    Examples:
      clipcap-video serve
      clipcap-video serve --model_dir out/ --port 8000
    """
    from clipcap_video.captioning.results import require_support
    from clipcap_video.captioning.run import with_defaults_of
    from clipcap_video.web.page import Address, serve

    settings = chosen_settings(config)
    captioner = load_captioner(config)
    settings = with_defaults_of(settings, captioner, config)
    require_support(config.min_support, captioner, settings)
    serve(captioner, settings, Address(config.host, config.port), max_mb=config.max_mb, wording=config.wording)


serve = Command(ServeConfig, _serve, "serve")
