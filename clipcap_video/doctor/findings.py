"""What the doctor can find, how bad it is and what to do about it; the table and the JSON of what it found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from clipcap_video.files import write_text

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """severity: an error is left out of a run or stops it; a warning is used as it is. advice: what to do."""

    severity: Severity
    advice: str


KINDS: dict[str, Kind] = {
    "empty": Kind("error", "fetch the file again, or remove it"),
    "unreadable": Kind("error", "give yourself the right to read the file"),
    "not_video": Kind("error", "remove or rename the file; its content is of another kind than its name says"),
    "no_video": Kind("error", "remove the file; it holds sound or other data alone"),
    "no_decoder": Kind("error", "convert the file to H.264 with a program that can read it; it is not damaged"),
    "truncated": Kind("error", "fetch the file again; --max_damage takes what is there of it"),
    "corrupt": Kind(
        "error", "fetch the file again, or re-encode it: ffmpeg -i IN OUT.mp4; --max_damage takes it as it is"
    ),
    "damaged": Kind("warning", "fetch the file again; until then it is read, and its sound frames are taken"),
    "too_short": Kind("warning", "remove the video, or lower --min_seconds or --min_frames if it is meant to be short"),
    "variable_rate": Kind(
        "warning",
        "nothing where frames are taken by time (--sampling fps, or any with --fps); others spread by count, so "
        "re-encode for those: ffmpeg -i IN -fps_mode cfr OUT.mp4",
    ),
    "duplicate": Kind("warning", "keep one of the files"),
    "similar": Kind(
        "warning", "look at them; keep one of each group, or at least all of a group in one split (raise --similarity)"
    ),
    "same_id": Kind("error", "rename one of the files; a video's id is its file name without the ending"),
    "annotations": Kind("error", "fix the annotation file as the sentence says"),
    "split_overlap": Kind("error", "keep the video in one split; scores on videos that were trained on mean nothing"),
    "missing_video": Kind("error", "fetch the video, or take it out of the annotations; it is left out until then"),
    "uncaptioned": Kind("warning", "write captions for the video, or leave it: training and scores pass over it"),
    "bad_features": Kind("error", "delete the file and run extract_features.py again, which makes what is missing"),
    "mixed_features": Kind("error", "extract again, with --overwrite or into another folder; two kinds do not mix"),
    "old_features": Kind("warning", "extract these again with the command above; a model trained before takes them"),
    "failed_features": Kind("error", "look at the video with clipcap-video doctor; run extract_features.py again then"),
    "missing_features": Kind("error", "run extract_features.py again, which makes what is missing"),
    "stray_features": Kind("warning", "remove the file if its video is gone for good; it is used while it is there"),
    "other_features": Kind(
        "error", "extract features with the model's encoder and sampling, or train a model on these"
    ),
    "bad_model": Kind("error", "use another checkpoint of the run (best, last, PREFIX-EPOCH), or train again"),
    "wrong_width": Kind("error", "extract features with the encoder that the model was trained on"),
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. subject: a video's id, or a file; files: those that it is about."""

    kind: str
    subject: str
    message: str
    files: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    @property
    def advice(self) -> str:
        return KINDS[self.kind].advice


@dataclass
class Examination:
    """findings: by kind in the order of KINDS. checked: what was looked at, name -> number; seconds: wall time.

    notes: what could not be looked at, and why.
    """

    findings: list[Finding] = field(default_factory=list)
    checked: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def finish(self) -> Examination:
        """Sorts the findings: kinds in their order, each in the order in which it was found."""
        order = list(KINDS)
        self.findings.sort(key=lambda finding: order.index(finding.kind))
        return self

    def to_json(self) -> dict[str, Any]:
        findings = [
            {**asdict(finding), "severity": finding.severity, "advice": finding.advice} for finding in self.findings
        ]
        return {
            "version": 1,
            "checked": self.checked,
            "seconds": round(self.seconds, 3),
            "notes": self.notes,
            "findings": findings,
        }

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n")


def describe(examination: Examination, most: int = 20) -> str:
    """What was found, for a person: a table of findings, at most `most` of a kind, and what to do about each kind."""
    counts = ", ".join(f"{number:,.10g} {name}" for name, number in examination.checked.items())
    lines = [f"looked at {counts} in {examination.seconds:.1f} s", *examination.notes]
    if not examination.findings:
        return "\n".join([*lines, "nothing found"])
    by_kind: dict[str, list[Finding]] = {}
    for finding in examination.findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    rows = [("FOUND", "WHERE", "WHAT")]
    for kind, findings in by_kind.items():
        rows += [(kind, finding.subject, finding.message) for finding in findings[:most]]
        if len(findings) > most:
            rows.append((kind, "...", f"and {len(findings) - most:,} more; --json FILE names them all"))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines += ["", *(f"  {kind:<{widths[0]}}  {subject:<{widths[1]}}  {said}" for kind, subject, said in rows)]
    lines += ["", "What to do"]
    width = max(len(kind) for kind in by_kind)
    for kind, findings in by_kind.items():
        number = f"{len(findings):,} {KINDS[kind].severity}{'' if len(findings) == 1 else 's'}"
        lines.append(f"  {kind:<{width}}  {number}: {KINDS[kind].advice}")
    return "\n".join(lines)
