"""A language model that learns captions before any video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipcap_video.models.language_model import create_language_model, load_language_model
from clipcap_video.training.pretraining import pretrain
from tests.tiny import captions_of


class TestPretraining:
    TEXTS = tuple(captions_of(number)[turn] for number in range(24) for turn in range(3))

    def likelihood(self, folder: Path) -> float:
        """Mean log-probability a token of the captions, behind nothing."""
        model, tokenizer = load_language_model(str(folder))
        total = []
        for text in self.TEXTS[:12]:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            with torch.inference_mode():
                total.append(-model(ids, labels=ids).loss.item())
        return float(np.mean(total))

    def test_it_learns_what_captions_are_like_the_same_way_each_time(self, tmp_path: Path) -> None:
        weights = []
        for name in ("one", "two"):
            folder = tmp_path / name
            size: dict[str, int] = {"vocab_size": 400, "layers": 1, "width": 32, "heads": 2}
            create_language_model(self.TEXTS, tmp_path / f"{name}_before", **size)
            losses: list[float] = []

            def teach(model: Any, tokenizer: Any, losses: list[float] = losses) -> None:
                captions = self.TEXTS * 4
                losses.append(pretrain(model, tokenizer, captions, epochs=15, lr=1e-2, seed=1, device="cpu"))

            create_language_model(self.TEXTS, folder, teach=teach, **size)
            assert self.likelihood(folder) > self.likelihood(tmp_path / f"{name}_before") + 2
            assert losses[0] < 3
            weights.append((folder / "model.safetensors").read_bytes())
        assert weights[0] == weights[1]
