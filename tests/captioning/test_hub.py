"""Captioners saved, pushed to a Hub that the test stands in for, and found again; no test asks the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.hub import names_repository
from clipcap_video.errors import ClipcapError
from clipcap_video.models.sizes import weight_shapes
from tests.captioning.conftest import build
from tests.tiny import features_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def captioner(tiny_lm: Path) -> Captioner:
    made = build(tiny_lm)
    made.info.training = {"data": "/home/me/features", "out_dir": "/home/me/out", "lm": "/home/me/lm", "epochs": 3}
    made.info.progress = {"epoch": 2, "val_CIDEr": 0.3125, "val_loss": 3.5}
    return made


def captions(captioner: Captioner) -> list[tuple[list[int], float]]:
    found = captioner.caption_features([features_of(number) for number in range(3)])
    return [(own[0].tokens, own[0].logprob) for own in found]


def test_saved_and_loaded_captions_the_same(captioner: Captioner, tmp_path: Path) -> None:
    assert captioner.save_pretrained(tmp_path / "saved") is None
    again = Captioner.from_pretrained(tmp_path / "saved", device="cpu")
    assert captions(again) == captions(captioner)
    assert again.info.fingerprint == captioner.info.fingerprint
    # The paths of the machine that trained it stay there, and the captioner in memory stays as it was.
    texts = [file.read_text("utf-8") for file in (tmp_path / "saved").rglob("*.json")]
    assert not [text for text in texts if "/home/me" in text]
    assert captioner.info.training["data"] == "/home/me/features"
    assert captioner.model.config.language_model == "tiny"


def test_one_that_decodes_in_bf16_is_saved_whole(captioner: Captioner, tmp_path: Path) -> None:
    captioner.save_pretrained(tmp_path / "exact")
    before = Captioner.from_pretrained(tmp_path / "exact", device="cpu", precision="bf16")
    before.save_pretrained(tmp_path / "saved")
    again = Captioner.from_pretrained(tmp_path / "saved", device="cpu", precision="bf16")
    assert captions(again) == captions(before)
    shapes, saved = (weight_shapes(tmp_path / name / "model.safetensors") for name in ("exact", "saved"))
    assert shapes == saved


def test_the_card_says_how_to_use_it_and_what_it_is(captioner: Captioner, tmp_path: Path) -> None:
    captioner.save_pretrained(tmp_path / "saved")
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.library_name == "clipcap-video"
    assert {"video-captioning", "model_hub_mixin"} <= set(card.data.tags)
    assert "| validation CIDEr | 31.25 |\n| validation loss | 3.50 |" in card.text
    assert "| mapping network | transformer, 4 prefix tokens |" in card.text
    assert "Captioner.from_pretrained(" in card.text


def test_saving_again_replaces_the_checkpoint_and_keeps_the_card(captioner: Captioner, tmp_path: Path) -> None:
    captioner.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "README.md").write_text("my own words")
    with torch.no_grad():
        captioner.model.mapping.prefix_const.mul_(-1)
    captioner.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "README.md").read_text() == "my own words"
    assert captions(Captioner.from_pretrained(tmp_path / "saved", device="cpu")) == captions(captioner)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_folder_that_is_no_checkpoint_is_left_alone(captioner: Captioner, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(ClipcapError, match="is no checkpoint"):
        captioner.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


class Hub:
    """As much of HfApi as the mixin calls; what is uploaded stays in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, dict[str, object]]] = []

    def __call__(self, token: str | None = None) -> Hub:
        self.calls.append(("token", {"token": token}))
        return self

    def create_repo(self, **options: object) -> SimpleNamespace:
        self.calls.append(("create_repo", options))
        return SimpleNamespace(repo_id=options["repo_id"])

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: object) -> str:
        self.calls.append(("upload_folder", options))
        shutil.copytree(folder_path, self.folder / repo_id)
        return f"https://hub/{repo_id}/commit/1"

    def download(self, repository: str, **options: object) -> str:
        self.calls.append(("download", options))
        if not (self.folder / repository).is_dir():
            raise LocalEntryNotFoundError("no connection")
        return str(self.folder / repository)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", made)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.download)
    monkeypatch.chdir(tmp_path)
    return made


