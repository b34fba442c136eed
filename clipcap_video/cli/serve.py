"""`clipcap-video serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipcap_video.captioning.config import chosen_settings
from clipcap_video.cli.caption import as_in_infer, load_captioner
from clipcap_video.cli.command import command_of
from clipcap_video.runs.options import option


@dataclass
class ServeConfig:
    """Options of `clipcap-video serve`."""

    host: str = option(
        "127.0.0.1",
        "Address to listen at; 127.0.0.1 is reached from this machine alone. Whoever reaches the page sees every video "
        "on it.",
    )
    port: int = option(7860, "Port to listen at.")
    max_mb: int = option(500, "Larger files are refused, in MB.")

    model_dir: Path | None = as_in_infer("model_dir")
    lm: str | None = as_in_infer("lm")
    encoder: str | None = as_in_infer("encoder")
    encoder_weights: Path | None = as_in_infer("encoder_weights")
    precision: Literal["auto", "fp32", "bf16"] = as_in_infer("precision")
    device: str = as_in_infer("device")
    entry_length: int | None = as_in_infer("entry_length")
    use_beam_search: bool = as_in_infer("use_beam_search")
    beam_size: int | None = as_in_infer("beam_size")
    no_consensus: bool = as_in_infer("no_consensus")
    length_penalty: float | None = as_in_infer("length_penalty")

    def __post_init__(self) -> None:
        from clipcap_video.errors import ClipcapError

        if not 1 <= self.port <= 65535:
            raise ClipcapError(f"--port must be from 1 to 65535, not {self.port}")
        if self.max_mb < 1:
            raise ClipcapError(f"--max_mb must be at least 1, not {self.max_mb}")


def _serve(config: ServeConfig) -> None:
    """A page in the browser: drop a video, get its captions and subtitles, search the videos so far.

    Needs Gradio: pip install 'clipcap-video[web]'. Videos stay on this machine, and what was dropped is deleted when
    the page ends.
    """
    from clipcap_video.captioning.run import with_defaults_of
    from clipcap_video.web.page import Address, serve

    settings = chosen_settings(config)
    captioner = load_captioner(config)
    settings = with_defaults_of(settings, captioner, config)
    serve(captioner, settings, Address(config.host, config.port), max_mb=config.max_mb)


serve = command_of(ServeConfig, _serve, "serve")
