"""The commands and the Python that the documents show, and a small world in which they can be typed."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("extract_features.py", "train_vtt.py", "inference_vtt.py")
READ_VIDEOS = ("extract", "infer", "caption", "doctor", "extract_features.py", "inference_vtt.py")
PROGRAMS = ("python", "clipcap-video", "make", "pip", "conda", "torchrun", "accelerate", "git", *SCRIPTS)


@dataclass(frozen=True)
class Shown:
    """One command as a document shows it. words: as a shell splits them, without `python`. fenced: in a block."""

    document: str
    line: int
    words: tuple[str, ...]
    fenced: bool

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {' '.join(self.words)}"


def blocks(text: str) -> list[tuple[int, str, list[str]]]:
    """Fenced blocks of a Markdown text: first line's number, language, lines."""
    found: list[tuple[int, str, list[str]]] = []
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("```"):
            inside = not inside
            if inside:
                found.append((number + 1, stripped[3:].strip(), []))
        elif inside:
            found[-1][2].append(line)
    return found


def commands_of(document: str) -> list[Shown]:
    """Every command of a document: lines of fenced blocks, and spans of code in the text that begin with a program."""
    text = (ROOT / document).read_text("utf-8")
    found = []
    for first, language, lines in blocks(text):
        if language in ("python", "json", "yaml"):
            continue
        whole, start = "", first
        for number, line in enumerate(lines, first):
            start = start if whole else number
            whole += line.rstrip().removesuffix("\\") + " "
            if not line.rstrip().endswith("\\"):
                found += _command(document, start, whole, fenced=True)
                whole = ""
    prose = re.sub(r"^```.*?^```", lambda match: "\n" * match[0].count("\n"), text, flags=re.S | re.M)
    for match in re.finditer(r"`([^`\n]+)`", prose):
        found += _command(document, prose.count("\n", 0, match.start()) + 1, match[1], fenced=False)
    return found


def _command(document: str, line: int, text: str, fenced: bool) -> list[Shown]:
    try:
        words = shlex.split(text.strip().removeprefix("$ "), comments=True)
    except ValueError:
        return []
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
        words = words[1:]
    if not words or words[0] not in PROGRAMS or (len(words) == 1 and (not fenced or words[0] in SCRIPTS)):
        return []
    if words[0] == "python":
        words = words[1:]
        if words[0] not in SCRIPTS and not fenced:
            return []
    return [Shown(document, line, tuple(words), fenced)]


def python_of(document: str) -> list[tuple[int, str]]:
    """The Python blocks of a document, each with its first line's number."""
    text = (ROOT / document).read_text("utf-8")
    return [(first, "\n".join(lines)) for first, language, lines in blocks(text) if language == "python"]


class World:
    """A folder in which the documents' files lie, whatever they are called: made as commands name them.

    Each maker writes one kind of thing to a path: a clip, a folder of clips, features, annotations, a run, ...
    """

    def __init__(self, folder: Path, makers: dict[str, Callable[[Path], object]], stand_ins: dict[str, str]) -> None:
        self.folder = folder
        self.makers = makers
        self.stand_ins = stand_ins

    def prepare(self, shown: Shown) -> list[str]:
        """The words to type: models that cannot be downloaded replaced, inputs made, outputs that are new removed."""
        words = [self.stand_ins.get(word, word) for word in shown.words]
        program = shown.words[1] if shown.words[0] == "clipcap-video" and len(words) > 1 else shown.words[0]
        before = ""
        for word in words:
            self._provide(program, before, word)
            before = word
        if program in ("infer", "inference_vtt.py") and "--out" not in words:
            (self.folder / "predictions.json").unlink(missing_ok=True)  # of another page's videos
        if program in ("train_vtt.py", "train") and "--lm" not in words:
            words += ["--lm", self.stand_ins["gpt2"]]
        return words

    def _provide(self, program: str, option: str, word: str) -> None:
        path = self.folder / word
        if option in ("--out_dir", "--out"):
            # What the documents make is new to the reader; features go on from where they were.
            if path.is_dir() and program not in ("extract_features.py", "extract"):
                shutil.rmtree(path)
            return
        kinds = {
            "--data": "features", "--caption": "annotations", "--features": "features", "--annotations": "annotations",
             "--model_dir": "run", "--init_from": "run", "--lm": "lm",
            "--predictions": "predictions", "--judged": "verdicts", "--report": "", "--encoder": "",
        }  # fmt: skip
        kind = kinds.get(option)
        bare = kind is None and not option.startswith("--")
        if kind is None and re.search(r"\.(mp4|mov|mkv|webm|avi)$", word):
            kind = "clip"
        elif kind is None and (option == "--videos" or word.startswith("VIDEOS=")):
            path, kind = self.folder / word.removeprefix("VIDEOS="), "clips"
        elif bare and (word.endswith("/") if program in READ_VIDEOS else program == "demo" and word != program):
            kind = "clips"
        elif kind is None and program == "report" and word.endswith(".json"):
            kind = "predictions"
        elif kind is None and word.endswith(".json") and not option.startswith("--"):
            kind = "annotations"
        # Predictions are those of the world's own captioner, whatever an earlier command wrote under that name.
        if kind and (kind == "predictions" or not path.exists()) and not word.startswith("-"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.makers[kind](path)
