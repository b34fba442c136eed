"""predictions.json survives a round trip, and bad files are named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.captioning.predictions import (
    Caption,
    Prediction,
    PredictionFile,
    from_line,
    load_captions,
    to_line,
)
from clipcap_video.errors import ClipcapError
from clipcap_video.report.entries import report_predictions
from clipcap_video.video.damage import Damage


def example() -> PredictionFile:
    return PredictionFile(
        model="runs/best",
        split="test",
        decoding={"beam_size": 5, "temperature": 1.0},
        predictions=[
            Prediction(
                video="video7",
                captions=[
                    Caption("a dog — “running”", -6.5, -1.3, 5, False),
                    Caption("a dog", -4.0, -2.0, 2, True),
                ],
                timestamps=[0.0, 1.5],
                path="videos/video7.mp4",
                start=0.5,
                end=2.0,
            ),
            Prediction(video="video8", captions=[]),
        ],
    )


def test_saved_and_loaded_equals_the_original(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    example().save(path)
    assert PredictionFile.load(path) == example()
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.json"]


def test_the_format_is_as_documented(tmp_path: Path) -> None:
    example().save(tmp_path / "predictions.json")
    content = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert list(content) == ["version", "model", "split", "decoding", "predictions"]
    assert content["version"] == 1
    assert content["predictions"][0]["captions"][1] == {
        "text": "a dog",
        "logprob": -4.0,
        "mean_logprob": -2.0,
        "tokens": 2,
        "cut": True,
        "expected_cider": None,
        "support": None,
        "probability": None,
        "unsure": None,
        "model": None,
    }
    assert set(content["predictions"][1]) == {
        "video",
        "captions",
        "timestamps",
        "path",
        "start",
        "end",
        "evidence",
        "damage",
    }


def test_values_that_json_lacks(tmp_path: Path) -> None:
    caption = Caption("x", -math.inf, np.float32(-0.5), 1)  # type: ignore[arg-type]
    file = PredictionFile("m", None, {"model_dir": Path("runs"), "stop": (1, 2)}, [Prediction("v", [caption])])
    path = tmp_path / "predictions.json"
    file.save(path)
    assert "Infinity" not in path.read_text(encoding="utf-8")
    loaded = PredictionFile.load(path)
    assert loaded.decoding == {"model_dir": "runs", "stop": [1, 2]}
    assert math.isnan(loaded.predictions[0].captions[0].logprob)
    assert loaded.predictions[0].captions[0].mean_logprob == -0.5


def test_a_failed_save_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    example().save(path)
    with pytest.raises(TypeError):
        PredictionFile("m", None, {"bad": object()}, []).save(path)
    assert PredictionFile.load(path) == example()
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.json"]
    with pytest.raises(ClipcapError, match=r"cannot write .*nowhere"):
        example().save(path / "nowhere.json")


def test_captions_are_the_best_ones(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    example().save(path)
    assert load_captions(path) == ({"video7": "a dog — “running”", "video8": ""}, "test")


def test_plain_files_of_captions(tmp_path: Path) -> None:
    path = tmp_path / "plain.json"
    path.write_text('\ufeff{"a": "one", "b": ["two", "three"]}', encoding="utf-8")
    assert load_captions(path) == ({"a": "one", "b": "two"}, None)
    assert load_captions(path)[1] is None


def ours(*predictions: object) -> str:
    return json.dumps({"version": 1, "predictions": list(predictions)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read the predictions"),
        ("5", "holds no JSON object"),
        ("[]", "holds no captions"),
        ('[{"image_id": 7}]', "entry 0 lacks an image_id or a caption"),
        ('[{"image_id": true, "caption": "x"}]', "entry 0 lacks an image_id or a caption"),
        ('[{"image_id": 7, "caption": "x"}, {"image_id": "7", "caption": "y"}]', "several captions of image 7"),
        ("{}", "holds no captions"),
        ('{"a": []}', "the entry 'a' is neither a caption"),
        ('{"a": {"caption": "x"}}', "the entry 'a' is neither a caption"),
        ('{"version": 2, "predictions": []}', "has version 2 and this program reads version 1"),
        ('{"version": 1, "predictions": {}}', "the field predictions is not a list"),
        (ours({"captions": []}), r"predictions\[0\] lacks the field 'video'"),
        (ours({"video": "a"}), r"predictions\[0\] lacks the field 'captions'"),
        (ours({"video": "a", "captions": [{}]}), r"predictions\[0\] lacks the field 'text'"),
        (ours({"video": "a", "captions": "x"}), r"predictions\[0\] is malformed \(captions is of type str\)"),
        (ours(5), r"predictions\[0\] is malformed"),
        (ours(*[{"video": "a", "captions": []}] * 2), "several predictions for video 'a'"),
    ],
)
def test_malformed_files_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ClipcapError, match=message) as caught:
        load_captions(path)
    assert "bad.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match=r"no predictions at .*none\.json; write them with"):
        load_captions(tmp_path / "none.json")
    (tmp_path / "plain.json").write_text('{"a": "b"}', encoding="utf-8")
    with pytest.raises(ClipcapError, match="lacks the fields version and predictions"):
        PredictionFile.load(tmp_path / "plain.json")


def test_confidence_is_what_the_consensus_network_expects_where_it_chose() -> None:
    def file(*expected: float | None) -> PredictionFile:
        found = [
            Prediction(f"video{number}", [Caption("a dog", -3.0, -1.5, 2, expected_cider=cider)])
            for number, cider in enumerate(expected)
        ]
        return PredictionFile("out", None, {}, found)

    assert file(0.3, 0.1).confidence() == {"video0": 0.3, "video1": 0.1}
    assert file(None, None).confidence() == {"video0": -1.5, "video1": -1.5}
    # What was written with two models does not compare.
    assert file(0.3, None).confidence() == {"video0": -1.5, "video1": -1.5}


def test_what_a_consensus_network_expects_is_written_and_read(tmp_path: Path) -> None:
    found = [Prediction("video0", [Caption("a dog", -3.0, -1.5, 2, expected_cider=0.25, support=0.5)])]
    PredictionFile("out", None, {}, found).save(tmp_path / "p.json")
    assert PredictionFile.load(tmp_path / "p.json").predictions == found


def test_damage_is_kept_and_shown(tmp_path: Path) -> None:
    damage = Damage(frames=120, corrupt=2, missing=3, errors=5)
    caption = Caption("a dog", -1.0, -0.5, 2)
    path = str(tmp_path / "caf\udce9.mp4")  # bytes that are not UTF-8
    found = [Prediction("sound", [caption]), Prediction("hurt", [caption], path=path, damage=damage)]
    PredictionFile("m", None, {}, found).save(tmp_path / "predictions.json")
    again = PredictionFile.load(tmp_path / "predictions.json").predictions
    assert [one.damage for one in again] == [None, damage]
    assert again[1].path == path
    assert from_line(to_line(found[1]), "here").damage == damage
    page = report_predictions(again, tmp_path / "page.html", {}).read_text(encoding="utf-8")
    assert page.count("5 of 120 frames are damaged (4.2%: 2 corrupt, 3 missing, 5 decoder errors)") == 1
