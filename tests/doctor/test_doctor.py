"""The doctor on clips that are really broken, and on data sets and features that do not fit."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.doctor import Examination, Limits, examine, videos
from clipcap_video.doctor.videos import varying_distance
from clipcap_video.errors import ClipcapError
from clipcap_video.features.shards import ShardWriter
from clipcap_video.features.store import write_features
from clipcap_video.models.checkpoint import CheckpointInfo, save_checkpoint
from tests.clips import blank, ffmpeg, index_first, set_frame_durations, time_scale, truncate, write_clip, write_gif
from tests.conftest import TinyProject
from tests.tiny import features_of, fingerprint, write_annotations, write_feature_folder


def kinds(examination: Examination) -> dict[str, list[str]]:
    """Kind of finding -> the subjects that it was found of."""
    found: dict[str, list[str]] = {}
    for finding in examination.findings:
        found.setdefault(finding.kind, []).append(finding.subject)
    return found


def look(folder: Path, **options: object) -> dict[str, list[str]]:
    return kinds(examine([folder], progress=False, **options))  # type: ignore[arg-type]


class TestVideoFiles:
    def test_whole_ones_of_every_container_are_clean(self, tmp_path: Path) -> None:
        for number, suffix in enumerate((".mp4", ".mov", ".avi", ".mkv", ".webm", ".mpg")):
            write_clip(tmp_path / f"clip{number}{suffix}", frames=40, fps=25, first=number)
        write_gif(tmp_path / "even.gif", [100] * 8)
        index_first(write_clip(tmp_path / "web.mp4", frames=41, fps=30000 / 1001))
        assert look(tmp_path) == {}

    @pytest.mark.parametrize(
        ("name", "damage", "kind"),
        [
            ("a.mp4", lambda path: path.write_bytes(b""), "empty"),
            ("a.mp4", lambda path: path.write_text("<html>404 Not Found</html>"), "not_video"),
            ("a.mp4", lambda path: truncate(path, 0.6), "truncated"),
            ("a.mov", lambda path: truncate(path, 0.6), "truncated"),
            ("a.mp4", lambda path: (index_first(path), truncate(path, 0.6)), "truncated"),
            ("a.mp4", lambda path: (index_first(path), truncate(path, 0.97)), "truncated"),
            ("a.avi", lambda path: truncate(path, 0.6), "truncated"),
            ("a.mkv", lambda path: truncate(path, 0.6), "truncated"),
            ("a.webm", lambda path: truncate(path, 0.6), "truncated"),
            ("a.avi", lambda path: blank(path, 0.4, 0.6), "corrupt"),
            ("a.mkv", lambda path: blank(path, 0.4, 0.6), "corrupt"),
            ("a.webm", lambda path: blank(path, 0.3, 0.5), "corrupt"),
            ("a.mp4", lambda path: blank(path, 0.02, 1.0), "corrupt"),
            ("a.mkv", lambda path: blank(path, 0.02, 1.0), "corrupt"),
        ],
    )
    def test_damage_is_told_by_kind(
        self, tmp_path: Path, name: str, damage: Callable[[Path], object], kind: str
    ) -> None:
        path = write_clip(tmp_path / name, frames=60)
        damage(path)
        write_clip(tmp_path / "good.mp4", frames=30)
        result = examine([tmp_path], progress=False)
        assert kinds(result) == {kind: ["a"]}
        assert result.findings[0].files == (str(path),)

    def test_how_much_is_missing_is_said(self, tmp_path: Path) -> None:
        truncate(write_clip(tmp_path / "a.avi", frames=60), 0.6)
        (finding,) = examine([tmp_path], progress=False).findings
        counted = len(ffmpeg("-i", tmp_path / "a.avi", "-f", "rawvideo", "-pix_fmt", "gray", "-")) // (64 * 48)
        missing = 60 - counted
        assert f"the file is truncated; {missing} of 60 frames are damaged ({missing / 60:.1%}: " in finding.message

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may read every file")
    def test_a_file_that_may_not_be_read(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "a.mp4").chmod(0)
        assert look(tmp_path) == {"unreadable": ["a"]}

    def test_short_and_variable_ones(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "one.mp4", frames=1, fps=1)
        write_clip(tmp_path / "blink.mp4", frames=8, fps=25)
        uneven = write_clip(tmp_path / "uneven.mp4", frames=40)
        tick = time_scale(uneven) // 10
        set_frame_durations(uneven, [tick if number % 4 else 3 * tick for number in range(40)])
        dropped = write_clip(tmp_path / "dropped.mp4", frames=101)  # one long frame of a hundred is not a rate
        set_frame_durations(dropped, [2 * time_scale(dropped) // 10] + [time_scale(dropped) // 10] * 100)
        write_gif(tmp_path / "slides.gif", [100, 900, 100, 400, 100, 700])
        assert look(tmp_path) == {"too_short": ["blink", "one"], "variable_rate": ["slides", "uneven"]}
        assert look(tmp_path, limits=Limits(0.2, 1)) == {"variable_rate": ["slides", "uneven"]}

    def test_the_same_bytes_and_the_same_id(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "a.mp4")
        shutil.copy(tmp_path / "a.mp4", tmp_path / "copy.mp4")
        other = (tmp_path / "a.mp4").read_bytes()
        (tmp_path / "longer.mp4").write_bytes(other + b"\0\0\0\x08free")
        (tmp_path / "same_length.mp4").write_bytes(other.replace(b"isom", b"mp42", 1))
        (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
        (tmp_path / "sub").mkdir()
        write_clip(tmp_path / "sub" / "a.avi", first=7)
        result = examine([tmp_path], progress=False)
        assert kinds(result) == {"duplicate": ["a"], "same_id": ["a"]}
        duplicate, same_id = result.findings
        assert {Path(file).name for file in duplicate.files} == {"a.mp4", "copy.mp4"}
        assert {Path(file).name for file in same_id.files} == {"a.mp4", "a.avi"}


def test_ctrl_c_does_not_wait_for_the_videos_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{number}.mp4" for number in range(200)]
    for file in files:
        file.write_bytes(b"")
    begun: list[Path] = []

    def slow(path: Path, stop: threading.Event) -> videos.VideoFacts:
        begun.append(path)
        stop.wait(0.02 if len(begun) < 4 else 60)
        return videos.VideoFacts(None)

    def interrupt(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(videos, "read_facts", slow)
    monkeypatch.setattr(videos, "problems", interrupt)
    with pytest.raises(KeyboardInterrupt):
        videos.examine_videos(files, Limits(), workers=2)
    assert len(begun) < 10


class TestRates:
    @pytest.mark.parametrize("rate", [1, 23.976, 25, 30000 / 1001, 60])
    def test_rounding_to_milliseconds_is_no_variable_rate(self, rate: float) -> None:
        assert varying_distance(np.round(np.arange(300) / rate, 3)) is None

    def test_distances(self) -> None:
        rng = np.random.default_rng(0)
        times = np.cumsum(rng.uniform(0.02, 0.08, size=200))
        found = varying_distance(times)
        distances = [after - before for before, after in pairwise(times)]
        assert found == pytest.approx((min(distances), max(distances)))


class TestDataSets:
    @pytest.fixture
    def clips(self, tmp_path: Path) -> Path:
        folder = tmp_path / "videos"
        folder.mkdir()
        for number in range(5):
            write_clip(folder / f"video{number}.mp4", frames=6 + number)
        return folder

    def test_captions_without_video_and_videos_without_captions(self, clips: Path, tmp_path: Path) -> None:
        annotations = write_annotations(tmp_path / "a.json", range(3), range(7, 8), range(8, 9))
        assert look(clips, caption=[annotations]) == {
            "missing_video": ["video7", "video8"], "uncaptioned": ["video3", "video4"],
        }  # fmt: skip
        # A file of test videos comes without captions; a training video without one is of no use.
        content = json.loads(annotations.read_text())
        content["sentences"] = [one for one in content["sentences"] if one["video_id"] not in ("video1", "video8")]
        annotations.write_text(json.dumps(content))
        assert look(clips, caption=[annotations])["uncaptioned"] == ["video1", "video3", "video4"]

    def test_overlapping_splits(self, clips: Path, tmp_path: Path) -> None:
        first = write_annotations(tmp_path / "a.json", range(4), range(4, 5))
        second = write_annotations(tmp_path / "b.json", range(0), range(0), range(3, 5))
        assert look(clips, caption=[first, second]) == {"split_overlap": ["video3", "video4"]}
        rows = ["video,caption,split", "video1,a dog,train", "video1,a cat,test", "video2,a man,val", "video2,x,train"]
        (tmp_path / "c.csv").write_text("\n".join(rows))
        assert look(clips, caption=[tmp_path / "c.csv"]) == {"split_overlap": ["video1", "video2"]}
        with pytest.raises(ClipcapError, match="belongs to one split"):
            read_annotations([tmp_path / "c.csv"])

    def test_one_file_in_two_splits_under_two_names(self, clips: Path, tmp_path: Path) -> None:
        annotations = write_annotations(tmp_path / "a.json", range(4), range(4, 5))
        shutil.copy(clips / "video0.mp4", clips / "video1.mp4")  # both of the training split
        assert look(clips, caption=[annotations]) == {"duplicate": ["video0"]}
        shutil.copy(clips / "video0.mp4", clips / "video4.mp4")
        result = examine([clips], [annotations], progress=False)
        assert kinds(result) == {"duplicate": ["video0"], "split_overlap": ["video0"]}
        assert "video0 (train), video1 (train), video4 (validate)" in result.findings[1].message

    def test_annotations_that_cannot_be_read_hide_nothing_else(self, clips: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.json").write_text("{")
        (clips / "video0.mp4").write_bytes(b"")
        result = examine([clips], [tmp_path / "bad.json"], progress=False)
        assert kinds(result) == {"empty": ["video0"], "annotations": ["bad.json"]}
        assert result.notes


class TestFeatures:
    def test_damage_kinds_and_gaps(self, tmp_path: Path) -> None:
        data = write_feature_folder(tmp_path / "features", range(6))
        annotations = write_annotations(tmp_path / "a.json", range(5), range(5, 7))
        truncate(data / "video0.safetensors", 0.9)  # the first one, by which a store would know the folder
        (data / "video1.safetensors").write_bytes(b"")
        nan = features_of(2)
        nan[0, 3] = np.nan
        write_features(data, "video2", nan, np.arange(len(nan)), fingerprint())
        write_features(data, "video3", features_of(3), np.arange(5), fingerprint(encoder="b", weights="sha256:1"))
        write_features(data, "video9", features_of(9), np.arange(3), fingerprint())
        found = kinds(examine(caption=[annotations], data=data))
        assert found == {
            "bad_features": ["video0", "video1", "video2"],
            "mixed_features": ["video3"],
            "missing_features": ["video6"],
            "stray_features": ["video9"],
        }

    def test_the_older_layouts(self, tmp_path: Path) -> None:
        for number in range(3):
            np.save(tmp_path / f"video{number}.npy", features_of(number))
        assert kinds(examine(data=tmp_path)) == {}
        truncate(tmp_path / "video1.npy", 0.7)
        np.save(tmp_path / "video2.npy", np.zeros((3, 16)))
        assert kinds(examine(data=tmp_path)) == {"bad_features": ["video1", "video2"]}

    def test_hdf5(self, tmp_path: Path) -> None:
        import h5py

        with h5py.File(tmp_path / "f.hdf5", "w") as file:
            for number in range(3):
                file[f"video{number}"] = features_of(number)
            file["video3"] = np.full((2, 16), np.inf)
        annotations = write_annotations(tmp_path / "a.json", range(4), range(4, 5))
        found = kinds(examine(caption=[annotations], data=tmp_path / "f.hdf5"))
        assert found == {"bad_features": ["video3"], "missing_features": ["video4"]}
        truncate(tmp_path / "f.hdf5", 0.8)
        assert kinds(examine(data=tmp_path / "f.hdf5")) == {"bad_features": ["f.hdf5"]}

    def test_what_shards_say_of_videos_without_features(self, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow", reason="pyarrow (extra parquet) is not installed")
        with ShardWriter(tmp_path / "shards", 16, fingerprint()) as writer:
            for number in range(4):
                writer.add(f"video{number}", features_of(number), None)
            writer.fail("video4", "video4.mp4 is empty; fetch it again")
        annotations = write_annotations(tmp_path / "a.json", range(5), range(5, 6))
        result = examine(caption=[annotations], data=tmp_path / "shards")
        assert kinds(result) == {"failed_features": ["video4"], "missing_features": ["video5"]}
        assert [one.message for one in result.findings if one.kind == "failed_features"] == [
            "video4.mp4 is empty; fetch it again"
        ]

    def test_a_model_and_features(self, tmp_path: Path, tiny_project: TinyProject) -> None:
        from clipcap_video.training.config import TrainConfig
        from clipcap_video.training.run import prepare

        options = TrainConfig(
            data=tiny_project.data, caption=[tiny_project.caption], lm=str(tiny_project.lm), num_layers=1,
            prefix_length=2, only_prefix=True, device="cpu", precision="fp32", out_dir=tmp_path / "out",
        )  # fmt: skip
        model = prepare(options)[0].captioner
        checkpoint = tmp_path / "model"
        save_checkpoint(checkpoint, model, CheckpointInfo(fingerprint()))
        assert kinds(examine(data=tiny_project.data, model_dir=checkpoint)) == {}
        other = tmp_path / "other"
        other.mkdir()
        write_features(other, "video0", features_of(0), np.arange(2), fingerprint(weights="sha256:9"))
        result = examine(data=other, model_dir=checkpoint)
        assert kinds(result) == {"other_features": [str(other)]}
        assert result.findings[0].message.startswith("another weights: ")
        (other / "video0.safetensors").unlink()
        np.save(other / "video0.npy", np.ones((2, 24)))
        result = examine(data=other, model_dir=checkpoint)
        assert kinds(result) == {"wrong_width": [str(other)]}
        assert "24 wide" in result.findings[0].message
        truncate(checkpoint / "model.safetensors", 0.9)
        assert kinds(examine(model_dir=checkpoint)) == {"bad_model": ["model"]}
        assert kinds(examine(model_dir=tmp_path / "nowhere")) == {"bad_model": ["nowhere"]}
