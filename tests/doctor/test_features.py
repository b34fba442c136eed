"""What the doctor says of features that are damaged, missing or of another kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipcap_video.doctor import examine
from clipcap_video.features.shards import ShardWriter
from clipcap_video.features.store import write_features
from clipcap_video.models.checkpoint import CheckpointInfo, save_checkpoint
from tests.clips import truncate
from tests.conftest import TinyProject
from tests.doctor.conftest import kinds
from tests.tiny import features_of, fingerprint, write_annotations, write_feature_folder


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
