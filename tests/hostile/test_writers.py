"""Every command that writes, in each of its forms: that the table is whole, and where nothing may be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from clipcap_video.cli import COMMANDS
from clipcap_video.cli.command import Command
from clipcap_video.runs.options import called, option_fields
from tests.commands import run
from tests.hostile.test_full_disk import whole_files
from tests.hostile.test_hostile import SECONDS, within
from tests.hostile.writers import NO_WRITERS, WRITERS, Workshop, command_of, workshop  # noqa: F401  (a fixture)


def _outputs() -> Iterator[tuple[str, str]]:
    """Each form of each command, and each of its outputs."""
    for name, words in WRITERS.items():
        outputs = [word for word in words.split() if word.startswith("OUT/")]
        # Of captions that go beside their videos, --out names the record alone.
        yield from ((name, word) for word in outputs if (name, word) != ("infer:beside", "OUT/p.json"))


def test_the_table_is_whole() -> None:
    """It has every command, every option by which something is written, and every form that such an option takes."""
    assert {command_of(name) for name in WRITERS} | NO_WRITERS == set(COMMANDS)
    for command, (module, function) in COMMANDS.items():
        made = getattr(import_module(f"clipcap_video.cli.{module}"), function)
        assert isinstance(made, Command)
        forms = " ".join(words for name, words in WRITERS.items() if command_of(name) == command)
        for item in option_fields(made.config_class):
            if item.metadata.get("made"):
                assert f"--{called(item.name)} OUT/" in forms, (command, item.name)


# What is not in the way of a command that adds files to a folder.
DONE = {"strangers' folder"}
TARGETS = ("input", "hard link", "link", "device", "pipe", "below a file", "stranger", "strangers' folder")


def _put(target: str, place: Path, read: Path) -> Path:
    """Puts what is to be spared where an output is to go, and returns that. read: a file that the run reads."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if target == "input":
        return read
    if target == "hard link":
        os.link(read, place)
    elif target == "link":
        place.symlink_to(read)
    elif target == "device":
        place.symlink_to(os.devnull)  # only looked at
    elif target == "pipe":
        os.mkfifo(place)
    elif target == "stranger":
        place.write_text("mine")
    elif target == "below a file":
        place.write_text("mine")
        return place / place.name
    else:
        place.mkdir()
        (place / "notes.txt").write_text("mine")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--overwrite"]], ids=["", "overwrite"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "output"), list(_outputs()))
def test_nothing_that_was_there_is_lost(
    workshop: Workshop, tmp_path: Path, name: str, output: str, target: str, more: list[str]  # noqa: F811
) -> None:  # fmt: skip
    if name == "train-consensus":
        pytest.skip("it writes into the checkpoint that it reads: tests/consensus/test_network.py")
    if (name, target) == ("infer:coco", "input"):
        pytest.skip("its captions go to another name, with the ending of the format")
    (tmp_path / "out").mkdir()
    words, place = workshop.words(name, tmp_path / "out"), tmp_path / "out" / output[4:]
    read = next(file for file in map(Path, words[1:]) if file.exists())
    read = next(file for file in sorted(read.rglob("*")) if file.is_file()) if read.is_dir() else read
    given = _put(target, place, read)
    words = [str(given) if word == str(place) else word for word in words]
    folders = (tmp_path, workshop.folder, workshop.project.data.parent)
    before = [whole_files(folder) for folder in folders]
    with within(SECONDS):
        done = run("clipcap-video", *words, *more, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    after = [whole_files(folder) for folder in folders]
    lost = {file for old, new in zip(before, after, strict=True) for file in old if new.get(file) != old[file]}
    # A name that a person may give up with --overwrite; what was read through another name is still there.
    replaceable = {f"out/{output[4:]}"} if more and target in ("stranger", "hard link", "link") else set()
    assert not lost - replaceable, done.stderr
    assert Path(os.devnull).is_char_device()
    assert done.returncode or target in DONE or replaceable, done.stdout
