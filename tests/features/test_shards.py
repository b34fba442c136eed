"""Features in Parquet files, and runs that share the videos between them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.doctor.features import examine_features
from clipcap_video.errors import ClipcapError
from clipcap_video.features import shards
from clipcap_video.features.base import FeatureStore, Origin
from clipcap_video.features.extract import extract
from clipcap_video.features.layouts import convert_features, open_features
from clipcap_video.features.store import write_features
from clipcap_video.runs.engine import Shard
from clipcap_video.video.damage import Damage
from clipcap_video.video.files import find_videos
from clipcap_video.video.sampling import SamplingSpec
from tests import clips
from tests.features.conftest import SPEC, GridEncoder
from tests.tiny import fingerprint

ROOT = Path(__file__).parents[2]
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow (extra parquet) is not installed")


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "videos").mkdir()
    for index, frames in enumerate([9, 1, 12, 4, 7, 2, 5]):
        clips.write_clip(tmp_path / "videos" / f"video{index}.avi", frames, first=100 * index)
    (tmp_path / "videos" / "video4.avi").write_text("no video")
    return find_videos(tmp_path / "videos")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A folder of safetensors, whose numbers are in no order."""
    rng = np.random.default_rng(0)
    for number in range(40):
        origin = Origin("PyAV", Damage(9, 1) if number % 3 == 0 else None)
        features = rng.normal(size=(1 + number % 5, 4))
        write_features(tmp_path / "files", f"v{number}", features, np.arange(len(features)) / 2, fingerprint(), origin)
    return tmp_path / "files"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()


def same(one: FeatureStore, other: FeatureStore) -> None:
    assert one.ids() == other.ids()
    for video_id in one.ids():
        mine, others = one.load(video_id), other.load(video_id)
        np.testing.assert_array_equal(mine.features, others.features)
        np.testing.assert_array_equal(mine.timestamps, others.timestamps)
        assert one.origin(video_id) == other.origin(video_id)
        assert one.shape(video_id) == other.shape(video_id)


def test_extraction_into_shards_makes_the_same_features(tmp_path: Path, videos: dict[str, Path]) -> None:
    extract(videos, GridEncoder(), SPEC, tmp_path / "plain", progress=False)
    # Three videos or so a file.
    summary = extract(videos, GridEncoder(), SPEC, tmp_path / "shards", progress=False, shard_mb=2e-4)
    assert (summary.done, summary.failed) == (6, 1)
    store = open_features(tmp_path / "shards")
    assert len(store.files) > 1
    same(store, open_features(tmp_path / "plain"))
    assert store.errors == {"video4": summary.failures[0].reason}
    assert store.fingerprint == open_features(tmp_path / "plain").fingerprint
    # What is missing is added, nothing else is touched.
    before = {file: file.read_bytes() for file in store.files}
    clips.write_clip(videos["video4"], 3)
    again = extract(videos, GridEncoder(), SPEC, tmp_path / "shards", progress=False, shard_mb=1)
    assert (again.done, again.skipped) == (1, 6)
    assert {file: file.read_bytes() for file in before} == before
    store = open_features(tmp_path / "shards")
    assert "video4" in store
    assert store.errors == {}
    # Made anew, the last holds.
    extract({"video2": videos["video0"]}, GridEncoder(), SPEC, tmp_path / "shards", overwrite=True, shard_mb=1)
    changed = open_features(tmp_path / "shards")
    np.testing.assert_array_equal(changed.load("video2").features, changed.load("video0").features)


def test_what_was_made_before_a_stop_is_kept(tmp_path: Path, videos: dict[str, Path]) -> None:
    class Stopping(GridEncoder):
        def encode_images(self, images):
            if len(self.batches) == 8:
                raise KeyboardInterrupt
            return super().encode_images(images)

    with pytest.raises(KeyboardInterrupt):
        extract(videos, Stopping(), SPEC, tmp_path / "out", batch_size=2, progress=False, shard_mb=1)
    done = len(open_features(tmp_path / "out").ids())
    assert 0 < done < 6
    assert extract(videos, GridEncoder(), SPEC, tmp_path / "out", progress=False, shard_mb=1).skipped == done


