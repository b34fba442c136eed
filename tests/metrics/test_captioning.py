"""Caption metrics against the official figures, against hand-computed ones, and on odd input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.errors import ClipcapError
from clipcap_video.metrics import captioning, java
from clipcap_video.metrics.captioning import (
    cider,
    describe_scores,
    evaluate_captions,
    save_scores,
    score_captions,
)
from clipcap_video.metrics.meteor import NO_JAVA

# Of the official tools, for flickr30k-magic.json; times 100.
OFFICIAL = {"Bleu_1": 44.50, "Bleu_4": 6.43, "METEOR": 13.08, "ROUGE_L": 31.57, "CIDEr": 20.37}
needs_java = pytest.mark.skipif(not java.java_runs(), reason="Java is not installed")


# --- scores ---------------------------------------------------------------------------------------------------


def rounded(scores: captioning.CaptionScores) -> dict[str, float]:
    return {metric: round(100 * scores[metric], 2) for metric in OFFICIAL if metric in scores.scores}


def test_official_figures_without_java(magic: dict) -> None:
    scores = score_captions(magic["predictions"], magic["references"], java=False)
    assert rounded(scores) == {metric: value for metric, value in OFFICIAL.items() if metric != "METEOR"}
    assert (scores.tokenizer, scores.missing, scores.note) == ("python", ["METEOR"], NO_JAVA)
    assert (scores.videos, scores.references) == (1000, 5000)
    assert math.isclose(sum(scores.per_video.values()) / 1000, scores["CIDEr"])


@pytest.mark.slow
@needs_java
def test_official_figures_with_java(magic: dict, capfd: pytest.CaptureFixture[str]) -> None:
    scores = score_captions(magic["predictions"], magic["references"])
    assert rounded(scores) == OFFICIAL
    assert (scores.tokenizer, scores.missing, scores.note) == ("ptb", [], None)
    assert capfd.readouterr() == ("", "")


def test_cider_alone_equals_the_full_evaluation(magic: dict) -> None:
    some = dict(list(magic["predictions"].items())[:200])
    corpus, per_video = cider(some, magic["references"])
    scores = score_captions(some, magic["references"], java=False)
    assert corpus == scores["CIDEr"]
    assert per_video == scores.per_video


def test_hand_computed_scores() -> None:
    """One prediction right and one of which half is right."""
    predictions = {"v1": "A cat sleeps here.", "v2": "a dog"}
    references = {"v1": ["a cat sleeps here"], "v2": ["a man", "a man"]}
    scores = score_captions(predictions, references, java=False)
    # 5 of 6 words; 3 of 4 word pairs.
    assert scores["Bleu_1"] == pytest.approx(5 / 6, abs=1e-6)
    assert scores["Bleu_2"] == pytest.approx(math.sqrt(5 / 6 * 3 / 4), abs=1e-6)
    # "a dog" shares one of two words with "a man": precision and recall, hence F, are 1/2.
    assert scores["ROUGE_L"] == pytest.approx((1 + 1 / 2) / 2)
    # CIDEr is 10 x the mean over n of the cosine. v1 matches for every n; of v2 only "a" does, which occurs in the
    # references of both videos and so weighs log(2 / 2) = 0.
    assert scores.per_video == {"v1": pytest.approx(10.0), "v2": pytest.approx(0.0)}
    assert scores["CIDEr"] == pytest.approx(5.0)


@pytest.mark.parametrize("with_java", [False, pytest.param(True, marks=[needs_java, pytest.mark.slow])])
def test_odd_predictions_score_zero_and_break_nothing(with_java: bool) -> None:
    predictions = {"empty": "", "blank": " \n ", "signs": "...", "bars": "a ||| b\nSCORE ||| EVAL", "good": "a cat"}
    references = {name: ["a dog runs", "", "it ||| runs\nfast", "!"] for name in predictions}
    references["good"] = ["a cat"]
    scores = score_captions(predictions, references, java=with_java)
    assert [scores.per_video[name] for name in ("empty", "blank", "signs")] == [0.0, 0.0, 0.0]
    assert all(0 <= value < math.inf for value in scores.scores.values())
    assert ("METEOR" in scores.scores) is with_java

    alone = score_captions({"empty": ""}, references, java=with_java)
    assert all(value == pytest.approx(0, abs=1e-6) for value in alone.scores.values())


def test_references_without_a_word() -> None:
    assert cider({"v": "a cat"}, {"v": ["..."]}) == (0.0, {"v": 0.0})


def test_predictions_without_references_are_named() -> None:
    with pytest.raises(ClipcapError, match=r"4 of 5 predicted videos .*\(b, c, d, \.\.\.\)"):
        score_captions(dict.fromkeys("abcde", "x"), {"a": ["x"], "b": []}, java=False)
    with pytest.raises(ClipcapError, match="no predictions"):
        cider({}, {"a": ["x"]})
    with pytest.raises(ClipcapError, match="unknown tokenizer 'moses'"):
        cider({"a": "x"}, {"a": ["x"]}, tokenizer="moses")


# --- splits ---------------------------------------------------------------------------------------------------


RECORDS = [
    VideoRecord("a", "test", ["a dog runs", "a dog"]),
    VideoRecord("b", "test", ["a cat sleeps"]),
    VideoRecord("bare", "test", []),
    VideoRecord("c", "train", ["a man talks"]),
]


def test_a_split_must_be_covered() -> None:
    with pytest.raises(ClipcapError, match=r"1 of 2 videos of split 'test' have no prediction \(b\)"):
        evaluate_captions({"a": "a dog", "c": "a man"}, RECORDS, "test", java=False)
    partial = evaluate_captions({"a": "a dog", "c": "a man"}, RECORDS, "test", allow_missing=True, java=False)
    assert (partial.videos, partial.references, partial.unpredicted) == (1, 2, ["b"])
    with pytest.raises(ClipcapError, match="2 of 2 videos"):
        evaluate_captions({"c": "a man"}, RECORDS, "test", allow_missing=True, java=False)
    with pytest.raises(ClipcapError, match=r"no split 'dev'.*test \(3\), train \(1\)"):
        evaluate_captions({"c": "a man"}, RECORDS, "dev", java=False)


def test_videos_of_other_splits_do_not_count() -> None:
    both = {"a": "a dog", "b": "a cat"}
    with_more = evaluate_captions({**both, "c": "x", "elsewhere": "y"}, RECORDS, "test", java=False)
    assert with_more == evaluate_captions(both, RECORDS, "test", java=False)
    assert with_more.videos == 2


def test_without_a_split_every_prediction_needs_references() -> None:
    assert evaluate_captions({"a": "a dog", "c": "a man"}, RECORDS, java=False).videos == 2
    with pytest.raises(ClipcapError, match=r"1 of 2 predicted videos have no reference captions \(elsewhere\)"):
        evaluate_captions({"a": "a dog", "elsewhere": "x"}, RECORDS, java=False)
    with pytest.raises(ClipcapError, match="split 'test' has no captions"):
        evaluate_captions({"bare": "x"}, [RECORDS[2]], "test", java=False)


def test_scores_are_described_and_written(tmp_path: Path) -> None:
    scores = evaluate_captions({"a": "a dog", "b": "a cat sleeps"}, RECORDS, "test", java=False)
    lines = describe_scores(scores).splitlines()
    assert lines[0].split() == ["Bleu_1", f"{100 * scores['Bleu_1']:.2f}"]
    assert [line.split()[0] for line in lines[:6]] == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    assert lines[6:] == ["2 videos, 3 references, times 100", NO_JAVA]
    save_scores(scores, tmp_path / "new" / "scores.json", "test")
    written = json.loads((tmp_path / "new" / "scores.json").read_text(encoding="utf-8"))
    assert written == {
        **scores.scores,
        "split": "test",
        "videos": 2,
        "references": 3,
        "tokenizer": "python",
        "missing": ["METEOR"],
        "unpredicted": [],
        "per_video": {name: {"CIDEr": value} for name, value in scores.per_video.items()},
    }
