"""How the tests of this room look at what was found."""

from __future__ import annotations

from pathlib import Path

from clipcap_video.doctor import Examination, examine


def kinds(examination: Examination) -> dict[str, list[str]]:
    """Kind of finding -> the subjects that it was found of."""
    found: dict[str, list[str]] = {}
    for finding in examination.findings:
        found.setdefault(finding.kind, []).append(finding.subject)
    return found


def look(folder: Path, **options: object) -> dict[str, list[str]]:
    return kinds(examine([folder], progress=False, **options))  # type: ignore[arg-type]
