"""The two Java programs of the official evaluation, run from the jars inside pycocoevalcap."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np

from clipcap_video.errors import ClipcapError
from clipcap_video.files import packaged
from clipcap_video.metrics import ptb
from clipcap_video.metrics.base import Tokens
from clipcap_video.metrics.bootstrap import meteor_statistics


@functools.cache
def java_runs() -> bool:
    """Whether a Java runtime is installed and starts."""
    # macOS ships a `java` that only says where to download one, so finding the name is not enough.
    if shutil.which("java") is None:
        return False
    try:
        return subprocess.run(["java", "-version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _jar(*parts: str) -> Path:
    return packaged("pycocoevalcap", "the official evaluation", "pycocoevalcap").joinpath(*parts)


def tokenize(captions: Sequence[str]) -> list[str]:
    """Tokenises as pycocoevalcap's PTBTokenizer does: the same program, options and dropped punctuation.

    That class writes a file into its own folder, which an installation may not allow; this feeds the program
    through a pipe.
    """
    jar = _jar("tokenizer", "stanford-corenlp-3.4.1.jar")
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    # One caption a line, whatever line separators it holds itself.
    lines = [" ".join(caption.split()) for caption in captions]
    text = "".join(line + "\n" for line in lines).encode("utf-8", "replace")
    result = subprocess.run(command, input=text, capture_output=True)
    output = result.stdout.decode("utf-8").split("\n")
    if result.returncode != 0 or len(output) != len(lines) + 1:
        reason = result.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ClipcapError(
            f"the Java tokenizer failed (exit status {result.returncode}, {len(output) - 1} lines for "
            f"{len(lines)}: {reason[-1] if reason else 'no message'}); check the Java installation"
        )
    return [" ".join(word for word in line.split() if word not in ptb.PUNCTUATION) for line in output[: len(lines)]]


def meteor(hypotheses: Tokens, targets: Tokens, weights: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """METEOR 1.5 of the corpus, from tokenised captions: one hypothesis a video and its references.

    weights: int [S, N], how often each video counts in each of S corpora drawn from it. Returns the figure, and
    that of each of those corpora, float64 [S], from the summed statistics of its videos.
    Raises ClipcapError when the program gives no score.
    """
    # It answers a SCORE line with statistics, and an EVAL line with a score for each and one for all.
    with _meteor_process() as (to_meteor, from_meteor):

        def ask(line: str) -> str:
            try:
                to_meteor.write(line + "\n")
                to_meteor.flush()
            except OSError:  # it has ended; the missing answer says so
                return ""
            return from_meteor.readline().strip()

        statistics = []
        for video, (hypothesis,) in hypotheses.items():
            # Tokenised captions hold no "|||": the tokenizer separates the bars.
            answer = ask(" ||| ".join(["SCORE", *targets[video], hypothesis]))
            if not answer:
                break
            statistics.append(answer)
        # One score a video, then that of the corpus.
        answers = [ask(" ||| ".join(["EVAL", *statistics]))] + [from_meteor.readline().strip() for _ in hypotheses]
        drawn: list[str] = []
        if weights is not None and answers[-1]:
            for totals in weights @ meteor_statistics(statistics):
                drawn.append(ask(" ||| ".join(["EVAL", " ".join(map(str, totals.tolist()))])))
                from_meteor.readline()  # the corpus of this one sum, which says the same
    try:
        return float(answers[-1]), np.array([float(answer) for answer in drawn])
    except ValueError:
        raise ClipcapError("METEOR's Java program ended before it gave a score; it needs 2 GB of free memory") from None


@contextmanager
def _meteor_process() -> Iterator[tuple[IO[str], IO[str]]]:
    jar = _jar("meteor", "meteor-1.5.jar")
    command = ["java", "-jar", "-Xmx2G", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    process = subprocess.Popen(
        command,
        cwd=jar.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdin, process.stdout
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        with suppress(OSError):  # unsent text, and nobody to read it
            process.stdin.close()
