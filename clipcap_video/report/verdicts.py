"""What people found who looked at captions beside their frames."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from clipcap_video.errors import ClipcapError
from clipcap_video.files import reading

JUDGEMENTS = ("right", "partly", "wrong")


@dataclass(frozen=True)
class Verdict:
    """judgement: one of JUDGEMENTS, of a video's best caption. note: why, in a few words."""

    judgement: str
    note: str = ""


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """Reads a CSV file with the columns video, judgement and, possibly, note: video -> verdict.

    Raises ClipcapError when it cannot be read, lacks a column, names a video twice or judges otherwise.
    """
    with (
        reading(path, "the judgements", "give a CSV file with --judged"),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        rows = csv.DictReader(file, skipinitialspace=True)
        missing = {"video", "judgement"} - set(rows.fieldnames or [])
        if missing:
            raise ClipcapError(f"{path} has no column {min(missing)!r}; begin it with video,judgement,note")
        verdicts: dict[str, Verdict] = {}
        for row in rows:
            video, judgement = row["video"], (row["judgement"] or "").strip().lower()
            if judgement not in JUDGEMENTS:
                raise ClipcapError(
                    f"{path}, line {rows.line_num}: {judgement!r} is no judgement; write right, partly or wrong"
                )
            if video in verdicts:
                raise ClipcapError(f"{path}, line {rows.line_num}: {video!r} is judged a second time; leave one")
            verdicts[video] = Verdict(judgement, (row.get("note") or "").strip())
    return verdicts
