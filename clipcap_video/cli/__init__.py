"""The command line. Commands are thin: options in, a library call, a few printed lines out.

Nothing here imports torch before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib import import_module

import typer

from clipcap_video import console
from clipcap_video.errors import ClipcapError
from clipcap_video.runs.options import called
from clipcap_video.runs.places import RULE
from clipcap_video.stopping import INTERRUPTED, interrupted_by_signals
from clipcap_video.version import __version__


def run_app(app: typer.Typer) -> None:
    """Runs a typer app; an error that the user can fix is one sentence on stderr and exit status 1."""
    # Importing torch and transformers makes millions of objects that stay. Looking through them for garbage again and
    # again would take a quarter of the time to the first training step.
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)  # nor is there anything to look for at the end, where it would take a second
    if not sys.warnoptions:  # what libraries say to programmers; what matters of it, a sentence of ours says
        warnings.simplefilter("ignore")
    # Read when torch is imported: threads of one operation that wait for each other give their cores to others sooner.
    # A training beside one busy process is half as fast again for it, and 6 % slower alone.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    dashed = [name for name in sys.argv[1:] if name[:1] == "-" and name != "--" and os.path.isfile(name)]
    try:
        if sys.argv[1:2] == ["train-retrieval"]:
            from clipcap_video.cli.clip4clip_words import translate

            sys.argv[2:] = translate(sys.argv[2:])
        with interrupted_by_signals():
            app()
    except SystemExit as stop:
        if stop.code == 2 and dashed and "--" not in sys.argv:
            print(
                f"{dashed[0]} is a file: write -- before names that begin with a dash, or ./{dashed[0]}",
                file=sys.stderr,
            )
        raise
    except ClipcapError as error:
        if console.is_verbose():
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def run_command(command: Callable[..., None]) -> None:
    """Runs one command as a script of its own."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=HELP)
    app.command()(command)
    run_app(app)


HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "token_normalize_func": called}


# name -> (file here, command in it), in the order of --help
COMMANDS = {
    "extract": ("extract", "extract_features"),
    "train": ("train", "train_captioner"),
    "infer": ("infer", "caption_videos"),
    "caption": ("caption", "caption"),
    "watch": ("watch", "watch"),
    "serve": ("serve", "serve"),
    "evaluate": ("evaluate", "evaluate"),
    "report": ("report", "report"),
    "search": ("search", "search_videos"),
    "train-consensus": ("train_consensus", "train_consensus"),
    "train-retrieval": ("train_retrieval", "train_retrieval"),
    "evaluate-retrieval": ("train_retrieval", "evaluate_retrieval"),
    "convert": ("convert", "convert"),
    "new-lm": ("new_lm", "new_lm"),
    "pack": ("pack", "pack"),
    "doctor": ("doctor", "doctor"),
    "demo": ("demo", "demo"),
}


def main() -> None:
    """The `clipcap-video` command."""
    app = typer.Typer(
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings=HELP,
        help="ClipCap for video: caption videos, and train captioners on your own.",
        epilog=RULE,
    )
    for name, (module, command) in COMMANDS.items():
        app.command(name)(getattr(import_module(f"clipcap_video.cli.{module}"), command))

    @app.callback(invoke_without_command=True)
    def version(show: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
        if show:
            print(__version__)
            raise typer.Exit

    run_app(app)
