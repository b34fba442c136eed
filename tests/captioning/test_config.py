"""Where `infer` puts what it makes, by its options alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipcap_video.captioning.config import InferConfig, chosen_settings, scores_beside
from clipcap_video.errors import ClipcapError


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"videos": [Path("v")]}, "predictions.json"),
        ({"model_dir": Path("run")}, "run/predictions.json"),
        ({"videos": [Path("v")], "model_dir": Path("run")}, "predictions.json"),
        ({"out": Path("x/captions.csv")}, "x/captions.csv"),
        ({"out": Path("x/p.json"), "to": ["txt", "csv", "json"]}, "x/p.csv"),
    ],
)
def test_captions_go_beside_their_checkpoint_unless_told(options: dict[str, object], place: str) -> None:
    assert InferConfig(**options).place == Path(place)  # type: ignore[arg-type]


def test_scores_lie_beside_captions() -> None:
    assert scores_beside(Path("x/predictions.json")) == Path("x/scores.json")
    assert scores_beside(Path("x/greedy.csv")) == Path("x/greedy.scores.json")


def test_a_beam_is_as_wide_as_the_captions_asked_for() -> None:
    assert chosen_settings(InferConfig(use_beam_search=True, num_return=12)).beam_size == 12
    with pytest.raises(ClipcapError, match="num_return"):
        chosen_settings(InferConfig(use_beam_search=True, num_return=12, beam_size=4))


def test_a_page_of_all_shares_needs_a_table() -> None:
    with pytest.raises(ClipcapError, match="--report shows the videos of all shares"):
        InferConfig(videos=[Path("v")], shard="1/2", report=Path("p.html"), to=["txt"])
