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
        scores = json.dumps(score_untokenized(scored, references).scores)
        written.append(write_text(folder / f"score{name}", scores, "choose another --out"))
    return written


def write_examples(file: Path, captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Path:
    """Writes what that program's compute_score.py writes: [scores, examples].

    scores: those of `write_program_files`. examples: Bleu_4, ROUGE_L and CIDEr, each a list of [video, its first
    reference, its caption, the figure of that]. Raises ClipcapError for a video without references.
    """
    found = score_untokenized(captions, references)
    examples = {
        figure: [[video, references[video][0], captions[video], value] for video, value in values.items()]
        for figure, values in found.per_video.items()
    }
    return write_text(file, json.dumps([found.scores, examples], ensure_ascii=False), "choose another --out")
