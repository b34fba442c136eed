"""The command line. Commands are thin: options in, a library call, a few printed lines out.

Nothing here imports torch before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable

import typer

from clipcap_video.errors import ClipcapError
from clipcap_video.version import __version__


def run_app(app: typer.Typer) -> None:
    """Runs a typer app; an error that the user can mend is one sentence on stderr and exit status 1."""
    # Importing torch and transformers makes millions of objects that stay. Looking through them for garbage again and
    # again would take a quarter of the time to the first training step.
    gc.set_threshold(100_000, 50, 100)
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    dashed = [name for name in sys.argv[1:] if name[:1] == "-" and name != "--" and os.path.isfile(name)]
    try:
        app()
    except SystemExit as stop:
        if stop.code == 2 and dashed and "--" not in sys.argv:
            print(
                f"{dashed[0]} is a file: write -- before names that begin with a dash, or ./{dashed[0]}",
                file=sys.stderr,
            )
        raise
    except ClipcapError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        # What no room foresaw of disks and permissions: a folder that cannot be made, a disk that is full.
        if error.filename is None:
            raise
        print(f"error: cannot use {error.filename} ({error.strerror}); check the path and its rights", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def run_command(command: Callable[..., None]) -> None:
    """Runs one command as a script of its own."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=HELP)
    app.command()(command)
    run_app(app)


HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def main() -> None:
    """The `clipcap-video` command."""
    from clipcap_video.cli.caption import caption
    from clipcap_video.cli.convert import convert
    from clipcap_video.cli.demo import demo
    from clipcap_video.cli.doctor import doctor
    from clipcap_video.cli.evaluate import evaluate
    from clipcap_video.cli.extract import extract_features
    from clipcap_video.cli.infer import caption_videos
    from clipcap_video.cli.new_lm import new_lm
    from clipcap_video.cli.pack import pack
    from clipcap_video.cli.report import report
    from clipcap_video.cli.search import search_videos
    from clipcap_video.cli.serve import serve
    from clipcap_video.cli.train import train_captioner
    from clipcap_video.cli.train_consensus import train_consensus
    from clipcap_video.cli.train_retrieval import evaluate_retrieval, train_retrieval

    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings=HELP,
        help="ClipCap for video: caption videos, and train captioners on your own.",
    )
    app.command("extract")(extract_features)
    app.command("train")(train_captioner)
    app.command("infer")(caption_videos)
    app.command("caption")(caption)
    app.command("serve")(serve)
    app.command("evaluate")(evaluate)
    app.command("report")(report)
    app.command("search")(search_videos)
    app.command("train-consensus")(train_consensus)
    app.command("train-retrieval")(train_retrieval)
    app.command("evaluate-retrieval")(evaluate_retrieval)
    app.command("convert")(convert)
    app.command("new-lm")(new_lm)
    app.command("pack")(pack)
    app.command("doctor")(doctor)
    app.command("demo")(demo)

    @app.callback(invoke_without_command=True)
    def version(show: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
        if show:
            print(__version__)
            raise typer.Exit

    run_app(app)
