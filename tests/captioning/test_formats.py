"""Captions in every form, read back by the programs that the forms are for."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from io import StringIO
from pathlib import Path

import pysubs2
import pytest
import webvtt
from pycocotools.coco import COCO

from clipcap_video.captioning.formats import FORMATS, UNSURE, Results, Wording, name_of_table, table_file
from clipcap_video.captioning.predictions import Caption, Prediction, PredictionFile, load_captions
from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.errors import ClipcapError

SURE = Caption("a dog runs", -3.0, -1.0, 3, expected_cider=0.5, support=0.9, probability=0.8, unsure=False)
DOUBTED = Caption(
    'a "cat", {sleeps} & <sings>', -6.0, -1.5, 4, expected_cider=0.1, support=0.4, probability=0.1, unsure=True
)
OTHER = Caption("a horse in a field", float("nan"), float("nan"), 0, model="vlm")


def results(**changes: object) -> Results:
    predictions = [
        Prediction("7", [SURE], path="/v/7.mp4", start=0.0, end=1.5),
        Prediction("7", [DOUBTED], path="/v/7.mp4", start=1.5, end=4.0),
        Prediction("b", [OTHER, DOUBTED], [0.0, 2.0], path="/v/b.mp4"),
    ]
    values = {"predictions": predictions, "failures": [("c", "/v/c.mp4", "no video")], "model": "starter"}
    return Results(**(values | changes))  # type: ignore[arg-type]


def written(name: str, folder: Path, **changes: object) -> Path:
    file = folder / f"out{FORMATS[name].ending}"
    FORMATS[name].write(file, results(**changes))
    return file


class TestTables:
    """csv, jsonl and parquet have the same lines."""

    def expected(self) -> list[dict]:
        shared = {"path": "/v/7.mp4", "model": "starter", "own_caption": None, "error": None}
        sure = {
            "caption": "a dog runs",
            "support": 0.9,
            "probability": 0.8,
            "unsure": False,
            "expected_cider": 0.5,
            "logprob": -3.0,
        }
        doubted = {
            "caption": DOUBTED.text,
            "support": 0.4,
            "probability": 0.1,
            "unsure": True,
            "expected_cider": 0.1,
            "logprob": -6.0,
        }
        nothing = dict.fromkeys(["start", "end", "support", "probability", "unsure", "expected_cider", "logprob"])
        return [
            {"video": "7", "start": 0.0, "end": 1.5, **sure, **shared},
            {"video": "7", "start": 1.5, "end": 4.0, **doubted, **shared},
            {
                "video": "b", "caption": OTHER.text, **nothing, **shared, "path": "/v/b.mp4", "model": "vlm",
                "own_caption": DOUBTED.text,
            },
            {
                "video": "c", "caption": None, **nothing, **shared, "path": "/v/c.mp4", "model": None,
                "error": "no video",
            },
        ]  # fmt: skip

    def test_jsonl(self, tmp_path: Path) -> None:
        assert [json.loads(line) for line in written("jsonl", tmp_path).open()] == self.expected()

    def test_csv(self, tmp_path: Path) -> None:
        with written("csv", tmp_path).open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows == [
            {key: "" if value is None else str(value) for key, value in row.items()} for row in self.expected()
        ]

    def test_parquet_in_pyarrow_and_duckdb(self, tmp_path: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        file = written("parquet", tmp_path)
        for row, expected in zip(parquet.read_table(file).to_pylist(), self.expected(), strict=True):
            assert row == {
                key: pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
                for key, value in expected.items()
            }
        duckdb = pytest.importorskip("duckdb")
        found = duckdb.sql(f"select video, error from '{file}' where caption is null or unsure").fetchall()
        assert found == [("7", None), ("c", "no video")]

    def test_columns_keep_their_types_without_a_value(self, tmp_path: Path) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        full = parquet.read_schema(written("parquet", tmp_path))
        assert parquet.read_schema(written("parquet", tmp_path, predictions=[])) == full

    def test_parquet_without_pyarrow_is_one_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ClipcapError, match=r"pip install 'clipcap-video\[parquet\]'"):
            FORMATS["parquet"].require()

    def test_json_is_a_file_of_predictions(self, tmp_path: Path) -> None:
        read = PredictionFile.load(written("json", tmp_path))
        assert (read.model, [one.text for one in read.predictions]) == (
            "starter", [one.text for one in results().predictions],
        )  # fmt: skip
        assert read.predictions[1].captions[0].unsure is True
        assert read.predictions[2].captions[0].model == "vlm"


class TestCoco:
    def test_the_cocos_own_reader_takes_results(self, tmp_path: Path) -> None:
        references = tmp_path / "captions_val2014.json"
        images = [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg"}, {"id": 9, "file_name": "x.jpg"}]
        texts = [{"id": 1, "image_id": 7, "caption": "a dog"}, {"id": 2, "image_id": 9, "caption": "a cow"}]
        references.write_text(json.dumps({"images": images, "annotations": texts, "type": "captions"}))
        whole = [Prediction("7", [SURE]), Prediction("9", [DOUBTED])]
        file = written("coco", tmp_path, predictions=whole)
        with contextlib.redirect_stdout(io.StringIO()):
            found = COCO(str(references)).loadRes(str(file))
        assert {one["image_id"]: (one["caption"], one["unsure"]) for one in found.anns.values()} == {
            7: (SURE.text, False), 9: (DOUBTED.text, True),
        }  # fmt: skip
        # And ours takes both, too.
        assert load_captions(file) == ({"7": SURE.text, "9": DOUBTED.text}, None)
        records = read_annotations([references])
        assert [(one.video_id, one.split, one.captions) for one in records] == [
            ("7", "validate", ["a dog"]), ("9", "validate", ["a cow"]),
        ]  # fmt: skip
        assert records[0].aliases == ("COCO_val2014_000000000007",)

    def test_segments_and_failures(self, tmp_path: Path) -> None:
        entries = json.loads(written("coco", tmp_path).read_text())
        assert [one["image_id"] for one in entries] == ["7@0.00-1.50", "7@1.50-4.00", "b"]


class TestTexts:
    def test_txt_is_the_captions_alone(self, tmp_path: Path) -> None:
        wording = Wording("prompt: ", ", 4k", marked=False)
        text = written("txt", tmp_path, wording=wording, predictions=results().predictions[:1]).read_text()
        assert text == "prompt: a dog runs, 4k\n"

    def test_unsure_is_marked_unless_asked_not_to(self, tmp_path: Path) -> None:
        lines = written("txt", tmp_path).read_text().splitlines()
        assert lines == [SURE.text, f"{UNSURE}{DOUBTED.text}", OTHER.text]

    def test_too_little_support_leaves_a_caption_out(self, tmp_path: Path) -> None:
        wording = Wording(min_support=0.5)
        assert written("txt", tmp_path, wording=wording).read_text().splitlines() == [SURE.text, OTHER.text]
        (tmp_path / "none").mkdir()
        only = results().predictions[1:2]
        assert not written("txt", tmp_path / "none", wording=wording, predictions=only).exists()


class TestSubtitles:
    predictions = results().predictions[:2]

    @pytest.mark.parametrize("kind", ["srt", "vtt", "ass"])
    def test_as_pysubs2_reads_them(self, kind: str, tmp_path: Path) -> None:
        events = list(pysubs2.load(str(written(kind, tmp_path, predictions=self.predictions))))
        assert [event.start for event in events] == [0, 1500]
        assert events[1].end == 4000
        texts = [event.plaintext.replace("\n", " ") for event in events]
        doubted = {"srt": DOUBTED.text.replace("{sleeps} ", " "), "ass": 'a "cat", (sleeps) & <sings>'}.get(kind)
        assert texts[0] == SURE.text
        assert texts[1].startswith(UNSURE)
        if kind == "ass":
            assert texts[1] == f"{UNSURE}{doubted}"

    def test_descriptions_are_sentences_of_their_own(self, tmp_path: Path) -> None:
        text = written("vtt-descriptions", tmp_path, predictions=self.predictions).read_text()
        assert text.startswith("WEBVTT\nKind: descriptions\n\n")
        found = [(one.start, one.end, one.text) for one in webvtt.from_buffer(StringIO(text))]
        assert found[0] == ("00:00:00.000", "00:00:01.500", "A dog runs.")
        assert found[1][:2] == ("00:00:01.500", "00:00:04.000")
        assert found[1][2] == '(unsure) a "cat", {sleeps} &amp; &lt;sings&gt;.'

    def test_a_long_description_is_one_cue(self, tmp_path: Path) -> None:
        long = Caption("a man " + "and another man " * 20, -1.0, -1.0, 80)
        text = written("vtt-descriptions", tmp_path, predictions=[Prediction("a", [long], start=0.0, end=3.0)])
        (cue,) = webvtt.from_buffer(StringIO(text.read_text()))
        assert cue.text.count("another") == 20


@pytest.mark.parametrize(
    ("out", "name", "file"),
    [
        ("p.json", "json", "p.json"), ("p.json", "csv", "p.csv"), ("p.csv", "csv", "p.csv"),
        ("p.csv", "json", "p.json"), ("p.coco.json", "coco", "p.coco.json"), ("p.coco.json", "parquet", "p.parquet"),
        ("p.json", "coco", "p.coco.json"), ("p", "json", "p"), ("p", "csv", "p.csv"), ("a.b", "jsonl", "a.jsonl"),
    ],
)  # fmt: skip
def test_where_a_table_goes(out: str, name: str, file: str) -> None:
    assert table_file(Path(out), name) == Path(file)


def test_the_name_of_a_file_tells_its_format() -> None:
    assert [name_of_table(Path(name)) for name in ("a.csv", "a.coco.json", "a.json", "a.txt", "a")] == [
        "csv", "coco", "json", None, None,
    ]  # fmt: skip
