"""Findings in order, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

from clipcap_video.doctor.findings import KINDS, Examination, Finding, describe


def examined() -> Examination:
    found = [
        Finding("too_short", "c", "0.2 s"),
        *(Finding("empty", f"video{number}", "0 bytes", (f"v/video{number}.mp4",)) for number in (7, 3, 5)),
    ]
    return Examination(found, {"videos": 12_345}, ["1 file was passed over"], 1.25).finish()


def test_kinds_come_in_their_order_and_findings_as_they_were_found() -> None:
    assert [finding.subject for finding in examined().findings] == ["video7", "video3", "video5", "c"]


def test_a_person_sees_a_few_of_each_kind_and_what_to_do_about_all() -> None:
    lines = [" ".join(line.split()) for line in describe(examined(), most=2).splitlines()]
    assert lines == [
        "looked at 12,345 videos in 1.2 s",
        "1 file was passed over",
        "",
        "FOUND WHERE WHAT",
        "empty video7 0 bytes",
        "empty video3 0 bytes",
        "empty ... and 1 more; --json FILE names them all",
        "too_short c 0.2 s",
        "",
        "What to do",
        f"empty 3 errors: {KINDS['empty'].advice}",
        f"too_short 1 warning: {KINDS['too_short'].advice}",
    ]


def test_a_program_sees_all_of_them(tmp_path: Path) -> None:
    examined().save(tmp_path / "new" / "found.json")
    found = json.loads((tmp_path / "new" / "found.json").read_text())
    assert (found["checked"], found["notes"]) == ({"videos": 12_345}, ["1 file was passed over"])
    assert [(one["subject"], one["severity"], one["files"]) for one in found["findings"]] == [
        ("video7", "error", ["v/video7.mp4"]),
        ("video3", "error", ["v/video3.mp4"]),
        ("video5", "error", ["v/video5.mp4"]),
        ("c", "warning", []),
    ]


def test_nothing_found_is_said() -> None:
    assert describe(Examination(checked={"models": 1}).finish()).endswith("looked at 1 models in 0.0 s\nnothing found")
