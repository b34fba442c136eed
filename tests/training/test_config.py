"""Options of training: what is set, what follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from clipcap_video.errors import ClipcapError
from clipcap_video.training.config import TrainConfig
from tests.commands import run


class TestUnset:
    """An option that is set to what happens to be a default somewhere is set nonetheless."""

    @pytest.mark.parametrize(
        ("given", "rate"),
        [
            ({"model": "lstm"}, 2e-3),
            ({"model": "lstm", "lr": 1e-4}, 1e-4),
            ({"recipe": "reference"}, 2e-5),
            ({"recipe": "reference", "lr": 1e-4}, 1e-4),
            ({}, 1e-4),
        ],
    )
    def test_the_rate_is_the_one_that_was_set(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], rate: float
    ) -> None:
        """In the library, as flags, and in an option file."""
        import clipcap_video.training.run as captioning

        seen: list[float] = []

        def stop(config: TrainConfig) -> None:
            seen.append(config.lr)
            raise ClipcapError("enough")

        monkeypatch.setattr(captioning, "train", stop)
        assert TrainConfig(**given).lr == rate
        run("train_vtt.py", *(word for name, value in given.items() for word in (f"--{name}", value)))
        file = tmp_path / "options.yaml"
        file.write_text(yaml.safe_dump(given))
        run("train_vtt.py", "--config", file)
        assert seen == [rate, rate]
