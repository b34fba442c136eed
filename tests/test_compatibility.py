"""What the version before wrote reads as before: features, checkpoints of every kind, records of runs, predictions."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.captioning.predictions import PredictionFile
from clipcap_video.decoding import DecodingSettings
from clipcap_video.features.base import stack_features
from clipcap_video.features.layouts import open_features
from clipcap_video.models.checkpoint import objective_weights
from clipcap_video.retrieval.model import load_retrieval
from tests.bag_of_words import BagOfWords, use_bag_of_words
from tests.cli.test_cli import no_java  # noqa: F401  (no_java applies here too)
from tests.commands import run
from tests.tiny import captions_of, features_of

ARCHIVE = Path(__file__).parent / "data" / "compatibility" / "version-0.1.tar.xz"
KINDS = ("only_prefix", "tuned", "adapters", "lstm", "reference", "joint")
TEST_IDS = [f"video{number}" for number in range(30, 36)]
DROPOUT = "001000110111101111001010"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which version 0.1 worked."""
    folder = tmp_path_factory.mktemp("version")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    place = folder / "before"
    for file in place.rglob("*"):
        if file.suffix in (".json", ".yaml", ".jsonl"):
            file.write_text(file.read_text(encoding="utf-8").replace("PLACE", str(place)), encoding="utf-8")
    return place


@pytest.mark.parametrize("store", ["features", "features.hdf5"])
def test_features(before: Path, store: str) -> None:
    opened = open_features(before / store)
    assert opened.ids() == [f"video{number}" for number in range(36)]
    assert opened.fingerprint is not None
    assert opened.fingerprint.encoder == "tiny"
    for number in (0, 17, 35):
        np.testing.assert_array_equal(
            opened.load(f"video{number}").features, features_of(number).astype(np.float16).astype(np.float32)
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["predictions.json", "greedy.json"])
def test_a_checkpoint_gives_the_captions_that_it_gave(before: Path, kind: str, file: str) -> None:
    if not (before / kind / file).exists():
        pytest.skip("it was not decoded so")
    saved = PredictionFile.load(before / kind / file)
    assert [prediction.video for prediction in saved.predictions] == TEST_IDS
    captioner = Captioner.from_pretrained(before / kind, lm=None, device="cpu", precision="fp32")
    settings = DecodingSettings(**saved.decoding)
    found = captioner.caption_store(open_features(before / "features"), TEST_IDS, settings)
    for then, now in zip(saved.predictions, found, strict=True):
        assert [caption.text for caption in now.captions] == [caption.text for caption in then.captions]
        for old, new in zip(then.captions, now.captions, strict=True):
            assert new.logprob == pytest.approx(old.logprob, abs=1e-3)
            assert new.support == (None if old.support is None else pytest.approx(old.support, abs=1e-4))


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_of_an_inference_repeats_it(before: Path, kind: str, tmp_path: Path) -> None:
    record = before / kind / "predictions.run.yaml"
    # What `auto` was then, for captions.
    done = run("inference_vtt.py", "--config", record, "--out", tmp_path / "again.json", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    assert _texts(tmp_path / "again.json") == _texts(before / kind / "predictions.json")


def _texts(file: Path) -> dict[str, list[str]]:
    predictions = json.loads(file.read_text(encoding="utf-8"))["predictions"]
    return {one["video"]: [caption["text"] for caption in one["captions"]] for one in predictions}


@pytest.mark.parametrize("kind", ["only_prefix", "lstm"])
def test_a_stopped_training_is_resumed_and_ends_in_the_same_weights(before: Path, kind: str) -> None:
    weights = before / f"stopped_{kind}" / "last" / "model.safetensors"
    stopped = load_file(weights)
    done = run("train_vtt.py", "--config", before / f"stopped_{kind}" / "run.yaml", "--resume")
    assert done.returncode == 0, done.stderr
    resumed = load_file(weights)
    expected = load_file(before / "resumed" / f"{kind}.safetensors")
    assert resumed.keys() == expected.keys()
    # Another torch may drop other units in training, and so end elsewhere: then the rest of the run went the same way.
    here, then = (torch.cat([(end[name] - stopped[name]).flatten() for name in stopped]) for end in (resumed, expected))
    assert torch.cosine_similarity(here, then, dim=0) > 0.9
    assert (here - then).norm() < 0.5 * then.norm()
    if drops_as_recorded():
        for name, tensor in expected.items():
            # To the bit on one machine; another's products round otherwise.
            torch.testing.assert_close(resumed[name], tensor, rtol=1e-3, atol=1e-4)


def drops_as_recorded() -> bool:
    """Whether torch draws the dropout of the torch that wrote the archive (2.14)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kept = torch.nn.functional.dropout(torch.ones(24), 0.5) > 0
    return "".join(str(int(one)) for one in kept) == DROPOUT


def test_what_a_contrastive_run_trained_beside_the_captioner(before: Path) -> None:
    """Version 0.1 kept it among the captioner's own weights."""
    stored = load_file(before / "joint" / "best" / "model.safetensors")
    assert stored["to_text.weight"].any()
    found = objective_weights(before / "joint" / "best")
    assert sorted(found) == ["logit_scale", "to_text.bias", "to_text.weight"]
    assert all(torch.equal(found[name], stored[name]) for name in found)
    assert objective_weights(before / "only_prefix" / "best") == {}


def test_a_retrieval_model_gives_the_similarities_that_it_gave(before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_bag_of_words(monkeypatch)
    model, info = load_retrieval(before / "retrieval")
    assert info.fingerprint is not None
    store = open_features(before / "features")
    frames, mask = stack_features([store.load(video).features for video in TEST_IDS])
    text = BagOfWords().encode_text([captions_of(number)[0] for number in range(30, 36)])
    with torch.no_grad():
        found = model.similarity(model.embed_text_inputs(text), model.embed_frames(frames, mask), mask)
    np.testing.assert_allclose(found.numpy(), np.load(before / "retrieval" / "similarity.npy"), atol=1e-4)


def test_the_captions_of_the_starter() -> None:
    """Those that it gave when it was put in the box; the archive has those of the one before."""
    pytest.importorskip("efficientnet_lite_pytorch")
    from clipcap_video.video.samples import sample_clips

    saved: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "data/starter_captions.json").read_text())
    captioner = Captioner.from_pretrained(device="cpu", precision="fp32")
    for caution, texts in saved.items():
        settings = replace(captioner.default_settings(), caution=float(caution))
        assert {clip.stem: captioner.caption(clip, settings).text for clip in sample_clips()} == texts


def test_public_names() -> None:
    from clipcap_video import Captioner as Public
    from clipcap_video import ClipcapError, Prediction
    from clipcap_video import DecodingSettings as Settings

    assert (Public, Settings) == (Captioner, DecodingSettings)
    assert issubclass(ClipcapError, Exception)
    assert Prediction.__name__ == "Prediction"
