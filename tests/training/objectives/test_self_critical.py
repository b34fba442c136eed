from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import clipcap_video.training.loop as loop
from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.datasets.records import select
from clipcap_video.errors import ClipcapError
from clipcap_video.features.layouts import open_features
from clipcap_video.metrics.captioning import cider
from clipcap_video.models.checkpoint import load_checkpoint
from clipcap_video.models.prefix import PrefixCaptioner
from clipcap_video.training.config import TrainConfig
from clipcap_video.training.data import CaptionData
from clipcap_video.training.objectives.self_critical import SelfCritical
from clipcap_video.training.run import train
from tests.conftest import TinyProject


def config(project: TinyProject, out: Path, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {
        "data": project.data, "caption": [project.caption], "out_dir": out, "epochs": 2, "bs": 6, "lr": 1e-3,
        "lm_lr": 1e-3, "precision": "fp32", "device": "cpu", "save_every": 0,
    }  # fmt: skip
    return TrainConfig(**(options | changes))


@pytest.fixture(scope="module")
def pretrained(tiny_project: TinyProject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner that has begun to learn."""
    out = tmp_path_factory.mktemp("xe") / "out"
    train(config(tiny_project, out, lm=str(tiny_project.lm), epochs=8, num_layers=1, prefix_length=3, lr=3e-3))
    return out


def self_critical(project: TinyProject, model: PrefixCaptioner, **changes: Any) -> SelfCritical:
    records = select(read_annotations([project.caption]), "train")
    store = open_features(project.data)
    data = CaptionData.tokenise(records, store, lambda captions: model.encode_captions(captions, 40), 5)
    options = {"samples": 4, "baseline": "mean", "top_p": 1.0, "max_tokens": 12, "seed": 3} | changes
    return SelfCritical(model, data, records, **options)


@pytest.mark.parametrize("baseline", ["mean", "greedy"])
def test_the_loss_is_that_of_the_policy_gradient(tiny_project: TinyProject, pretrained: Path, baseline: str) -> None:
    """- sum of (r - b) log p over the sampled captions, each read alone and rewarded by the official scorer."""
    model, _ = load_checkpoint(pretrained / "last")
    scst = self_critical(tiny_project, model, baseline=baseline)
    drawn = {}
    decode = scst._decode

    def watching(features: Any, mask: Any, videos: Any, step: int | None) -> Any:
        drawn[step] = decode(features, mask, videos, step)
        return drawn[step]

    scst._decode = watching  # type: ignore[method-assign]
    indices = [2, 9, 4]
    batch = scst.sample(5, indices)

    references = {
        record.video_id: [f"{caption} endofcaption" for caption in record.captions]
        for record in select(read_annotations([tiny_project.caption]), "train")
    }

    def reward(video: str, hypothesis: Any) -> float:
        text = model.decode_tokens(hypothesis.tokens)
        text += " endofcaption" if hypothesis.ended else ""
        # The document frequencies are those of all training videos, whatever the others' captions are.
        everyone = dict.fromkeys(references, "nothing") | {video: text}
        return cider(everyone, references)[1][video]

    expected = count = 0.0
    for row, index in enumerate(indices):
        video = scst.data.video_ids[index]
        rewards = [reward(video, hypothesis) for hypothesis in drawn[5][row]]
        for number, hypothesis in enumerate(drawn[5][row]):
            others = rewards[:number] + rewards[number + 1 :]
            level = sum(others) / len(others) if baseline == "mean" else reward(video, drawn[None][row][0])
            expected -= (rewards[number] - level) * hypothesis.logprob
            count += hypothesis.length
    assert len(batch.labels) == count
    assert model(batch).item() == pytest.approx(expected / count, abs=1e-5)


def test_training_raises_the_reward(tiny_project: TinyProject, pretrained: Path, tmp_path: Path) -> None:
    train(config(tiny_project, tmp_path / "out", objective="scst", init_from=pretrained, epochs=30, eval_every=30))
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in lines if "reward" in line]
    half = len(rewards) // 2
    assert sum(rewards[half:]) > 1.1 * sum(rewards[:half])


def test_stopped_and_resumed_it_ends_in_the_same_weights(
    tiny_project: TinyProject, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"objective": "scst", "init_from": pretrained, "average": 0.9}
    train(config(tiny_project, tmp_path / "whole", **options))
    step = loop.Run._step

    def interrupting(run: Any, batches: Any) -> float:
        loss = step(run, batches)
        if run.progress.step + 1 == 5:
            signal.raise_signal(signal.SIGINT)
        return loss

    monkeypatch.setattr(loop.Run, "_step", interrupting)
    assert not train(config(tiny_project, tmp_path / "parts", **options)).finished
    monkeypatch.setattr(loop.Run, "_step", step)
    train(config(tiny_project, tmp_path / "parts", resume=True, **options))
    whole, parts = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "parts"))
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_it_starts_from_the_other_runs_weights_and_takes_its_model(
    tiny_project: TinyProject, pretrained: Path, tmp_path: Path
) -> None:
    options = config(tiny_project, tmp_path / "out", init_from=pretrained, lr=1e-12, lm_lr=1e-12, weight_decay=0.0)
    assert (options.num_layers, options.prefix_length) == (1, 3)
    train(options)
    before = load_file(pretrained / "best" / "model.safetensors")
    after = load_file(tmp_path / "out" / "last" / "model.safetensors")
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "scst"}, "give it with --init_from"),
        ({"objective": "scst", "samples": 1}, "--samples must be at least 2"),
        ({"objective": "scst", "label_smoothing": 0.1}, "--label_smoothing has no effect with --objective scst"),
        ({"num_layers": 3}, "--num_layers 3 differs from the 1 of"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tiny_project: TinyProject, pretrained: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    start = {} if options == {"objective": "scst"} else {"init_from": pretrained}
    with pytest.raises(ClipcapError, match=message):
        config(tiny_project, tmp_path / "out", **start, **options)


def test_a_model_without_an_end_token_is_refused(tiny_project: TinyProject, tmp_path: Path) -> None:
    reference = {"recipe": "reference", "lm": str(tiny_project.lm), "epochs": 1, "num_layers": 1, "prefix_length": 3}
    train(config(tiny_project, tmp_path / "reference", **reference))
    with pytest.raises(ClipcapError, match="without an end token"):
        config(tiny_project, tmp_path / "out", objective="scst", init_from=tmp_path / "reference")
