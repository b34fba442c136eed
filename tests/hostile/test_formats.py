"""Every reader on contents made up by a grammar: what it reads, or one sentence that names the file."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipcap_video.captioning.log import load_log
from clipcap_video.captioning.predictions import load_captions
from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.features.shards import write_shards
from clipcap_video.features.store import read_features, read_header
from clipcap_video.models.checkpoint import read_config
from clipcap_video.report.verdicts import read_verdicts
from clipcap_video.runs.record import read_options
from clipcap_video.training.config import TrainConfig
from tests.conftest import TinyProject
from tests.tiny import fingerprint

# Values of every type, and the names that the formats give their fields, so that some get deep into a reader.
NAMES = st.sampled_from([
    "videos", "sentences", "video_id", "caption", "captions", "split", "video", "duration", "timestamps", "times",
    "description", "predictions", "version", "text", "logprob", "evidence", "damage", "start", "model", "captioner",
    "mapping", "features", "training", "progress", "made_by", "writes", "lr", "epochs", "record", "command", "images",
    "annotations",
])  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**25), 10**25), st.floats(), st.text(max_size=5), NAMES,
    st.sampled_from(["video0", "train", "test", "prefix", "clipcap-video", 1, 0, -1]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=5)),
    max_leaves=20,
)  # fmt: skip
TEXTS = st.one_of(
    VALUES.map(json.dumps),
    st.lists(VALUES.map(json.dumps), max_size=4).map("\n".join),
    st.lists(st.lists(SCALARS.map(str), max_size=4).map(",".join), max_size=5).map("\n".join),
).map(lambda text: text.encode("utf-8", "surrogatepass"))
HEADERS = st.dictionaries(
    st.sampled_from(["features", "timestamps", "__metadata__", "x"]),
    st.one_of(
        VALUES,
        st.fixed_dictionaries({
            "dtype": st.sampled_from(["F16", "F32", "I64", "BOOL", "F99"]),
            "shape": st.lists(st.integers(-2, 5), max_size=3),
            "data_offsets": st.lists(st.integers(-8, 64), max_size=3),
        }),
        st.just({"fingerprint": fingerprint().to_json()}),
    ),
)  # fmt: skip


def _safetensors(header: dict[str, Any], data: bytes, cut: int) -> bytes:
    text = json.dumps(header).encode()
    return (struct.pack("<Q", len(text)) + text + data)[: 8 + len(text) + cut]


FEATURES = st.builds(_safetensors, HEADERS, st.binary(max_size=64), st.integers(-10, 64))


@dataclass(frozen=True)
class Format:
    name: str
    read: Callable[[Path], object]
    content: st.SearchStrategy[bytes]


FORMATS = [
    *(Format(f"captions_{kind}", lambda file: read_annotations([file]), TEXTS) for kind in
      ("train.json", "val.csv", "train.jsonl", "test.txt", "train.tsv")),
    Format("predictions.json", load_captions, TEXTS),
    Format("a.captions.jsonl", load_log, TEXTS),
    Format("verdicts.csv", read_verdicts, TEXTS),
    Format("run.yaml", lambda file: TrainConfig(**read_options(file, TrainConfig, ["caption"], "train")), TEXTS),
    Format("config.json", lambda file: read_config(file.parent), TEXTS),
    Format("video0.safetensors", read_header, FEATURES),
    Format("video1.safetensors", read_features, FEATURES),
]  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(data=st.data())
def test_what_is_read_or_one_sentence(kind: Format, data: st.DataObject) -> None:
    content = data.draw(kind.content)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / kind.name
        file.write_bytes(content)
        with suppress(ClipcapError):
            kind.read(file)


COLUMNS = ("video_id", "frames", "features", "timestamps", "decoder", "damage", "error")
CHANGES = ("dropped", "null", "text", "numbers", "lists")


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("change", CHANGES)
def test_shards_with_another_column(tiny_project: TinyProject, tmp_path: Path, column: str, change: str) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_shards(open_features(tiny_project.data), tmp_path)
    (file,) = tmp_path.glob("*.parquet")
    table = parquet.read_table(file)
    place, rows = table.schema.names.index(column), len(table)
    if change == "dropped":
        changed = table.drop_columns([column])
    else:
        values = {
            "null": pa.nulls(rows, table.schema[place].type), "text": pa.array(["x"] * rows),
            "numbers": pa.array([10**9] * rows), "lists": pa.array([[1.0]] * rows),
        }  # fmt: skip
        changed = table.set_column(place, column, values[change])
    parquet.write_table(changed.replace_schema_metadata(table.schema.metadata), file)
    with suppress(ClipcapError):
        store = open_features(tmp_path)
        for video_id in store.ids():
            with suppress(ClipcapError):
                store.origin(video_id)
            with suppress(ClipcapError):
                assert len(store.load(video_id).features) == store.shape(video_id).frames
    assert change != "dropped" or not _opens(tmp_path)


def _opens(folder: Path) -> bool:
    try:
        open_features(folder)
    except ClipcapError:
        return False
    return True


def test_an_hdf5_file_that_says_more_than_it_holds(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "f.hdf5", "w") as file:
        file.create_dataset("video0", shape=(10**9, 10**6), dtype="f4", chunks=(1, 1000))
    with pytest.raises(ClipcapError, match="holds next to none"):
        open_features(tmp_path / "f.hdf5").shape("video0")
