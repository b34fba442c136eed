"""The commands as a user types them, on clips and models that the tests make."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipcap_video import stopping
from clipcap_video.captioning.predictions import Prediction
from clipcap_video.errors import ClipcapError
from clipcap_video.metrics import java
from tests.clips import truncate, write_clip
from tests.conftest import TinyProject
from tests.tiny import write_annotations
from tests.tiny_clip import save_tiny_clip

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official Java programs take seconds to start; tests/metrics/test_captioning.py runs them."""
    monkeypatch.setattr(java, "java_runs", lambda: False)


@dataclass(frozen=True)
class Done:
    """What a command left: its exit status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: object, cwd: Path = ROOT) -> Done:
    """Runs `python SCRIPT ...` or `clipcap-video ...` in this process, where torch is loaded already."""
    words = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", words)
        patch.setattr(stopping, "end_at_signals", lambda: None)  # it would end the tests
        try:
            if words[0] == "clipcap-video":
                runpy.run_module("clipcap_video", run_name="__main__")
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
    return Done(status if isinstance(status, int) else 1 if status else 0, out.getvalue(), err.getvalue())


def refused(*arguments: object, cwd: Path = ROOT) -> str:
    """The one sentence that a command prints before it stops with a non-zero status."""
    done = run(*arguments, cwd=cwd)
    assert done.returncode not in (0, 130), done.stdout
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


@dataclass(frozen=True)
class Project:
    folder: Path
    videos: Path
    features: Path
    annotations: Path
    out: Path
    clip: Path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path) -> Project:
    """Clips extracted and a captioner trained by the three commands; the tests look at what they left."""
    folder = tmp_path_factory.mktemp("user")
    made = Project(
        folder, folder / "videos", folder / "features", folder / "a.json", folder / "out", folder / "tiny-clip.pt"
    )
    made.videos.mkdir()
    for number in range(6):
        write_clip(made.videos / f"video{number}.mp4", frames=4 + 3 * number)
    (made.videos / "video6.mp4").write_text("this is no video")
    write_annotations(made.annotations, range(4), range(4, 5), range(5, 6))
    save_tiny_clip(made.clip)
    extract = ["extract_features.py", "--videos", made.videos, "--out", made.features, "--encoder", made.clip]
    done = run(*extract, "--frames", "6", "--device", "cpu")
    assert done.returncode == 1, done.stderr  # for the one bad video
    assert "6 videos done, 0 done before, 1 failed" in done.stdout
    done = run(
        "train_vtt.py", "--data", made.features, "--caption", made.annotations, "--out_dir", made.out, "--lm", tiny_lm,
        "--only_prefix", "--mapping_type", "transformer", "--num_layers", "2", "--epochs", "2", "--bs", "2",
        "--prefix_length", "4", "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


def predictions(file: Path) -> dict[str, list[dict]]:
    return {entry["video"]: entry["captions"] for entry in json.loads(file.read_text())["predictions"]}


class TestTheMainJob:
    def test_extraction_left_features_and_named_the_failure(self, project: Project) -> None:
        assert sorted(path.name for path in project.features.iterdir()) == [
            ".request.json", "failures.jsonl", "run.yaml", *(f"video{number}.safetensors" for number in range(6)),
        ]  # fmt: skip
        failure = json.loads((project.features / "failures.jsonl").read_text())
        assert failure["video"] == "video6"
        assert "video6.mp4" in failure["reason"]

    def test_captions_of_the_test_split_beside_the_checkpoint(self, project: Project) -> None:
        done = run("inference_vtt.py", "--model_dir", project.out, "--entry_length", "10", "--device", "cpu")
        assert done.returncode == 0, done.stderr
        found = predictions(project.out / "predictions.json")
        assert list(found) == ["video5"]
        caption = found["video5"][0]
        assert caption["tokens"] <= 10
        assert caption["logprob"] == pytest.approx(caption["mean_logprob"] * (caption["tokens"] + 1), rel=1e-4)
        scores = json.loads((project.out / "scores.json").read_text())
        assert (scores["split"], scores["videos"]) == ("test", 1)
        assert {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"} <= scores.keys()

    def test_videos_give_the_captions_of_their_features(self, project: Project, tmp_path: Path) -> None:
        beam = [
            "--model_dir",
            project.out,
            "--use_beam_search",
            "--num_return",
            "3",
            "--device",
            "cpu",
            "--precision",
            "fp32",
        ]
        done = run("inference_vtt.py", *beam, "--videos", project.videos, "--report", "page.html", cwd=tmp_path)
        assert done.returncode == 1  # for the one bad video
        assert "could not read video6" in done.stderr
        assert "<html" in (tmp_path / "page.html").read_text()
        done = run("inference_vtt.py", *beam, "--data", project.features, "--out", tmp_path / "stored.json")
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "scores.json").exists()  # no annotations were given
        from_videos, stored = predictions(tmp_path / "predictions.json"), predictions(tmp_path / "stored.json")
        assert from_videos.keys() == stored.keys()
        for video, captions in stored.items():
            assert [caption["text"] for caption in captions] == [caption["text"] for caption in from_videos[video]]
            assert len(captions) == 3

    def test_batches_do_not_change_captions(self, project: Project, tmp_path: Path) -> None:
        for mode in (
            ["--use_beam_search"],
            ["--top_p", "0.9", "--temperature", "1.3"],
            ["--repetition_penalty", "1.5"],
        ):
            texts = []
            for size in (1, 4):
                done = run(
                    "inference_vtt.py", "--model_dir", project.out, "--data", project.features, "--bs", size, *mode,
                    "--precision", "fp32", "--device", "cpu", "--out", tmp_path / "p.json",
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
                texts.append(
                    {video: captions[0]["text"] for video, captions in predictions(tmp_path / "p.json").items()}
                )
            assert texts[0] == texts[1]

    def test_the_library_needs_three_lines(self, project: Project) -> None:
        from clipcap_video import Captioner

        captioner = Captioner.from_pretrained(project.out, device="cpu")
        videos = [project.videos / "video5.mp4", project.videos / "video2.mp4"]
        one, both = captioner.caption(videos[0]), captioner.caption(videos)
        assert isinstance(one, Prediction)
        assert isinstance(both, list)
        assert [prediction.video for prediction in both] == ["video5", "video2"]
        assert both[0].text == one.text != ""
        with pytest.raises(ClipcapError, match=r"video6\.mp4"):
            captioner.caption(project.videos / "video6.mp4")

    def test_evaluate_alone(self, project: Project, tmp_path: Path) -> None:
        (tmp_path / "p.json").write_text(json.dumps({"video5": "a girl is cooking in a kitchen"}))
        done = run(
            "clipcap-video", "evaluate", "--predictions", tmp_path / "p.json", "--caption", project.annotations,
            "--split", "test", "--out", tmp_path / "scores.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "scores.json").read_text())["split"] == "test"

    def test_a_checkpoint_of_an_epoch(self, project: Project, tmp_path: Path) -> None:
        done = run("inference_vtt.py", "--model_dir", project.out, "--epoch", "1", "--device", "cpu", "--overwrite")
        assert done.returncode == 0, done.stderr
        assert (project.out / "predictions.json").exists()
        assert "there are prefix-000, prefix-001" in refused(
            "inference_vtt.py", "--model_dir", project.out, "--epoch", "9", "--overwrite"
        )


class TestHelp:
    @pytest.mark.parametrize(
        "command",
        [
            ["extract_features.py"], ["train_vtt.py"], ["inference_vtt.py"], ["-m", "clipcap_video"],
            ["-m", "clipcap_video", "evaluate"], ["-m", "clipcap_video", "new-lm"], ["-m", "clipcap_video", "demo"],
            ["-m", "clipcap_video", "convert"], ["-m", "clipcap_video", "report"], ["-m", "clipcap_video", "doctor"],
        ],
    )  # fmt: skip
    def test_help_does_not_wait_for_torch(self, command: list[str]) -> None:
        code = f"""
