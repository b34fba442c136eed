"""`clipcap-video new-lm`: what the vocabulary is learned from, and what training on the captions does."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from clipcap_video.errors import ClipcapError
from clipcap_video.models.language_model import load_language_model
from tests.commands import refused, run
from tests.tiny import write_annotations

SMALL = ["--vocab_size", "300", "--layers", "1", "--width", "16", "--heads", "2"]


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    file = tmp_path / "captions.csv"
    rows = [f"a{number},A zebra crosses the road.,train" for number in range(8)] + ["b,quokkas quokkas,test"]
    file.write_text("\n".join(["video,caption,split", *rows]))
    return file


def pieces(folder: Path, word: str) -> int:
    return len(load_language_model(str(folder))[1].tokenize(f" {word}"))


def test_words_of_the_split_and_of_further_texts_are_one_piece_each(captions: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("wombats sleep\n" * 8)
    made = ["clipcap-video", "new-lm", "--annotations", captions, *SMALL, "--out"]
    assert run(*made, tmp_path / "plain").stdout == (
        f"wrote an untrained language model for 8 captions to {tmp_path / 'plain'}\n"
    )
    assert "for 16 captions" in run(*made, tmp_path / "more", "--text", tmp_path / "more.txt").stdout
    assert [pieces(tmp_path / "plain", word) for word in ("zebra", "road")] == [1, 1]
    assert min(pieces(tmp_path / "plain", word) for word in ("wombats", "quokkas")) > 1
    assert pieces(tmp_path / "more", "wombats") == 1


def test_it_learns_the_captions_and_only_in_the_case_that_is_asked_for(captions: Path, tmp_path: Path) -> None:
    made = ["clipcap-video", "new-lm", "--annotations", captions, *SMALL, "--device", "cpu", "--lr", "0.03", "--out"]
    losses = [
        float(re.search(r"loss ([0-9.]+)", run(*made, tmp_path / str(epochs), "--epochs", epochs).stdout)[1])  # type: ignore[index]
        for epochs in (1, 60)
    ]
    assert losses[1] < losses[0] / 2
    run("clipcap-video", "new-lm", "--annotations", captions, *SMALL, "--lower_case", "--out", tmp_path / "lower")
    vocabulary = load_language_model(str(tmp_path / "lower"))[1].get_vocab()
    assert not [piece for piece in vocabulary if "zebra" in piece.lower() and "zebra" not in piece]
    assert all(len(piece) == 1 for piece in vocabulary if "." in piece)


def test_what_makes_no_sense_is_refused(captions: Path, tmp_path: Path) -> None:
    made = ["clipcap-video", "new-lm", "--annotations", captions, "--out", tmp_path / "lm"]
    assert "--lr has no effect" in refused(*made, "--lr", "0.1")
    assert "heads" in refused(*made, "--width", "32", "--heads", "5")
    assert not (tmp_path / "lm").exists()


def test_captions_of_no_video_from_the_command(tmp_path: Path) -> None:
    from clipcap_video.cli.new_lm import NewLmConfig, _new_lm

    write_annotations(tmp_path / "videos.json", range(4), range(4, 6))
    with gzip.open(tmp_path / "more.txt.gz", "wt") as stream:
        stream.write("A zebra GRAZES .\n\nA zebra grazes here .\n")
    options = {"caption": [tmp_path / "videos.json"], "text": [tmp_path / "more.txt.gz"], "lower_case": True}
    _new_lm(NewLmConfig(out=tmp_path / "lm", layers=1, width=16, heads=2, epochs=1, device="cpu", **options))
    _, tokenizer = load_language_model(str(tmp_path / "lm"))
    assert len(tokenizer(" zebra")["input_ids"]) < len("zebra")  # it is a word that was learned from
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(ClipcapError, match=r"none\.txt is empty; give a text file with one caption a line"):
        _new_lm(NewLmConfig(out=tmp_path / "lm2", caption=options["caption"], text=[tmp_path / "none.txt"]))
