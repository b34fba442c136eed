"""The result files of the MSR-VTT ClipCap program, for those who compare with its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipcap_video.files import write_text
from clipcap_video.metrics.captioning import score_untokenized


def write_program_files(
    folder: Path, captions: Mapping[str, str], references: Mapping[str, Sequence[str]], beam: bool
) -> list[Path]:
    """Writes pred.json (pred_beam.json for beam search) and, where there are references, "score" + that name.

    The first gives each video id a list of its one caption; the second BLEU, ROUGE-L and CIDEr as that program
    computes them, on words between blanks, so that its stops and capitals count. Returns the files.
    """
    name = "pred_beam.json" if beam else "pred.json"
    said = json.dumps({video: [text] for video, text in captions.items()})
    written = [write_text(folder / name, said, "choose another --out")]
    scored = {video: text for video, text in captions.items() if references.get(video)}
    if scored:
        scores = json.dumps(score_untokenized(scored, references))
        written.append(write_text(folder / f"score{name}", scores, "choose another --out"))
    return written
