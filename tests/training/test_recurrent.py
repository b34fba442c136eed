"""The recurrent captioner from its options to its captions: trained, resumed, kept and used, with each encoder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.decoding import DecodingSettings
from clipcap_video.encoders.base import NetworkEncoder
from clipcap_video.errors import ClipcapError
from clipcap_video.features.extract import extract
from clipcap_video.features.layouts import open_features
from clipcap_video.models.checkpoint import load_checkpoint, pack_checkpoint
from clipcap_video.models.language_model import load_tokenizer
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.run import train
from clipcap_video.video.sampling import SamplingSpec
from tests.clips import write_clip
from tests.commands import predictions, refused, run
from tests.conftest import TinyProject
from tests.encoders.trainable_encoders import TRAINABLE, trainable_encoder
from tests.interrupted import differing_weights
from tests.tiny import captions_of, write_annotations

CPU = torch.device("cpu")


def config(project: TinyProject, out: Path, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {
        "model": "lstm", "data": project.data, "caption": [project.caption], "out_dir": out, "epochs": 2, "bs": 5,
        "rnn_width": 32, "word_width": 16, "min_count": 1, "precision": "fp32", "device": "cpu",
    }  # fmt: skip
    return TrainConfig(**(options | changes))


# Long enough to learn what the tiny features show, with validation and one checkpoint at the end.
LEARNING: dict[str, Any] = {"epochs": 30, "bs": 12, "lr": 2e-2, "dropout": 0.0, "eval_every": 30, "save_every": 0}


def test_it_learns_to_say_what_the_features_show(tiny_project: TinyProject, tmp_path: Path) -> None:
    summary = train(config(tiny_project, tmp_path, **LEARNING))
    assert summary.best_score is not None
    assert summary.best_score > 3.0
    captioner = Captioner.from_pretrained(tmp_path)
    found = captioner.caption_store(open_features(tiny_project.data), ["video30", "video31"])
    for number, prediction in zip((30, 31), found, strict=True):
        assert prediction.text in captions_of(number)


@pytest.mark.parametrize(
    "options", [{}, {"cell": "gru", "rnn_layers": 2, "attention": "none", "embeddings": "separate"}]
)
def test_a_stopped_and_resumed_run_ends_in_the_same_weights(
    tiny_project: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    options |= {"captions_per_video": 2, "dropout": 0.2}

    def config_of(out: Path, **resume: Any) -> TrainConfig:
        return config(tiny_project, out, **options, **resume)

    assert differing_weights(config_of, tmp_path, monkeypatch, stop_after=7) == []


def test_it_goes_on_by_self_critical_training(tiny_project: TinyProject, tmp_path: Path) -> None:
    train(config(tiny_project, tmp_path / "xe", epochs=1, cell="gru"))
    again = {"objective": "scst", "init_from": tmp_path / "xe", "samples": 2, "max_caption_tokens": 8, "lr": 1e-3}
    plain = {"model": "lstm", "data": tiny_project.data, "caption": [tiny_project.caption], "bs": 12, "epochs": 1}
    summary = train(TrainConfig(out_dir=tmp_path / "scst", device="cpu", precision="fp32", **plain, **again))
    assert summary.finished
    before, after = (load_checkpoint(tmp_path / name / "last")[0] for name in ("xe", "scst"))
    assert before.config == after.config
    assert not torch.equal(before.writer.bias, after.writer.bias)


def test_the_checkpoint_alone_rebuilds_it(tiny_project: TinyProject, tmp_path: Path) -> None:
    train(config(tiny_project, tmp_path / "out", epochs=1, cell="gru", attention="none", train_encoder="none"))
    model, info = load_checkpoint(tmp_path / "out" / "last")
    assert (model.kind, model.config.cell, model.config.attention) == ("lstm", "gru", "none")
    assert model.config.head_dim is None
    assert info.fingerprint == open_features(tiny_project.data).fingerprint
    words = json.loads((tmp_path / "out" / "last" / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert words["</s>"] == 0
    assert {word for caption in captions_of(0) for word in caption.split()} <= words.keys()
    pack_checkpoint(tmp_path / "out" / "last", tmp_path / "packed")
    again, _ = load_checkpoint(tmp_path / "packed")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)
    with pytest.raises(ClipcapError, match="leave out --lm"):
        load_checkpoint(tmp_path / "packed", language_model="gpt2")


def test_subwords_in_the_place_of_words(tiny_project: TinyProject, tmp_path: Path) -> None:
    train(config(tiny_project, tmp_path, epochs=1, min_count=3, tokenizer=str(tiny_project.lm)))
    captioner = Captioner.from_pretrained(tmp_path)
    own = load_tokenizer(tiny_project.lm)
    caption = "a man is riding a zebra"
    tokens = captioner.model.encode_caption(caption, 40)
    assert tokens == [*own(caption)["input_ids"], own.eos_token_id]
    assert captioner.model.decode_tokens(tokens) == caption
    assert captioner.model.ignored_label is None  # it has a token for every letter, so no word is unknown
    (found,) = captioner.caption_store(open_features(tiny_project.data), ["video33"])
    assert captioner.model.vocabulary_size == len(own)
    assert found.captions[0].tokens > 0


def test_a_checkpoint_of_a_later_kind_is_one_sentence(tiny_project: TinyProject, tmp_path: Path) -> None:
    train(config(tiny_project, tmp_path, epochs=1, eval_every=0))
    file = tmp_path / "last" / "config.json"
    file.write_text(file.read_text().replace('"model": "lstm"', '"model": "telepathy"', 1))
    with pytest.raises(ClipcapError, match="'telepathy' model, which this version does not know"):
        load_checkpoint(tmp_path / "last")


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            (["--model", "lstm", "--prefix_length", "4"], "--prefix_length belongs to --model prefix"),
            (["--model", "lstm", "--lm", "x"], "--lm belongs to --model prefix"),
            (["--model", "lstm", "--cross"], "--cross belongs to --model prefix"),
            (["--attention", "none"], "--attention belongs to --model lstm"),
            (["--train_encoder", "all"], "--train_encoder belongs to --model lstm"),
            (["--model", "lstm", "--freeze_until", "stem"], "--freeze_until belongs to --train_encoder all"),
            (["--model", "lstm", "--train_encoder", "all"], "give the videos with --videos"),
            (["--model", "lstm", "--train_encoder", "none", "--head_width", "9"], "--head_width has no effect"),
            (["--model", "lstm", "--tokenizer", "x", "--min_count", "9"], "--min_count has no effect with"),
            (["--model", "lstm", "--min_count", "0"], "--min_count must be at least 1"),
            (["--model", "lstm", "--tokenizer", "/nowhere/tokenizer"], "cannot read the tokenizer"),
            (["--model", "lstm", "--min_count", "999"], "lower --min_count"),
            (["--model", "lstm", "--train_encoder", "all", "--videos", "no/folder"], "nothing at no/folder"),
        ],
    )
    def test_one_that_does_not_apply_is_one_sentence(
        self, tiny_project: TinyProject, tmp_path: Path, given: list[str], sentence: str
    ) -> None:
        paths = ["--data", tiny_project.data, "--caption", tiny_project.caption, "--out_dir", tmp_path / "out"]
        assert sentence in refused("train_vtt.py", *paths, *given)
        assert not (tmp_path / "out").exists()

    def test_defaults_are_those_of_the_model(self) -> None:
        assert (TrainConfig().lr, TrainConfig().dropout) == (1e-4, 0.1)
        lstm = TrainConfig(model="lstm")
        assert (lstm.lr, lstm.dropout) == (2e-3, 0.3)
        assert TrainConfig(model="lstm", lr=5e-4).lr == 5e-4
        assert TrainConfig(**lstm.to_json()).to_json() == lstm.to_json()

    def test_inference_refuses_what_it_has_not(self, tiny_project: TinyProject, tmp_path: Path) -> None:
        train(config(tiny_project, tmp_path / "out", epochs=1))
        command = ["inference_vtt.py", "--model_dir", tmp_path / "out", "--data", tiny_project.data, "--device", "cpu"]
        assert "has no such option, for it is of --model lstm" in refused(*command, "--num_layers", "8")
        done = run(*command, "--use_beam_search", "--beam_size", "3")
        assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Videos:
    """Clips, their annotations, their features, and what loads the encoder that made those."""

    folder: Path
    annotations: Path
    features: Path
    encoder: list[Any]
    load: Callable[[], NetworkEncoder]


@pytest.fixture(scope="module", params=TRAINABLE)
def videos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Videos:
    folder = tmp_path_factory.mktemp(request.param)
    load, file = trainable_encoder(request.param, folder)
    (folder / "videos").mkdir()
    for number in range(4):
        write_clip(folder / "videos" / f"video{number}.mp4", frames=1 + number % 2, first=100 * number)
    paths = {f"video{number}": folder / "videos" / f"video{number}.mp4" for number in range(4)}
    extract(paths, load(), SamplingSpec(frames=2), folder / "features", workers=1, progress=False)
    annotations = write_annotations(folder / "a.json", range(2), range(2, 3), range(3, 4))
    options = [] if file is None else ["--encoder_weights", file]
    return Videos(folder / "videos", annotations, folder / "features", options, load)


def options_of(made: Videos, /, out: Path, **changes: Any) -> TrainConfig:
    project = TinyProject(made.features, made.annotations, Path())
    extra: dict[str, Any] = {"bs": 2, "videos": [made.folder]}
    if made.encoder:
        extra["encoder_weights"] = made.encoder[1]
    return config(project, out, train_encoder="all", **(extra | changes))


@pytest.mark.parametrize("train_encoder", [pytest.param("none", marks=pytest.mark.slow), "head"])
def test_stored_features_train_and_caption(videos: Videos, tmp_path: Path, train_encoder: str) -> None:
    """The commands as a user types them; the LSTM reads the features as they are, or through the head."""
    out = tmp_path / "out"
    done = run(
        "train_vtt.py", "--model", "lstm", "--train_encoder", train_encoder, "--data", videos.features, "--caption",
        videos.annotations, "--out_dir", out, "--epochs", "1", "--bs", "2", "--rnn_width", "16", "--min_count", "1",
        "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stored = load_file(out / "best" / "model.safetensors")
    width = open_features(videos.features).shape("video0").dim
    if train_encoder == "head":
        assert stored["reader.head.weight"].shape == (512, width)
    assert stored["reader.rnn.weight_ih_l0"].shape[1] == (512 if train_encoder == "head" else width)
    done = run("inference_vtt.py", "--model_dir", out, "--use_beam_search", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert predictions(out / "predictions.json").keys() == {"video3"}
    done = run(
        "inference_vtt.py", "--model_dir", out, "--videos", videos.folder / "video0.mp4", "--out", tmp_path / "c.json",
        "--device", "cpu", *videos.encoder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert predictions(tmp_path / "c.json").keys() == {"video0"}


def test_the_encoder_is_trained_from_frames_kept_and_used(
    videos: Videos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs, one of them stopped and resumed, end in the same bits; then the checkpoint captions videos."""
    options: dict[str, Any] = {"encoder_lr": 1e-5, "dropout": 0.2, "save_every": 0, "eval_every": 0}

    def config_of(out: Path, **resume: Any) -> TrainConfig:
        return options_of(videos, out, **options, **resume)

    assert differing_weights(config_of, tmp_path, monkeypatch, stop_after=1) == []
    (tmp_path / "parts").rename(tmp_path / "out")
    made = [json.loads((tmp_path / name / "last" / "config.json").read_text())["features"] for name in ("whole", "out")]
    assert made[0] == made[1]

    last = tmp_path / "out" / "last"
    trained, before = load_file(last / "encoder.safetensors"), dict(videos.load().network.named_parameters())
    changed = {name for name, tensor in trained.items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all("trained_encoder" not in name for name in load_file(last / "model.safetensors"))

    captioner = Captioner.from_pretrained(last, device="cpu", precision="fp32")
    # The captions of a video file are those of the features that the trained layers make of its frames.
    network = videos.load()
    network.network.load_state_dict(trained, strict=False)
    clip = videos.folder / "video1.mp4"
    extract({"video1": clip}, network, SamplingSpec(frames=2), tmp_path / "tuned", workers=1, progress=False)
    tuned = open_features(tmp_path / "tuned").load("video1").features
    assert not np.allclose(tuned, open_features(videos.features).load("video1").features, atol=1e-3)
    settings = DecodingSettings(entry_length=8, length_penalty=0.6)
    (expected,) = captioner.caption_features([tuned], settings)
    found = captioner.caption(clip, settings)
    assert found.captions[0].logprob == pytest.approx(expected[0].logprob, abs=1e-5)
    with pytest.raises(ClipcapError, match="but the model was trained on"):
        captioner.caption_store(open_features(videos.features), ["video1"])

    # From the checkpoint alone: the videos of its own data, read by its own encoder. And packed for sharing.
    command = ["inference_vtt.py", "--model_dir", tmp_path / "out", "--device", "cpu"]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert predictions(tmp_path / "out" / "predictions.json").keys() == {"video3"}
    assert run("clipcap-video", "pack", "--model_dir", last, "--out", tmp_path / "packed").returncode == 0
    done = run(
        "inference_vtt.py", "--model_dir", tmp_path / "packed", "--videos", clip, "--out", tmp_path / "c.json",
        "--device", "cpu", *videos.encoder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert predictions(tmp_path / "c.json").keys() == {"video1"}


def test_videos_that_are_not_those_of_the_features(videos: Videos, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(videos.folder / "video1.mp4", other / "elsewhere.mp4")
    with pytest.raises(ClipcapError, match="give the folder of those videos with --videos"):
        train(options_of(videos, tmp_path / "out", videos=[other]))
    assert not (tmp_path / "out").exists()
