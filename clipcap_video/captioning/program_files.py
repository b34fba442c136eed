"""The result files of the MSR-VTT ClipCap program, for those who compare with its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipcap_video.errors import ClipcapError
from clipcap_video.files import whole_file
from clipcap_video.metrics.captioning import score_untokenized


def write_program_files(
    folder: Path, captions: Mapping[str, str], references: Mapping[str, Sequence[str]], beam: bool
) -> list[Path]:
    """Writes pred.json (pred_beam.json for beam search) and, where there are references, "score" + that name.

    The first gives each video id a list of its one caption; the second BLEU, ROUGE-L and CIDEr as that program
    computes them, on words between blanks, so that its stops and capitals count. Returns the files.
    """
    name = "pred_beam.json" if beam else "pred.json"
    written = [_write(folder / name, {video: [text] for video, text in captions.items()})]
    scored = {video: text for video, text in captions.items() if references.get(video)}
    if scored:
        written.append(_write(folder / f"score{name}", score_untokenized(scored, references)))
    return written


def _write(file: Path, content: Mapping[str, Any]) -> Path:
    try:
        with whole_file(file) as partial:
            partial.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        raise ClipcapError(f"cannot write {file} ({error.strerror}); choose another --out") from None
    return file
