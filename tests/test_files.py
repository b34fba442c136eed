"""Names, numbers and whole writes of files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.files import alone_in, natural_key, spelled, url_of, whole_file


def test_urls_survive_being_paths() -> None:
    assert spelled(Path("s3://bucket/a/b.mp4")) == "s3://bucket/a/b.mp4"
    assert spelled(Path("s3://bucket/a") / "b.mp4") == "s3://bucket/a/b.mp4"
    assert url_of(Path("C:/videos")) is None
    assert url_of(Path("videos/a.mp4")) is None


def test_a_file_at_a_url_is_whole_or_not_there(tmp_path: Path) -> None:
    with whole_file(Path(f"file://{tmp_path}/a.txt")) as partial:
        partial.write_text("a")
    assert (tmp_path / "a.txt").read_text() == "a"
    with pytest.raises(RuntimeError), whole_file(Path(f"file://{tmp_path}/b.txt")) as partial:  # noqa: PT012
        partial.write_text("b")
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_numbers_in_ids_sort_by_value() -> None:
    ids = ["video10", "video9", "a", "video9b", "10", "9", "video"]
    assert sorted(ids, key=natural_key) == ["9", "10", "a", "video", "video9", "video9b", "video10"]


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from clipcap_video.files import alone_in\n"
        "with alone_in(Path(sys.argv[1]), 'x'): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(ClipcapError, match="another process"), alone_in(tmp_path, "x"):
            pass
        child.kill()
    with alone_in(tmp_path, "x"):
        pass
