"""From a dataclass of options to a command: field names are option names, metadata gives help and panel.

Every such command also takes `--config FILE`, whose options stand in for those that the command line leaves out, and
leaves the record of its run beside what it made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer


def command_of(config_class: type[Any], run: Callable[[Any], Path | None], name: str) -> Callable[..., None]:
    """A typer command with one option for each field of `config_class`; it calls `run` with the filled dataclass.

    run: returns the file or folder that it made, beside or in which a record of the options is then left; None where
    it made none, or keeps a fuller record itself. Its docstring becomes the command's help.
    name: what the command is called.
    """
    hints = get_type_hints(config_class)
    flags = [field.name for field in fields(config_class) if hints[field.name] is bool]

    def command(**values: Any) -> None:
        del values["config"]
        for flag in flags:
            if values.pop(f"no_{flag}"):
                values[flag] = False
        config = config_class(**values)
        made = run(config)
        if made is not None:
            from clipcap_video.runs.record import record_run

            record_run(made, name, config)

    parameters = [_config_parameter(config_class, hints, name)]
    parameters += [_parameter(field, hints[field.name]) for field in fields(config_class)]
    parameters += [_unset_parameter(flag) for flag in flags]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = run.__doc__
    return command


def _config_parameter(config_class: type[Any], hints: dict[str, Any], command: str) -> inspect.Parameter:
    names = [field.name for field in fields(config_class)]
    several = [name for name in names if "list[" in str(hints[name])]

    def fill(context: typer.Context, file: Path | None) -> Path | None:
        from clipcap_video.errors import ClipcapError
        from clipcap_video.runs.record import read_options

        if file is not None:
            try:
                context.default_map = read_options(file, names, several, command)
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


def _unset_parameter(flag: str) -> inspect.Parameter:
    option = typer.Option(f"--no_{flag}", hidden=True)
    return inspect.Parameter(
        f"no_{flag}", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
    )


def _parameter(field: Field[Any], hint: Any) -> inspect.Parameter:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    default = inspect.Parameter.empty if default is MISSING else default
    if field.metadata.get("argument"):
        argument = typer.Argument(help=field.metadata["help"], show_default=False)
        return _keyword(field, Annotated[hint, argument], default)
    # The `--no_...` twin of a flag is for option files alone, and does not show: a flag is off until it is given.
    option = typer.Option(
        f"--{field.name}",
        help=field.metadata["help"],
        rich_help_panel=field.metadata.get("panel"),
        metavar=field.metadata.get("metavar"),
        min=field.metadata.get("least"),
        show_default=hint is not bool,
    )
    return _keyword(field, Annotated[hint, option], default)


def _keyword(field: Field[Any], annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