import runpy, sys
sys.argv = {[*command, "--help"]!r}
try:
    if sys.argv[0] == "-m":
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
loaded = sorted({{"torch", "transformers", "cv2", "numpy", "yaml", "matplotlib"}} & sys.modules.keys())
assert not loaded, loaded
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Usage:" in done.stdout


class TestBadInput:
    def test_videos(self, project: Project, tmp_path: Path) -> None:
        extract = ["extract_features.py", "--encoder", project.clip, "--out", tmp_path / "features", "--videos"]
        assert "nowhere" in refused(*extract, tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        assert "no video" in refused(*extract, tmp_path / "empty")
        assert not (tmp_path / "features").exists()

    def test_bad_videos_are_failures_with_a_reason(self, project: Project, tmp_path: Path) -> None:
        folder = tmp_path / "videos"
        folder.mkdir()
        (folder / "text.mp4").write_text("this is no video")
        (folder / "nothing.mp4").write_bytes(b"")
        truncate(write_clip(folder / "cut.mp4", frames=30), 0.4)
        write_clip(folder / "good.mp4")
        done = run("extract_features.py", "--videos", folder, "--out", tmp_path / "f", "--encoder", project.clip)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        failures = [json.loads(line) for line in (tmp_path / "f" / "failures.jsonl").read_text().splitlines()]
        assert sorted(failure["video"] for failure in failures) == ["cut", "nothing", "text"]
        assert all(f"{failure['video']}.mp4" in failure["reason"] for failure in failures)
        assert (tmp_path / "f" / "good.safetensors").exists()

    def test_encoders_and_sampling(self, project: Project, tmp_path: Path) -> None:
        extract = ["extract_features.py", "--videos", project.videos, "--out", project.features]
        assert "unknown encoder 'vit'" in refused(*extract, "--encoder", "vit")
        assert "nowhere.pt" in refused(*extract, "--encoder", "nowhere.pt")
        before = {path.name: path.read_bytes() for path in project.features.iterdir()}
        assert "extract" in refused(*extract, "--encoder", project.clip, "--frames", "3")  # another sampling
        other = save_tiny_clip(tmp_path / "other.pt", seed=1)
        sentence = refused(*extract, "--encoder", other, "--frames", "6")
        assert "other.pt" in sentence
        assert "tiny-clip.pt" in sentence
        assert {path.name: path.read_bytes() for path in project.features.iterdir()} == before
        assert "--bs" in refused(*extract, "--encoder", project.clip, "--bs", "0")

    def test_unknown_option_values_are_usage_errors(self) -> None:
        for command in (["train_vtt.py", "--mapping_type", "lstm"], ["extract_features.py", "--sampling", "middle"]):
            done = run(*command)
            assert done.returncode == 2
            assert command[2] in done.stderr
            assert "Traceback" not in done.stderr
        assert run("train_vtt.py", "--no_such_option", "1").returncode == 2

    def test_annotations(self, project: Project, tmp_path: Path, tiny_lm: Path) -> None:
        train = [
            "train_vtt.py",
            "--data",
            project.features,
            "--out_dir",
            tmp_path / "out",
            "--lm",
            tiny_lm,
            "--caption",
        ]
        (tmp_path / "bad.json").write_text("{")
        assert "not JSON" in refused(*train, tmp_path / "bad.json")
        (tmp_path / "lacks.json").write_text(json.dumps({"videos": [{"video_id": "video1", "split": "train"}]}))
        assert "sentences" in refused(*train, tmp_path / "lacks.json")
        assert "unknown device" in refused(*train, project.annotations, "--device", "toaster")
        assert not (tmp_path / "out").exists()

    def test_inference(self, project: Project, tmp_path: Path, tiny_project: TinyProject) -> None:
        infer = ["inference_vtt.py", "--device", "cpu", "--overwrite", "--model_dir"]
        assert "no model directory" in refused(*infer, tmp_path / "nowhere")
        assert "holds no config.json" in refused(*infer, tmp_path)
        other = refused(*infer, project.out, "--data", tiny_project.data)
        assert "trained on" in other
        assert "tiny-clip.pt" in other
        assert "contradicts" in refused(*infer, project.out, "--prefix_length", "40")
        assert "contradicts" in refused(*infer, project.out, "--cross")
        assert "split" in refused(*infer, project.out, "--split", "nowhere")
        assert "beam" in refused(*infer, project.out, "--use_beam_search", "--top_p", "0.5")
        assert "num_return" in refused(
            *infer, project.out, "--use_beam_search", "--beam_size", "5", "--num_return", "9"
        )
        assert "positions" in refused(*infer, project.out, "--entry_length", "999")
        assert "--videos" in refused(*infer, project.out, "--encoder", "x.pt")
        assert "cannot write" in refused(*infer, project.out, "--out", tmp_path)
        (tmp_path / "file").write_text("")
        assert "is not a folder" in refused(*infer, project.out, "--out", tmp_path / "file" / "p.json")
        run(*infer, project.out, "--prefix_length", "4", "--mapping_type", "transformer", "--num_layers", "2")

    def test_without_java_one_line_says_what_is_missing(self, project: Project, tmp_path: Path) -> None:
        (tmp_path / "p.json").write_text(json.dumps({"video5": "a girl sings", "video4": "a cat"}))
        done = run("clipcap-video", "evaluate", "--predictions", tmp_path / "p.json", "--caption", project.annotations)
        assert done.returncode == 0, done.stderr
        assert "METEOR" in done.stdout.splitlines()[-2] + done.stdout.splitlines()[-1]
        assert "METEOR" not in json.loads((tmp_path / "scores.json").read_text())
