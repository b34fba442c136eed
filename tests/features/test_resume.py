import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.features.resume import REQUEST_FILE, Request, missing_videos
from clipcap_video.features.store import write_features
from clipcap_video.video.sampling import SamplingSpec

SPEC = SamplingSpec("uniform", 28)
FINGERPRINT = Fingerprint("RN50", "sha256:1", "none", SPEC)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def request_of_rn50():
    return Request("RN50", None, SPEC, False)


def test_the_same_request_is_recalled_and_no_other(tmp_path, request_of_rn50):
    assert request_of_rn50.recall(tmp_path) is None
    request_of_rn50.remember(tmp_path, FINGERPRINT)
    assert request_of_rn50.recall(tmp_path) == FINGERPRINT
    for change in ({"encoder": "RN101"}, {"sampling": SamplingSpec("uniform", 8)}, {"normalized": True}):
        assert replace(request_of_rn50, **change).recall(tmp_path) is None
    (tmp_path / REQUEST_FILE).write_text("{")
    assert request_of_rn50.recall(tmp_path) is None


def test_weights_that_changed_on_disk_are_another_request(tmp_path):
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"one")
    request = Request(str(weights), None, SPEC, False)
    request.remember(tmp_path, FINGERPRINT)
    assert request.recall(tmp_path) == FINGERPRINT
    weights.write_bytes(b"three")
    assert request.recall(tmp_path) is None


def test_a_model_of_the_hub_is_asked_again(tmp_path):
    request = Request("hf:some/model", None, SPEC, False)
    request.remember(tmp_path, FINGERPRINT)
    assert request.recall(tmp_path) is None


def test_a_finished_folder_needs_neither_torch_nor_the_encoder(tmp_path, request_of_rn50):
    videos, out = tmp_path / "videos", tmp_path / "features"
    videos.mkdir()
    out.mkdir()
    for number in range(3):
        (videos / f"video{number}.mp4").touch()
        write_features(out, f"video{number}", np.zeros((2, 4)), np.arange(2.0), FINGERPRINT)
    request_of_rn50.remember(out, FINGERPRINT)
    # An import of torch would fail here, and so would the encoder, whose weights are not there.
    block = "import sys; sys.modules['torch'] = None; sys.argv[0] = 'extract'; "
    run = block + "from clipcap_video.cli import run_command; from clipcap_video.cli.extract import extract_features; "
    command = [sys.executable, "-c", run + "run_command(extract_features)", "--videos", videos, "--out", out]
    done = subprocess.run(
        [*map(str, command), "--encoder", "RN50"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert not missing_videos({"video1": videos}, out, FINGERPRINT, overwrite=False)
    (out / "video1.safetensors").write_bytes(b"cut")
    found = missing_videos({f"video{n}": videos for n in range(3)}, out, FINGERPRINT, overwrite=False)
    assert list(found) == ["video1"]
