"""Captions of other languages are learnt and scored like English ones, and the metrics say what they assume."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.metrics.captioning import describe_scores, score_captions
from clipcap_video.models.language_model import create_language_model, load_tokenizer
from tests.tiny import captions_of

GERMAN = ["Zwei junge weiße Männer sind im Freien.", "Ein Hund läuft über das Gras.", "Eine Frau schläft."]
CHINESE = ["一个男人在开车", "一只狗在草地上跑", "一个女人在睡觉"]


@pytest.mark.parametrize("captions", [GERMAN, CHINESE])
def test_scores_of_other_languages_say_that_the_metrics_assume_english(captions: list[str]) -> None:
    references = {str(number): [caption] for number, caption in enumerate(captions)}
    scores = score_captions({video: texts[0] for video, texts in references.items()}, references, java=False)
    assert scores["Bleu_1"] == pytest.approx(1)
    assert "letters are not among a to z: these figures split words as English does" in describe_scores(scores)


def test_scores_of_english_do_not() -> None:
    references = {str(number): captions_of(number) for number in range(8)}
    references["7"].append("a man in a café")
    scores = score_captions({video: texts[0] for video, texts in references.items()}, references, java=False)
    assert scores.language is None
    assert "English" not in describe_scores(scores)


@pytest.mark.parametrize("captions", [GERMAN, CHINESE])
def test_a_tokenizer_of_other_languages_loses_no_letter(captions: list[str], tmp_path: Path) -> None:
    create_language_model(captions, tmp_path / "lm", vocab_size=400, layers=1, width=32, heads=2)
    tokenizer = load_tokenizer(tmp_path / "lm")
    assert [tokenizer.decode(tokenizer(caption)["input_ids"]).strip() for caption in captions] == captions
