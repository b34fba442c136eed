"""The recipes are for a GPU and real models; here they run, option for option, on tiny ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_cli import run
from tests.conftest import TinyProject

RECIPES = Path(__file__).parent.parent / "recipes"
SMALL = ["--epochs", "1", "--bs", "8", "--device", "cpu"]


@pytest.mark.parametrize("recipe", ["clip-gpt2/prefix", "clip-gpt2/lora", "clip-gpt2/finetune", "starter/train"])
def test_a_recipe_trains(recipe: str, tiny_project: TinyProject, tmp_path: Path) -> None:
    done = run(
        "train_vtt.py", "--data", tiny_project.data, "--caption", tiny_project.caption, "--out_dir", tmp_path / "out",
        "--lm", tiny_project.lm, "--config", RECIPES / f"{recipe}.yaml", *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = recipe.partition("/")[0]
    rate = ["--lm_lr", "1e-5"] if recipe in ("clip-gpt2/lora", "clip-gpt2/finetune") else []
    done = run(
        "train_vtt.py", "--data", tiny_project.data, "--caption", tiny_project.caption, "--out_dir", tmp_path / "scst",
        "--init_from", tmp_path / "out", "--config", RECIPES / folder / "scst.yaml", *SMALL, *rate,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scst" / "best" / "model.safetensors").is_file()


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*/extract.yaml")), ids=str)
def test_a_recipe_for_features_is_understood(recipe: Path, tmp_path: Path) -> None:
    """Every option of the file is known, and only then are the videos looked for."""
    done = run("extract_features.py", "--config", recipe, "--videos", tmp_path / "none", "--out", tmp_path / "features")
    assert done.returncode != 0
    assert "none" in done.stderr
    assert "option" not in done.stderr
