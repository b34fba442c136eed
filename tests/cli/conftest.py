"""What the tests of this room share."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipcap_video.consensus.network import ConsensusConfig, ConsensusRanker
from clipcap_video.consensus.table import NgramTable
from clipcap_video.models.checkpoint import CONSENSUS
from tests.clips import write_clip
from tests.commands import run
from tests.tiny import captions_of, write_annotations
from tests.tiny_clip import EMBED_DIM, save_tiny_clip


@dataclass(frozen=True)
class Project:
    folder: Path
    videos: Path
    features: Path
    annotations: Path
    out: Path
    clip: Path


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path) -> Project:
    """Clips extracted and a captioner trained by the three commands; the tests look at what they left."""
    folder = tmp_path_factory.mktemp("user")
    made = Project(
        folder, folder / "videos", folder / "features", folder / "a.json", folder / "out", folder / "tiny-clip.pt"
    )
    made.videos.mkdir()
    for number in range(6):
        write_clip(made.videos / f"video{number}.mp4", frames=4 + 3 * number)
    (made.videos / "video6.mp4").write_text("this is no video")
    write_annotations(made.annotations, range(4), range(4, 5), range(5, 6))
    save_tiny_clip(made.clip)
    extract = ["extract_features.py", "--videos", made.videos, "--out", made.features, "--encoder", made.clip]
    done = run(*extract, "--frames", "6", "--device", "cpu")
    assert done.returncode == 1, done.stderr  # for the one bad video
    assert "6 videos done, 0 done before, 1 failed" in done.stdout
    done = run(
        "train_vtt.py", "--data", made.features, "--caption", made.annotations, "--out_dir", made.out, "--lm", tiny_lm,
        "--only_prefix", "--mapping_type", "transformer", "--num_layers", "2", "--epochs", "2", "--bs", "2",
        "--prefix_length", "4", "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def clips(project: Project, tmp_path: Path) -> Path:
    shutil.copytree(project.videos, tmp_path / "clips")
    (tmp_path / "clips" / "video6.mp4").unlink()
    return tmp_path / "clips"


def with_ranker(project: Project, folder: Path, unsure_below: float) -> Path:
    """A copy of the model that has a consensus network."""
    model = shutil.copytree(project.out / "best", folder / "ranked")
    videos = [[caption.split() for caption in captions_of(number)] for number in range(6)]
    config = ConsensusConfig(EMBED_DIM, 4, unsure_below=unsure_below)
    ConsensusRanker(config, NgramTable.of(videos, 50)).save(model / CONSENSUS)
    return model