def test_layouts_are_not_mixed_and_kinds_are_not_either(tmp_path: Path, videos: dict[str, Path]) -> None:
    one = {"video0": videos["video0"]}
    extract(one, GridEncoder(), SPEC, tmp_path / "out", progress=False, shard_mb=1)
    with pytest.raises(ClipcapError, match=r"as \.parquet files; extract with --format parquet, or into another"):
        extract(videos, GridEncoder(), SPEC, tmp_path / "out", progress=False)
    with pytest.raises(ClipcapError, match="this run makes"):
        extract(videos, GridEncoder(), SamplingSpec(), tmp_path / "out", progress=False, shard_mb=1)
    extract(one, GridEncoder(), SPEC, tmp_path / "plain", progress=False)
    with pytest.raises(ClipcapError, match="--format safetensors"):
        extract(videos, GridEncoder(), SPEC, tmp_path / "plain", progress=False, shard_mb=1)
    extract(one, GridEncoder(), SamplingSpec(), tmp_path / "other", progress=False, shard_mb=1)
    for file in (tmp_path / "other").glob("*.parquet"):
        shutil.copy(file, tmp_path / "out")
    with pytest.raises(ClipcapError, match="features of two kinds"):
        open_features(tmp_path / "out")


def test_conversion_goes_both_ways(tmp_path: Path, stored: Path) -> None:
    command = [sys.executable, "-m", "clipcap_video", "convert", stored, "--out", tmp_path / "shards"]
    command += ["--format", "parquet", "--shard_mb", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    same(open_features(tmp_path / "shards"), open_features(stored))
    convert_features(open_features(tmp_path / "shards"), tmp_path / "back", "safetensors")
    for file in stored.iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()


def test_other_programs_read_the_file_as_it_is_described(tmp_path: Path, stored: Path) -> None:
    convert_features(open_features(stored), tmp_path / "shards", "parquet")
    store = open_features(stored)
    (file,) = (tmp_path / "shards").glob("*.parquet")
    table = parquet.read_table(file)
    assert json.loads(table.schema.metadata[b"fingerprint"]) == json.loads(fingerprint().to_json())
    assert str(table.schema.field("features").type) == "list<element: fixed_size_list<element: halffloat>[4]>"
    for row in table.to_pylist():
        video = store.load(row["video_id"])
        np.testing.assert_array_equal(np.array(row["features"], np.float32), video.features)
        assert (row["timestamps"], row["frames"]) == (video.timestamps.tolist(), len(video.features))
        assert (row["damage"] is None) == (store.origin(row["video_id"]).damage is None)
        assert row["error"] is None


def _duckdb(folder: Path) -> dict[str, np.ndarray]:
    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql(f"select video_id, features from '{folder}/*.parquet' where error is null").fetchall()
    return {video_id: np.array(features, np.float32) for video_id, features in rows}


def _datasets(folder: Path) -> dict[str, np.ndarray]:
    datasets = pytest.importorskip("datasets")
    cache = str(folder.parent / "cache")
    rows = datasets.load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train", cache_dir=cache)
    return {row["video_id"]: np.array(row["features"], np.float32) for row in rows if row["error"] is None}


def _ray(folder: Path) -> dict[str, np.ndarray]:
    ray = pytest.importorskip("ray", reason="Ray (extra ray) is not installed")
    ray.init(address="local", num_cpus=2, logging_level="critical", log_to_driver=False)
    try:
        rows = ray.data.read_parquet(str(folder)).filter(lambda row: row["error"] is None).take_all()
    finally:
        ray.shutdown()
    return {row["video_id"]: np.stack(row["features"]).astype(np.float32) for row in rows}


@pytest.mark.parametrize("read", [_duckdb, _datasets, pytest.param(_ray, marks=pytest.mark.slow)])
def test_other_programs_read_shards(
    tmp_path: Path, stored: Path, read: Callable[[Path], dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    convert_features(open_features(stored), tmp_path / "shards", "parquet")
    with shards.ShardWriter(tmp_path / "shards", 4, fingerprint()) as writer:
        writer.fail("poison", "it is empty")
    rows, store = read(tmp_path / "shards"), open_features(stored)
    assert sorted(rows) == sorted(store.ids())
    for video_id, features in rows.items():
        np.testing.assert_array_equal(features, store.load(video_id).features)


def test_row_groups_are_read_by_need(tmp_path: Path, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "GROUP_BYTES", 64)
    monkeypatch.setattr(shards, "GROUPS_KEPT", 2)
    convert_features(open_features(stored), tmp_path / "shards", "parquet")
    store = open_features(tmp_path / "shards")
    read: list[int] = []
    (opened,) = store._opened
    groups = opened.metadata.num_row_groups

    class Watched:
        def read_row_group(self, group: int) -> object:
            read.append(group)
            return opened.read_row_group(group)

    store._opened = [Watched()]
    store.load_many([f"v{number}" for number in reversed(range(40))])
    assert len(read) == len(set(read)) == groups > 8
    assert len(store._kept) == 2
    same(store, open_features(stored))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "middle"])
def test_a_damaged_shard_is_named(tmp_path: Path, stored: Path, damage: str) -> None:
    convert_features(open_features(stored), tmp_path / "shards", "parquet")
    (file,) = (tmp_path / "shards").glob("*.parquet")
    whole = file.read_bytes()
    middle = whole[:40] + bytes(400) + whole[440:]
    file.write_bytes({"cut": whole[:-3], "empty": b"", "text": b"not features", "middle": middle}[damage])

    def read_all() -> None:
        store = open_features(tmp_path / "shards")
        store.load_many(store.ids())

    with pytest.raises(ClipcapError, match=file.name):
        read_all()
    assert examine_features(tmp_path / "shards").findings


def test_without_pyarrow_one_sentence_says_what_to_install(tmp_path: Path, videos: dict[str, Path]) -> None:
    block = "import sys; sys.modules['pyarrow'] = None; sys.argv[0] = 'extract'; "
    run = block + "from clipcap_video.cli import run_command; from clipcap_video.cli.extract import extract_features; "
    command = [sys.executable, "-c", run + "run_command(extract_features)", "--videos", tmp_path / "videos"]
    command += ["--out", tmp_path / "out", "--format", "parquet", "--encoder", "nonsense"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: Parquet needs pyarrow; pip install 'clipcap-video[parquet]'\n"


@pytest.mark.parametrize("shard_mb", [None, 1.0])
def test_runs_of_all_shards_equal_one_run(tmp_path: Path, videos: dict[str, Path], shard_mb: float | None) -> None:
    clips.truncate(videos["video0"], 0.85)
    choices = {"progress": False, "shard_mb": shard_mb, "max_damage": 0.5}
    one = extract(videos, GridEncoder(), SPEC, tmp_path / "one", **choices)
    assert one.failed == 1
    assert list(one.warnings) == ["video0"]
    done = 0
    for number in (3, 1, 2):
        shard = Shard(number, 3)
        done += extract(shard.of(videos), GridEncoder(), SPEC, tmp_path / "three", shard=shard, **choices).done
    assert done == one.done
    same(open_features(tmp_path / "three"), open_features(tmp_path / "one"))
    for name in ("failures.jsonl", "warnings.jsonl"):
        assert (tmp_path / "three" / name).read_text() == (tmp_path / "one" / name).read_text()
    # Repaired, a video leaves the list by the run of its shard; a run of all finds nothing to do and tidies up.
    clips.write_clip(videos["video4"], 3)
    again = extract(Shard(2, 3).of(videos), GridEncoder(), SPEC, tmp_path / "three", shard=Shard(2, 3), **choices)
    assert (again.done, again.failed) == (1, 0)
    assert not (tmp_path / "three" / "failures.jsonl").exists()
    assert extract(videos, GridEncoder(), SPEC, tmp_path / "three", **choices).skipped == 7
    assert [file.name for file in (tmp_path / "three").glob("*.jsonl")] == ["warnings.jsonl"]
