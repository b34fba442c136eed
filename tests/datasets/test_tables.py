"""Annotations in Parquet, against the same in JSONL."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.cleaning import fix_captions
from clipcap_video.datasets.records import SplitOverlap
from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.training.data import CaptionData, EpochOrder
from tests.tiny import captions_of, write_feature_folder

pa = pytest.importorskip("pyarrow", reason="pyarrow (extra parquet) is not installed")
import pyarrow.parquet as parquet  # noqa: E402

ROWS = [
    {"video": f"video{number % 9}.mp4", "caption": f" {caption}  here", "split": ["train", "val", "test"][number % 3]}
    for number in range(30)
    for caption in captions_of(number)
] + [{"video": "video3", "caption": "there is a man is talking", "split": "training"}]


def write(folder: Path, rows: list[dict[str, object]]) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=7)
    return folder / "a.jsonl", folder / "a.parquet"


def plain(records):
    return [(record.video_id, record.split, list(record.captions)) for record in records]


@pytest.mark.parametrize("kind", ["rows", "lists", "no split"])
def test_a_table_reads_as_the_same_rows_of_text(tmp_path: Path, kind: str) -> None:
    rows = [dict(row) for row in ROWS]
    if kind == "no split":
        rows = [{"video": row["video"], "caption": row["caption"]} for row in rows]
    if kind == "lists":
        rows = [{"video": f"v{n}", "captions": captions_of(n), "split": "train"} for n in range(5)]
    text, table = write(tmp_path, rows)
    expected, found = read_annotations([text]), read_annotations([table])
    assert plain(found) == plain(expected)
    assert plain(fix_captions(found)) == plain(fix_captions(expected))
    first, captions = expected[0], found[0].captions
    assert (captions[1], captions[-1], captions[1:3]) == (first.captions[1], first.captions[-1], first.captions[1:3])


def test_training_data_is_the_same(tmp_path: Path) -> None:
    text, table = write(tmp_path / "annotations", ROWS)
    store = open_features(write_feature_folder(tmp_path / "features", range(9)))
    seen: list[int] = []

    def encode(captions: list[str]) -> list[list[int]]:
        seen.append(len(captions))
        return [[len(word) for word in caption.split()] for caption in captions]

    eager, lazy = (CaptionData.tokenise(read_annotations([file]), store, encode, 4) for file in (text, table))
    assert seen == [len(ROWS)]
    for count in (0, 2):
        orders = [EpochOrder(data, 4, count, seed=1) for data in (eager, lazy)]
        for epoch in (0, 1):
            batches = orders[0].batches(epoch)
            assert batches == orders[1].batches(epoch)
            for one, other in zip(*(order.load(epoch, batches) for order in orders), strict=True):
                for name, value in vars(one).items():
                    np.testing.assert_array_equal(value, getattr(other, name)) if value is not None else None
    assert lazy.digest() == CaptionData.tokenise(read_annotations([table]), store, encode, 4).digest()
    _, changed = write(tmp_path / "changed", [*ROWS[:-1], ROWS[0]])
    assert lazy.digest() != CaptionData.tokenise(read_annotations([changed]), store, encode, 4).digest()


def test_what_is_wrong_with_a_table(tmp_path: Path) -> None:
    _, table = write(
        tmp_path, [{"video": "a", "caption": "x", "split": "train"}, {"video": "a", "caption": "y", "split": "test"}]
    )
    with pytest.raises(SplitOverlap, match=r"a\.parquet: video 'a' is in the splits 'train' and 'test'"):
        read_annotations([table])
    _, table = write(tmp_path, [{"name": "a", "caption": "x"}])
    with pytest.raises(ClipcapError, match="has the columns name, caption; one called video"):
        read_annotations([table])
    _, table = write(tmp_path, [{"video": "a", "caption": 3}])
    assert plain(read_annotations([table])) == [("a", "train", ["3"])]
    _, table = write(tmp_path, [{"video": "a", "caption": " "}])
    with pytest.raises(ClipcapError, match="lists no videos"):
        read_annotations([table])
    table.write_bytes(b"no table")
    with pytest.raises(ClipcapError, match=r"a\.parquet is not a table of texts"):
        read_annotations([table])
