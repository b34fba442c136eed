"""From a dataclass of options to a command: field names are option names, metadata gives help and panel.

Every such command also takes `--config FILE`, whose options stand in for those that the command line leaves out, `-q`
and `-v`, and leaves the record of its run beside what it made.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from clipcap_video import console
from clipcap_video.errors import ClipcapError, told_of
from clipcap_video.runs.options import (
    FILE,
    FOLDER,
    called,
    choices_of,
    default_of,
    option_fields,
    option_hints,
    refuse_idle,
)


class Command:
    """A typer command with one option for each of `config_class`; it calls `run` with the filled dataclass.

    run: its docstring becomes the command's help.
    name: what the command is called. error_status: its exit status after an error. records: a record of the options is
    left beside what it makes; other commands make nothing that needs one, or keep a fuller one themselves.
    Typer reads a command from its signature, which is made when it looks: by then everything is registered that an
    option may choose among.
    """

    def __init__(
        self,
        config_class: type[Any],
        run: Callable[[Any], None],
        name: str,
        error_status: int = 1,
        records: bool = False,
    ) -> None:
        self.config_class, self.run, self.error_status, self.records = config_class, run, error_status, records
        self.__name__ = name
        self.__doc__ = _help(inspect.cleandoc(run.__doc__ or ""))

    @property
    def __signature__(self) -> inspect.Signature:
        hints = option_hints(self.config_class)
        parameters = [_context_parameter(), _config_parameter(self.config_class, hints, self.__name__)]
        items = option_fields(self.config_class)
        parameters += [_parameter(item, hints[item.name]) for item in items]
        parameters += [_named_parameter(item, hints[item.name]) for item in self._arguments()]
        parameters += [_unset_parameter(name) for name, hint in hints.items() if hint is bool]
        if "overwrite" not in hints and any(item.metadata.get("made") in (FILE, FOLDER) for item in items):
            parameters.append(_overwrite_parameter())
        parameters += [_flag("quiet", "-q", "Print nothing but warnings and errors; results are in the files.")]
        parameters += [_flag("verbose", "-v", "Also say what is loaded and when; an error comes with its traceback.")]
        return inspect.Signature(parameters)

    @property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return {name: parameter.annotation for name, parameter in self.__signature__.parameters.items()}

    def _arguments(self) -> list[Field[Any]]:
        return [item for item in option_fields(self.config_class) if item.metadata.get("argument")]

    def __call__(self, context: typer.Context, **values: Any) -> None:
        quiet, verbose = values.pop("quiet"), values.pop("verbose")
        console.set_level(console.QUIET if quiet else console.VERBOSE if verbose else console.USUAL)
        with contextlib.ExitStack() as stack:
            if quiet:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            self._call(context, values)

    def _call(self, context: typer.Context, values: dict[str, Any]) -> None:
        def source(name: str) -> str:
            origin = context.get_parameter_source(name)
            return "" if origin is None else origin.name

        names = [item.name for item in option_fields(self.config_class)]
        typed = {name for name in names if source(name) == "COMMANDLINE"}
        given = {name: values[name] for name in names if name in typed or source(name) == "DEFAULT_MAP"}
        given |= {name: False for name in names if values.get(f"no_{name}")}
        try:
            for item in self._arguments():
                if source(_named(item.name)) == "COMMANDLINE":
                    given[item.name] = _both(item, given.get(item.name) if item.name in typed else None, values)
                    typed.add(item.name)
            self._run(given, typed, values)
        except (ClipcapError, OSError) as error:
            told = told_of(error) if isinstance(error, OSError) else error
            told.status = self.error_status
            raise told from None

    def _run(self, given: dict[str, Any], typed: set[str], values: dict[str, Any]) -> None:
        from clipcap_video.runs.places import check_places
        from clipcap_video.runs.record import note_outputs, whole_or_gone

        config = self.config_class(**given)
        refuse_idle(config, typed)
        check_places(config, self.__name__, values.get("overwrite", False), values["config"])
        try:
            with whole_or_gone(self.__name__, config), self._recorded(config):
                self.run(config)
        except SystemExit:  # a run to its end, in which a video failed or something was found
            note_outputs(self.__name__, config)
            raise
        note_outputs(self.__name__, config)

    def _recorded(self, config: Any) -> contextlib.AbstractContextManager[None]:
        from clipcap_video.runs.record import recorded

        return recorded(self.__name__, config) if self.records else contextlib.nullcontext()


def _help(text: str) -> str:
    """A docstring as typer is to show it: brackets are no markup, and the lines of the examples stay apart."""
    text, found, examples = text.replace("[", "\\[").partition("\n\nExamples:\n")
    # What is one line in the file need not be one on the screen.
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return f"{text}\n\n\b\nExamples:\n{examples}" if found else text


def _context_parameter() -> inspect.Parameter:
    return inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)


def _config_parameter(config_class: type[Any], hints: dict[str, Any], command: str) -> inspect.Parameter:
    several = [name for name in hints if "list[" in str(hints[name])]

    def fill(context: typer.Context, file: Path | None) -> Path | None:
        from clipcap_video.runs.record import read_options

        if file is not None:
            try:
                context.default_map = read_options(file, config_class, several, command)
            except ClipcapError as error:
                raise typer.BadParameter(str(error)) from None
        return file

    option = typer.Option(
        "--config",
        help="A YAML file of options, such as the run.yaml that a run leaves; what is given here as well wins. "
        "--no_FLAG unsets a flag of the file.",
        is_eager=True,
        callback=fill,
    )
    return inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, option]
    )


def _flag(name: str, short: str, text: str) -> inspect.Parameter:
    option = typer.Option(f"--{name}", short, help=text, show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])


def _named(argument: str) -> str:
    return f"{argument}_by_name"


def _named_parameter(item: Field[Any], hint: Any) -> inspect.Parameter:
    """What is given as a bare word may also be given as `--NAME`."""
    option = typer.Option(f"--{called(item.name)}", hidden=True)
    hint = hint if type(None) in get_args(hint) else hint | None
    return inspect.Parameter(
        _named(item.name), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[hint, option]
    )


def _both(item: Field[Any], words: Any, values: dict[str, Any]) -> Any:
    """An argument that was given by name, and perhaps as bare words too."""
    named = values[_named(item.name)]
    if words is None:
        return named
    if not isinstance(named, list):
        raise ClipcapError(f"{called(item.name)} is given twice, as {words} and as {named}; give it once")
    return [*words, *named]


def _unset_parameter(flag: str) -> inspect.Parameter:
    option = typer.Option(f"--no_{flag}", hidden=True)
    return inspect.Parameter(
        f"no_{flag}", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
    )


def _overwrite_parameter() -> inspect.Parameter:
    option = typer.Option(
        "--overwrite", help="Replace outputs that are there already, whatever they are the result of."
    )
    return inspect.Parameter(
        "overwrite", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
    )


def _parameter(item: Field[Any], hint: Any) -> inspect.Parameter:
    default = default_of(item)
    default = inspect.Parameter.empty if default is MISSING else default
    text = item.metadata["help"].replace("[", "\\[")
    if item.metadata.get("argument"):
        # Optional to typer, because the name may be given instead; a required one is asked for by `Part`.
        hint = hint if type(None) in get_args(hint) else hint | None
        argument = typer.Argument(help=text, show_default=False, metavar=called(item.name).upper())
        return _keyword(item, Annotated[hint, argument], None)
    # Of a list of choices typer knows nothing; `Part` checks it.
    if (choices := choices_of(item, hint)) and "list[" not in str(hint):
        chosen = Literal[tuple(choices)]  # type: ignore[valid-type]
        hint = chosen | None if type(None) in get_args(hint) else chosen
    # The `--no_...` twin of a flag is for option files alone, and does not show: a flag is off until it is given.
    option = typer.Option(
        f"--{called(item.name)}",
        help=text,
        rich_help_panel=item.metadata.get("panel"),
        metavar=item.metadata.get("metavar"),
        hidden=item.metadata.get("hidden", False),
        show_default=hint is not bool,
    )
    return _keyword(item, Annotated[hint, option], default)


def _keyword(item: Field[Any], annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
