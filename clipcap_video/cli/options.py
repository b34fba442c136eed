"""From a dataclass of options to a command: field names are option names, metadata gives help and panel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, get_type_hints

import typer


def command_of(config_class: type[Any], run: Callable[[Any], None]) -> Callable[..., None]:
    """A typer command with one option for each field of `config_class`; it calls `run` with the filled dataclass.

    The first paragraphs of `run`'s docstring become the command's help.
    """

    def command(**values: Any) -> None:
        run(config_class(**values))

    hints = get_type_hints(config_class)
    parameters = [_parameter(field, hints[field.name]) for field in fields(config_class)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = run.__doc__
    return command


def _parameter(field: Field[Any], hint: Any) -> inspect.Parameter:
    if field.metadata.get("argument"):
        argument = typer.Argument(help=field.metadata["help"], show_default=False)
        return _keyword(field, Annotated[hint | None, argument], None)
    # A flag has no `--no_...` twin: it is off until it is given.
    option = typer.Option(
        f"--{field.name}",
        help=field.metadata["help"],
        rich_help_panel=field.metadata.get("panel"),
        metavar=field.metadata.get("metavar"),
        show_default=hint is not bool,
    )
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return _keyword(field, Annotated[hint, option], inspect.Parameter.empty if default is MISSING else default)


def _keyword(field: Field[Any], annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
