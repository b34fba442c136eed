"""The evaluate command from files to scores.json."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from clipcap_video.captioning.predictions import Caption, Prediction, PredictionFile
from clipcap_video.cli.evaluate import evaluate
from clipcap_video.errors import ClipcapError
from clipcap_video.metrics import java
from tests import commands
from tests.cli.conftest import Project

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(evaluate)


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Java starts slowly; what it adds is tested with the metrics."""
    monkeypatch.setattr(java, "java_runs", lambda: False)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "captions.csv"
    path.write_text(
        "video,caption,split\na,a dog runs,test\na,the dog,test\nb,a cat sleeps,test\nc,a man talks,train\n"
    )
    return path


def predictions(folder: Path, split: str | None, **captions: str) -> Path:
    path = folder / "predictions.json"
    entries = [Prediction(video, [Caption(text, -1.0, -1.0, 1)]) for video, text in captions.items()]
    PredictionFile("model", split, {}, entries).save(path)
    return path


def run(*options: object) -> str:
    """What the command prints; an error is raised."""
    result = CliRunner().invoke(app, [str(option) for option in options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_split_of_the_predictions_is_scored(tmp_path: Path, annotations: Path) -> None:
    path = predictions(tmp_path, "test", a="a dog runs", b="a cat sleeps")
    printed = run("--predictions", path, "--annotations", annotations)
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert (scores["split"], scores["videos"], scores["references"]) == ("test", 2, 3)
    assert scores["Bleu_1"] == pytest.approx(1.0)
    assert (scores["tokenizer"], scores["missing"]) == ("python", ["METEOR"])
    assert set(scores["per_video"]) == {"a", "b"}
    assert f"CIDEr   {100 * scores['CIDEr']:7.2f}" in printed
    assert "Java is not installed: METEOR is left out" in printed


def test_missing_predictions_are_an_error_unless_allowed(tmp_path: Path, annotations: Path) -> None:
    path = predictions(tmp_path, "test", a="a dog runs")
    with pytest.raises(ClipcapError, match=r"1 of 2 videos of split 'test' have no prediction \(b\)"):
        run("--predictions", path, "--annotations", annotations)
    assert not (tmp_path / "scores.json").exists()
    out = tmp_path / "partial.json"
    run("--predictions", path, "--annotations", annotations, "--out", out, "--allow_missing")
    scores = json.loads(out.read_text(encoding="utf-8"))
    assert (scores["videos"], scores["unpredicted"]) == (1, ["b"])


def test_a_given_split_wins(tmp_path: Path, annotations: Path) -> None:
    path = predictions(tmp_path, "test", c="a man talks")
    run("--predictions", path, "--annotations", annotations, "--split", "train")
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["split"] == "train"


def test_plain_captions_are_scored_where_they_are(tmp_path: Path, annotations: Path) -> None:
    path = tmp_path / "plain.json"
    path.write_text('{"a": "a dog runs", "c": ["a man talks"]}')
    run("--predictions", path, "--annotations", annotations)
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert (scores["split"], scores["videos"]) == (None, 2)


def test_intervals_and_the_curve_of_confidence(tmp_path: Path, annotations: Path) -> None:
    path = predictions(tmp_path, "test", a="a dog runs", b="a cat sleeps")
    options = ["--predictions", path, "--annotations", annotations, "--bootstrap", "100"]
    curve = tmp_path / "curve.png"
    printed = run(*options, "--confidence_curve", curve)
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    low, high = scores["intervals"]["CIDEr"]
    assert low <= scores["CIDEr"] <= high
    assert f"[{100 * low:.2f}, {100 * high:.2f}] in 95 %" in printed
    assert "rank correlation of confidence and CIDEr" in printed
    assert curve.stat().st_size > 1000
    run(*options, "--seed", "0")
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8")) == scores


def test_a_curve_needs_captions_with_confidence(tmp_path: Path, annotations: Path) -> None:
    path = tmp_path / "plain.json"
    path.write_text('{"a": "a dog runs"}')
    with pytest.raises(ClipcapError, match="lacks the fields version and predictions"):
        run("--predictions", path, "--annotations", annotations, "--confidence_curve", tmp_path / "curve.png")


def test_help_names_the_options_as_written_and_loads_nothing_heavy() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    for option in ("PREDICTIONS", "--annotations", "--split", "--out", "--allow_missing"):
        assert option in result.output
    assert "--no-allow_missing" not in result.output
    heavy = ("torch", "numpy", "pycocoevalcap")
    code = f"import sys, clipcap_video.cli.evaluate; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_examples_are_what_the_program_writes(tmp_path: Path, annotations: Path) -> None:
    """Its compute_score.py: [scores, figure -> [video, first reference, caption, value]]; words between blanks."""
    path = tmp_path / "pred.json"
    path.write_text(json.dumps({"a": ["a dog runs"], "b": ["A cat sits."]}))
    printed = run("--predictions", path, "--annotations", annotations, "--split", "test", "--examples")
    assert f"examples: {tmp_path / 'score+examplepred.json'}" in printed
    scores, examples = json.loads((tmp_path / "score+examplepred.json").read_text(encoding="utf-8"))
    assert list(scores) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    assert list(examples) == ["Bleu_4", "ROUGE_L", "CIDEr"]
    for entries in examples.values():
        assert [entry[:3] for entry in entries] == [
            ["a", "a dog runs", "a dog runs"], ["b", "a cat sleeps", "A cat sits."]
        ]  # fmt: skip
    # "A" and "sits." are no words of the reference: of three words one is in it, in both directions.
    assert [entry[3] for entry in examples["ROUGE_L"]] == pytest.approx([1, 1 / 3])
    assert scores["ROUGE_L"] == pytest.approx(2 / 3)
    assert scores["Bleu_1"] == pytest.approx(4 / 6)
    assert scores["CIDEr"] == pytest.approx(sum(entry[3] for entry in examples["CIDEr"]) / 2)
    # Three words of three in order, and no four words to find: the scorer's tiny constants remain.
    assert [entry[3] for entry in examples["Bleu_4"]] == pytest.approx([(1e-15 / 1e-9) ** 0.25, 0], abs=1e-3)


def test_evaluate_alone(project: Project, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"video5": "a girl is cooking in a kitchen"}))
    done = commands.run(
        "clipcap-video", "evaluate", "--predictions", tmp_path / "p.json", "--caption", project.annotations,
        "--split", "test", "--out", tmp_path / "scores.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "scores.json").read_text())["split"] == "test"


def test_without_java_one_line_says_what_is_missing(project: Project, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"video5": "a girl sings", "video4": "a cat"}))
    done = commands.run(
        "clipcap-video", "evaluate", "--predictions", tmp_path / "p.json", "--caption", project.annotations
    )
    assert done.returncode == 0, done.stderr
    assert "METEOR" in done.stdout.splitlines()[-2] + done.stdout.splitlines()[-1]
    assert "METEOR" not in json.loads((tmp_path / "scores.json").read_text())
