"""What people found, read from a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.report.verdicts import Verdict, read_verdicts


def test_as_spreadsheets_write_it(tmp_path: Path) -> None:
    file = tmp_path / "judged.csv"
    text = 'video, judgement, note\r\na, Right ,\r\nb,partly,"a cat, not a dog"\r\n'
    file.write_text(text, encoding="utf-8-sig", newline="")
    assert read_verdicts(file) == {"a": Verdict("right"), "b": Verdict("partly", "a cat, not a dog")}


def test_a_note_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "judged.csv").write_text("judgement,video\nwrong,a\n")
    assert read_verdicts(tmp_path / "judged.csv") == {"a": Verdict("wrong")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column 'judgement'; begin it with video,judgement,note"),
        ("video,judgement\na,right\nb\n", "line 3: '' is no judgement; write right, partly or wrong"),
        ("video,judgement\na,right\n\na,wrong\n", "line 4: 'a' is judged a second time"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "judged.csv").write_text(text)
    with pytest.raises(ClipcapError, match=said):
        read_verdicts(tmp_path / "judged.csv")