def test_pushed_and_fetched_captions_the_same(captioner: Captioner, hub: Hub) -> None:
    address = captioner.push_to_hub("someone/captions", private=True, token="hf_x", commit_message="first")
    assert address == "https://hub/someone/captions/commit/1"
    assert ("token", {"token": "hf_x"}) in hub.calls
    assert ("create_repo", {"repo_id": "someone/captions", "private": True, "exist_ok": True}) in hub.calls
    assert dict(hub.calls)["upload_folder"]["commit_message"] == "first"
    card = (hub.folder / "someone" / "captions" / "README.md").read_text("utf-8")
    assert 'Captioner.from_pretrained("someone/captions")' in card
    again = Captioner.from_pretrained("someone/captions", device="cpu", revision="v1", token="hf_y")
    assert captions(again) == captions(captioner)
    fetched = dict(hub.calls)["download"]
    assert (fetched["revision"], fetched["token"], fetched["local_files_only"]) == ("v1", "hf_y", False)


def test_save_can_push_too(captioner: Captioner, hub: Hub, tmp_path: Path) -> None:
    captioner.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="someone/other")
    assert (hub.folder / "someone" / "other" / "config.json").is_file()
    assert (tmp_path / "mine" / "config.json").is_file()


def test_offline_is_one_clear_sentence(hub: Hub) -> None:
    with pytest.raises(
        ClipcapError, match=r"no captioner at someone/nothing: .*cannot be reached and it is not in the"
    ):
        Captioner.from_pretrained("someone/nothing")


@pytest.mark.slow
def test_offline_for_real_ends_at_once(tmp_path: Path) -> None:
    code = "from clipcap_video.captioning.hub import fetch; fetch('someone/nothing')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert "ClipcapError: no captioner at someone/nothing" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("someone/captions-v1.2", True),
        ("out", False),
        ("out/", False),
        ("./out", False),
        ("../out", False),
        ("a/b/c", False),
        ("/models/x", False),
        (Path("someone/captions"), False),
        ("runs/best", False),  # below a folder that is here
    ],
)
def test_what_can_be_a_repository(
    place: str | Path, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert names_repository(place) == expected


@pytest.mark.slow
def test_the_types_of_a_caption_are_known_to_a_users_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    assert (ROOT / "clipcap_video" / "py.typed").is_file()
    assert "py.typed" in (ROOT / "pyproject.toml").read_text()
    (tmp_path / "use.py").write_text(
        "from clipcap_video import Captioner\n"
        'captioner = Captioner.from_pretrained("out/")\n'
        'reveal_type(captioner.caption("a.mp4"))\n'
        'reveal_type(captioner.caption(["a.mp4", "b.mp4"]))\n'
        'reveal_type(captioner.caption("a.mp4").captions[0].mean_logprob)\n'
    )
    # Without following imports into torch and the like, which take mypy a minute.
    skipped = "[mypy]\nfollow_imports = silent\n" + "".join(
        f"[mypy-{name}.*]\nfollow_imports = skip\nignore_missing_imports = True\n"
        for name in ("torch", "transformers", "numpy", "cv2", "huggingface_hub", "typer", "accelerate")
    )
    (tmp_path / "mypy.ini").write_text(skipped)
    flags = ["--config-file", "mypy.ini", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *flags, "use.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    types = [line.split('"')[1] for line in done.stdout.splitlines() if "Revealed type" in line]
    assert types == [
        "clipcap_video.captioning.predictions.Prediction",
        "list[clipcap_video.captioning.predictions.Prediction]",
        "float",
    ], done.stdout
    assert done.returncode == 0, done.stdout
