"""`clipcap-video search`: lines for people, and what does not fit."""

from __future__ import annotations

from pathlib import Path

from tests.commands import refused, run
from tests.search.conftest import TEXT, Library, find, library, retrieval_model  # noqa: F401  (a fixture)
from tests.tiny import write_feature_folder

# ruff: noqa: F811


def test_lines_for_people(library: Library) -> None:
    done = run("clipcap-video", "search", TEXT, "--features", library.features, "--top", 3, "--device", "cpu")
    lines = done.stdout.splitlines()
    found = find(library, TEXT, "--top", 3)
    assert [line.split()[:3] for line in lines] == [
        [str(hit["rank"]), hit["video"], f"{hit['score']:.3f}"] for hit in found
    ]
    assert all(line.split()[3] == "at" and line.split()[4].startswith("0:0") for line in lines)


def test_what_does_not_fit_is_one_sentence(library: Library, tmp_path: Path) -> None:
    command = ["clipcap-video", "search", "--features", library.features, "--device", "cpu"]
    assert "either a text" in refused(*command)
    assert "either a text" in refused(*command, TEXT, "--like", "video1")
    assert "the text to search for is empty" in refused(*command, " ")
    assert "neither a video file nor the id" in refused(*command, "--like", "no-such.mp4")
    (tmp_path / "bad.mp4").write_text("no video")
    assert "is not a video" in refused(*command, "--like", tmp_path / "bad.mp4")
    assert "no features at" in refused("clipcap-video", "search", TEXT, "--features", tmp_path / "none")
    tight = retrieval_model(library, tmp_path / "tight", "tightTransf")
    assert "tightTransf" in refused(*command, TEXT, "--model_dir", tight)
    foreign = write_feature_folder(tmp_path / "foreign", range(3))
    model = retrieval_model(library, tmp_path / "model", "meanP")
    assert "the model was trained on" in refused(
        "clipcap-video", "search", TEXT, "--features", foreign, "--model_dir", model
    )
    assert not (foreign / "search").exists()
