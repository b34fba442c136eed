"""What a run refuses before its first step, and which runs it continues."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from clipcap_video.errors import ClipcapError
from clipcap_video.features.store import write_features
from clipcap_video.training.loop import TrainingSummary
from clipcap_video.training.run import train
from tests.conftest import TinyProject
from tests.tiny import features_of, fingerprint, write_annotations, write_feature_folder
from tests.training.conftest import config


class TestBadInput:
    def refused(self, project: TinyProject, out: Path, match: str, **changes: Any) -> None:
        with pytest.raises(ClipcapError, match=match) as error:
            train(config(project, out, **changes))
        assert "\n" not in str(error.value)
        assert not out.exists()

    def test_missing_parts(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        out = tmp_path / "out"
        self.refused(tiny_project, out, "no features at", data=tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        self.refused(tiny_project, out, "no features in folder", data=tmp_path / "empty")
        self.refused(tiny_project, out, r"nowhere\.json", caption=[tmp_path / "nowhere.json"])
        self.refused(tiny_project, out, "cannot read the language model", lm=str(tmp_path / "empty"))
        self.refused(tiny_project, out, "no GGUF file", lm=str(tmp_path / "x.gguf"))
        self.refused(tiny_project, out, "no split 'dev2'", train_split="dev2")

    def test_ids_that_do_not_meet(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        other = write_annotations(tmp_path / "a.json", range(100, 103), range(0))
        self.refused(tiny_project, tmp_path / "out", "no video of .* has features", caption=[other])

    def test_left_out_videos_are_counted_and_named(
        self, tiny_project: TinyProject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        annotations = write_annotations(tmp_path / "a.json", range(5), range(30, 32), range(90, 91))
        train(config(tiny_project, tmp_path / "out", caption=[annotations], epochs=1, eval_every=0))
        said = capsys.readouterr().err
        assert "1 annotated video (video90) without features" in said
        assert "29 videos (video5, video6, video7, ...) with features but no annotations" in said

    def test_features_of_two_encoders(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        folder = write_feature_folder(tmp_path / "features", range(6))
        features = features_of(3)
        write_features(folder, "video3", features, features[:, 0], fingerprint(encoder="other", weights="sha256:1"))
        self.refused(tiny_project, tmp_path / "out", "features of two kinds.*other.*tiny", data=folder)

    def test_resnet_features_are_640_wide(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        self.refused(tiny_project, tmp_path / "out", "640-wide.*16 wide", is_rn=True)

    @pytest.mark.parametrize(
        "changes",
        [
            {"epochs": 0},
            {"lr": 0.0},
            {"lr": math.nan},
            {"dropout": 1.0},
            {"prefix": "a/b"},
            {"warmup_steps": -2},
            {"max_minutes": -1},
            {"clip_norm": math.nan},
        ],
    )
    def test_options_without_sense(self, tiny_project: TinyProject, tmp_path: Path, changes: dict[str, Any]) -> None:
        with pytest.raises(ClipcapError, match=f"--{next(iter(changes))}"):
            config(tiny_project, tmp_path, **changes)

    def test_a_run_is_never_written_over(
        self, tiny_project: TinyProject, finished: tuple[Path, TrainingSummary]
    ) -> None:
        out, _ = finished
        before = (out / "metrics.jsonl").read_bytes()
        with pytest.raises(ClipcapError, match="already holds a run"):
            train(config(tiny_project, out))
        with pytest.raises(ClipcapError, match=r"started with --dropout 0.0, --lm_lr 0.005, --epochs 40, --lr 0.005"):
            train(config(tiny_project, out, resume=True))
        assert (out / "metrics.jsonl").read_bytes() == before

    def test_a_run_resumes_on_its_own_data_and_language_model_only(
        self, tiny_project: TinyProject, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        train(config(tiny_project, out, epochs=1, only_prefix=True, eval_every=0))
        fewer = write_annotations(tmp_path / "a.json", range(20), range(24, 30), range(30, 36))
        again = {"epochs": 1, "only_prefix": True, "eval_every": 0, "resume": True}
        with pytest.raises(ClipcapError, match="other videos or captions"):
            train(config(tiny_project, out, caption=[fewer], **again))
        other = tmp_path / "features"
        for number in range(36):
            other.mkdir(exist_ok=True)
            features = features_of(number)
            write_features(other, f"video{number}", features, features[:, 0], fingerprint(normalized=True))
        with pytest.raises(
            ClipcapError, match="are normalised features, but the model was trained on features that are not"
        ):
            train(config(tiny_project, out, data=other, **again))
        shutil.copytree(tiny_project.lm, tmp_path / "lm")
        weights = load_file(tmp_path / "lm" / "model.safetensors")
        save_file({name: tensor + 1 for name, tensor in weights.items()}, tmp_path / "lm" / "model.safetensors")
        saved = out / "last" / "config.json"
        text = saved.read_text()
        saved.write_text(text.replace(str(tiny_project.lm.resolve()), str((tmp_path / "lm").resolve())))
        with pytest.raises(ClipcapError, match="is not the one that the run"):
            train(config(tiny_project, out, lm=str(tmp_path / "lm"), **again))
        saved.write_text(text)
        assert train(config(tiny_project, out, **again)).finished
