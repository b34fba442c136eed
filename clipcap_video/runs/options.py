"""A dataclass field is an option: its help, its bounds, what it needs and whether a resumed run may change it.

None is *unset*, a value of its own: an option that is unset takes its default, which other options may decide. What was
set is in `given`, so a value that happens to equal the default is still a choice. What an option chooses among may be
a `Registry`, things of one kind by name: a new one is one entry, here or from another program.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from clipcap_video.errors import ClipcapError, parsing
from clipcap_video.files import url_of

# What a command makes: a file; a file beside that, under a name that nobody chose; a folder of the run's own; a folder
# (or store) that runs add to, and whose command looks itself at what is there.
FILE, BESIDE, FOLDER, SHARED = "file", "beside", "folder", "shared"
MOST = 1_000_000  # of any number whose option names no bound of its own
LARGEST_SEED = 2**63 - 1
DEEPEST, WIDEST = 1000, 16_384  # layers, and units in one: far more than anybody trains here
ANY = "(any)"  # in needs and unless: whatever the other option is set to
# Fields, and names of earlier versions -> what the option is called. The old names are still understood.
CALLED = {"data": "features", "caption": "annotations", "out_dir": "out"}


def option(default: Any, help: str, **extra: Any) -> Any:
    """A dataclass field with the text that `--help` shows for it. A default of MISSING makes the option required.

    least, most, above, below: bounds of the value, the last two excluded; 0 and MOST where none are named.
    choices: names, e.g. a Registry, or what returns them; read when they are needed.
    needs, unless: other options and the value (or values, or ANY) with which alone, or with which not, this one has an
        effect; one that has none is refused.
    free: a resumed run may change it. fixed: a run that starts from a checkpoint takes it from there. added: but for
        one that has none of it.
    once: it belongs to one call of the command; no record of the run keeps it. made: it is written, FILE, FOLDER or
        SHARED. chooses: with which other inputs the run is another one, e.g. the epoch of a checkpoint.
    live: it may be a device or a pipe.
    aside: endings of files in its folders that are no input, because the command writes them there.
    panel, metavar, hidden: for `--help`. argument: a bare word, or several; `--NAME` is understood too.
    """
    return field(default=None, metadata={"default": default, "help": help, **extra})


@dataclass(eq=False)
class Part:
    """Options that belong together. Made of keywords; those left out, or None, take their defaults."""

    def __post_init__(self) -> None:
        self.given = {item.name for item in fields(self) if getattr(self, item.name) is not None}
        hints = hints_of(type(self))
        for item in fields(self):
            value, hint = getattr(self, item.name), hints[item.name]
            with parsing(f"--{item.name}", "give another value"):
                value = default_of(item) if value is None else _as_hinted(value, hint)
                if value is MISSING:
                    raise ClipcapError(_missing(item))
                _check_value(item, value, hint)
            setattr(self, item.name, value)


@dataclass(eq=False)
class Options(Part):
    """All options of a command."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_idle(self)

    @classmethod
    def implied(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Options that were set, and those that follow from them."""
        return dict(values)

    def outputs(self) -> list[tuple[str, Path, str]]:
        """What the command writes, the main one first: option, place, and FILE, BESIDE, FOLDER or SHARED."""
        made = [(item.name, getattr(self, item.name), item.metadata.get("made")) for item in option_fields(self)]
        return [(f"--{called(name)}", path, kind) for name, path, kind in made if kind and path is not None]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the checkpoint."""
        return options_of(self)

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """Names of options that change the result and differ from those of a saved run."""
        saved, mine = self.implied(saved), self.to_json()
        idle = idle_options(type(self), vars(self))
        bound = [item for item in option_fields(self) if not item.metadata.get("free") and item.name not in idle]
        # A run of an earlier version had the default of what it did not know.
        then = {item.name: saved.get(item.name, plain_value(default_of(item))) for item in bound if item.name in mine}
        return [name for name, value in then.items() if value != mine[name]]


def option_fields(config: Any) -> list[Field[Any]]:
    """The options of a command: of its dataclass, or of the parts that it is composed of."""
    kind = config if isinstance(config, type) else type(config)
    by_name = {item.name: item for part in parts_of(kind) for item in fields(part)}
    return list(by_name.values())


def option_hints(kind: type[Any]) -> dict[str, Any]:
    """The types of a command's options, by name."""
    return {name: hint for part in parts_of(kind) for name, hint in hints_of(part).items()}


def parts_of(kind: type[Any]) -> list[type[Any]]:
    """The dataclasses that hold a command's options."""
    return kind.parts() if hasattr(kind, "parts") else [kind]


def hints_of(part: Any) -> dict[str, Any]:
    """The types of a part's options, by name."""
    return get_type_hints(part)


def called(name: str) -> str:
    """What an option is called on the command line and in option files: `--beam-size` is `--beam_size`."""
    name = name.replace("-", "_")
    return CALLED.get(name, name)


def default_of(item: Field[Any]) -> Any:
    """What an option is when it is unset."""
    default = item.metadata["default"]
    return list(default) if isinstance(default, list) else default


def choices_of(item: Field[Any], hint: Any) -> list[str]:
    """The names that an option chooses among; none where it may be anything."""
    if "choices" in item.metadata:
        choices = item.metadata["choices"]
        return list(choices() if callable(choices) else choices)
    literal = next((kind for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal), None)
    return list(get_args(literal))


def _as_hinted(value: Any, hint: Any) -> Any:
    """Paths may be given as texts, and one of a list by itself; names of choices as numbers."""
    kinds = {hint, *get_args(hint)}
    if list[Path] in kinds:
        return [Path(path) for path in ([value] if isinstance(value, str | Path) else value)]
    if Path in kinds:
        return Path(value)
    return str(value) if any(get_origin(kind) is Literal for kind in kinds) else value


def _missing(item: Field[Any]) -> str:
    name = called(item.name)
    return f"no {name} given; name it" if item.metadata.get("argument") else f"--{name} is required; give it"


def _check_value(item: Field[Any], value: Any, hint: Any) -> None:
    """Raises ClipcapError for a value that is out of bounds or no choice."""
    if value is None:
        return
    if item.metadata.get("made") == FILE and not value.name:
        raise ClipcapError(f"--{called(item.name)} {value} is a folder; give the name of a file")
    choices = choices_of(item, hint)
    wrong = [one for one in (value if isinstance(value, list) else [value]) if choices and one not in choices]
    if wrong:
        raise ClipcapError(f"--{called(item.name)} must be one of {', '.join(choices)}, not {wrong[0]!r}")
    least, most, above, below = (item.metadata.get(name) for name in ("least", "most", "above", "below"))
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Larger numbers are slips of the hand, on which a run would hang or eat the memory.
        least = 0 if least is None and above is None and not value >= 0 else least
        most = MOST if most is None and below is None and not value <= MOST else most
    # Written so that NaN fails.
    low = (least is None or value >= least) and (above is None or value > above)
    if low and (most is None or value <= most) and (below is None or value < below):
        return
    lower = f"at least {least}" if least is not None else f"above {above}" if above is not None else ""
    upper = f"at most {most}" if most is not None else f"below {below}" if below is not None else ""
    raise ClipcapError(f"--{called(item.name)} must be {' and '.join(filter(None, (lower, upper)))}, not {value}")


def idle_options(kind: type[Any], values: Mapping[str, Any]) -> dict[str, str]:
    """Options that have no effect beside these values (of unset ones the default counts), each with the reason."""
    items, values = option_fields(kind), kind.implied(values)
    known = {item.name: default_of(item) if values.get(item.name) is None else values[item.name] for item in items}
    refused: dict[str, str] = {}
    for item in items:
        # Of options that commands share, some depend on one that not every command has.
        for other, wanted in item.metadata.get("needs", {}).items():
            if other in known and not _is_among(known[other], wanted):
                refused.setdefault(item.name, f"belongs to {_said(other, wanted)}; leave it out, or give that too")
        for other, wanted in item.metadata.get("unless", {}).items():
            if other in known and _is_among(known[other], wanted):
                refused.setdefault(item.name, f"has no effect with {_said(other, known[other])}; leave it out")
    return refused


def refuse_idle(config: Any, names: Collection[str] | None = None) -> None:
    """Raises ClipcapError for an option that was set but has no effect.

    names: those to look at. Unless given, all that were set to another value than the default: the record of a run
    names every option, and may be given back as it is.
    """
    defaults = {item.name: default_of(item) for item in option_fields(config)}
    for name, reason in idle_options(type(config), vars(config)).items():
        changed = name in config.given and getattr(config, name) != defaults[name]
        if changed if names is None else name in names:
            raise ClipcapError(f"--{called(name)} {reason}")


def _is_among(value: Any, wanted: Any) -> bool:
    if wanted == ANY:
        return value is not None and value is not False and value != [] and value != ""
    return value in wanted if isinstance(wanted, tuple) else value == wanted


def _said(name: str, value: Any) -> str:
    value = value[0] if isinstance(value, tuple | list) and value else value
    name = called(name)
    return f"--{name}" if value == ANY or value is True else f"--{name} {value}"


def check_prefix(prefix: str) -> None:
    """Raises ClipcapError for a --prefix that cannot begin the names of checkpoints."""
    if not prefix or "/" in prefix or prefix.startswith("."):
        raise ClipcapError(f"--prefix {prefix!r} cannot name a folder; use letters, digits and _")


def absolute(name: str | None) -> str | None:
    """A name that is also a path here, as a path that holds in any working folder."""
    return str(Path(name).resolve()) if name is not None and Path(name).exists() else name


def options_of(config: Any) -> dict[str, Any]:
    """The options of a run as plain values; those that belong to one call of the command alone are left out.

    Paths are absolute, so that they hold in any working folder.
    """
    kept = (item.name for item in option_fields(config) if not item.metadata.get("once"))
    return {name: plain_value(getattr(config, name)) for name in kept}


def plain_value(value: Any) -> Any:
    if isinstance(value, Path):
        return url_of(value) or str(value.resolve())
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    return [plain_value(item) for item in value] if isinstance(value, list | tuple) else value


def load_object(place: Any) -> Any:
    """What "module:name" names; anything but a text is itself."""
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


class Registry(MutableMapping[str, Any]):
    """name -> thing. What is given as "module:name" is imported when it is first asked for, not for a list of names.

    kind: what they are, for messages.
    """

    def __init__(self, kind: str, entries: dict[str, Any]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Any:
        self._entries[name] = load_object(self._entries[name])
        return self._entries[name]

    def find(self, name: str) -> Any:
        """As `registry[name]`. Raises ClipcapError for an unknown name."""
        if name not in self._entries:
            raise ClipcapError(f"unknown {self.kind} {name!r}; use one of {', '.join(self)}")
        return self[name]

    def __setitem__(self, name: str, thing: Any) -> None:
        self._entries[name] = thing

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
