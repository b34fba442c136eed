"""The recipes are for a GPU and real models; here they run, option for option, on tiny ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands import run
from tests.conftest import TinyProject

RECIPES = Path(__file__).parent.parent / "recipes"
SMALL = ["--epochs", "1", "--bs", "8", "--device", "cpu"]


def with_pictures(project: TinyProject, folder: Path) -> list[str | Path]:
    """The options of a training on the project's videos and on two pictures, which another file captions."""
    shutil.copytree(project.data, folder / "features")
    some = sorted((folder / "features").glob("*.safetensors"))[:2]
    for number, file in enumerate(some):
        shutil.copy(file, file.with_name(f"picture{number}.safetensors"))
    (folder / "pictures.csv").write_text("video,caption,split\npicture0,A dog runs.,train\npicture1,A cat.,train\n")
    annotations = ["--annotations", project.caption, "--annotations", folder / "pictures.csv"]
    return ["--features", folder / "features", *annotations]


@pytest.mark.parametrize("recipe", ["clip-gpt2/prefix", "clip-gpt2/lora", "clip-gpt2/finetune", "starter/train"])
def test_a_recipe_trains(recipe: str, tiny_project: TinyProject, tmp_path: Path) -> None:
    folder = recipe.partition("/")[0]
    data = ["--data", tiny_project.data, "--caption", tiny_project.caption]
    if folder == "starter":
        data = with_pictures(tiny_project, tmp_path)
    done = run(
        "train_vtt.py", *data, "--out_dir", tmp_path / "out", "--lm", tiny_project.lm,
        "--config", RECIPES / f"{recipe}.yaml", *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if folder == "starter":
        done = run(
            "train_vtt.py", *data, "--out_dir", tmp_path / "more", "--init_from", tmp_path / "out",
            "--config", RECIPES / "starter" / "further.yaml", *SMALL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    rate = ["--lm_lr", "1e-5"] if recipe in ("clip-gpt2/lora", "clip-gpt2/finetune") else []
    done = run(
        "train_vtt.py", "--data", tiny_project.data, "--caption", tiny_project.caption, "--out_dir", tmp_path / "scst",
        "--init_from", tmp_path / "out", "--config", RECIPES / folder / "scst.yaml", *SMALL, *rate,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scst" / "best" / "model.safetensors").is_file()


def test_the_recipe_for_a_language_model_makes_one(tiny_project: TinyProject, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("a dog runs on a field\n" * 20)
    done = run(
        "clipcap-video", "new-lm", "--annotations", tiny_project.caption, "--text", tmp_path / "more.txt",
        "--out", tmp_path / "lm", "--config", RECIPES / "starter" / "lm.yaml", "--width", "24", "--layers", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a language model (loss" in done.stdout


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*/extract.yaml")), ids=str)
def test_a_recipe_for_features_is_understood(recipe: Path, tmp_path: Path) -> None:
    """Every option of the file is known, and only then are the videos looked for."""
    done = run("extract_features.py", "--config", recipe, "--videos", tmp_path / "none", "--out", tmp_path / "features")
    assert done.returncode != 0
    assert "none" in done.stderr
    assert "option" not in done.stderr
