"""Checkpoints of the ClipCap programs, against what those programs recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.datasets.annotations import read_annotations
from clipcap_video.decoding import DecodingSettings
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import stack_features
from clipcap_video.features.layouts import open_features
from clipcap_video.models.checkpoint import CheckpointInfo, find_checkpoint, load_checkpoint, save_checkpoint
from clipcap_video.models.legacy import LegacyChoices, find_legacy, load_legacy
from clipcap_video.models.legacy_back import legacy_state
from clipcap_video.training.data import CaptionData
from tests.golden import Recorded, choices, recorded

MODELS = [
    "msrvtt-clipcap/mlp",
    "msrvtt-clipcap/transformer",
    "msrvtt-clipcap/cross",
    "image-clipcap/mlp",
    "image-clipcap/mlp-rn50x4",
    "image-clipcap/transformer",
]
State = dict[str, torch.Tensor]


def captioner(case: Recorded) -> Captioner:
    return Captioner.from_pretrained(case.checkpoint, lm=str(case.lm), device="cpu", legacy=choices(case))


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest, golden: Path) -> Recorded:
    return recorded(golden, request.param)


class TestRecordedOutputs:
    def test_prefix_embeddings(self, case: Recorded) -> None:
        model, _ = load_legacy(case.checkpoint, str(case.lm), choices(case))
        with torch.no_grad():
            prefix = model.mapping(*stack_features(case.features)).numpy()
        # Over eight layers in float32, processors differ by about 1e-5 where entries are of the order of 1.
        assert np.abs(prefix - case.prefix).max() < 2e-5

    @pytest.mark.parametrize("together", [True, False], ids=["batched", "one at a time"])
    def test_five_beams_in_order_and_greedy_text(self, case: Recorded, together: bool) -> None:
        program = captioner(case)
        assert program.precision == "fp32"  # unless asked for, the texts are the recorded ones to the letter
        beam = DecodingSettings(entry_length=case.entry_length, num_return=5)
        greedy = DecodingSettings(entry_length=case.entry_length, use_beam_search=False)
        batches = [case.features] if together else [[video] for video in case.features]
        texts: dict[str, list[list[str]]] = {"beam": [], "greedy": []}
        for batch in batches:
            for mode, settings in (("beam", beam), ("greedy", greedy)):
                for hypotheses in program.caption_features(batch, settings):
                    found = [program.model.decode_tokens(h.tokens, h.stop_token) for h in hypotheses]
                    texts[mode].append(found)
        assert texts["beam"] == case.beam
        assert texts["greedy"] == [[text] for text in case.greedy]

    def test_a_converted_checkpoint_gives_them_too(self, case: Recorded, tmp_path: Path) -> None:
        model, _ = load_legacy(case.checkpoint, str(case.lm), choices(case))
        save_checkpoint(tmp_path / "converted", model, CheckpointInfo())
        again = Captioner.from_pretrained(tmp_path / "converted", device="cpu")
        found = again.caption_features(case.features, DecodingSettings(entry_length=case.entry_length))
        best = [again.model.decode_tokens(own[0].tokens, own[0].stop_token) for own in found]
        assert best == [own[0] for own in case.beam]

    def test_there_and_back_is_the_same_file(self, case: Recorded) -> None:
        """Also the names that a language model has twice, and the masks that transformers 4.10 keeps: a strict
        `load_state_dict` takes it. One file was recorded under a transformers that has no masks."""
        model, _ = load_legacy(case.checkpoint, str(case.lm), choices(case))
        theirs, state = torch.load(case.checkpoint, weights_only=True), legacy_state(model, case.checkpoint)
        masks = {key for key in state if key.endswith((".attn.bias", ".attn.masked_bias"))}
        assert len(masks) == 4
        assert state.keys() == theirs.keys() | masks
        assert masks <= theirs.keys() or "image" in str(case.checkpoint)
        for key, tensor in theirs.items():
            assert torch.equal(state[key], tensor if key in masks else tensor.float())
            assert state[key].dtype == (tensor.dtype if key in masks else torch.float32)

    def test_training_loss_of_the_reference_recipe(self, golden: Path) -> None:
        folder = golden / "msrvtt-clipcap"
        records = read_annotations([folder / "annotations.json"])
        store = open_features(folder / "features.hdf5")
        for name, expected in json.loads((folder / "losses_and_scores.json").read_text()).items():
            case = recorded(golden, f"msrvtt-clipcap/{name}")
            model, _ = load_legacy(case.checkpoint, str(case.lm), choices(case))
            data = CaptionData.tokenise(
                records, store, lambda texts, model=model: model.encode_captions(texts, 40), 28, model.ignored_label
            )
            batch = data.batch(range(10), lambda index, data=data: data.captions[index][:1])
            assert len(data) == 10
            with torch.no_grad():
                assert float(model(batch)) == pytest.approx(expected, abs=1e-4)


def attention(state: State, layer: str, x: torch.Tensor, y: torch.Tensor, heads: int) -> torch.Tensor:
    """One head after the other, without a batch: x [N, E] attends to y [M, E]."""
    width = x.shape[1]
    queries = x @ state[f"{layer}.to_queries.weight"].T
    keys, values = (y @ state[f"{layer}.to_keys_values.weight"].T).split(width, dim=1)
    parts = []
    for part in torch.arange(width).view(heads, -1):
        scores = queries[:, part] @ keys[:, part].T / math.sqrt(len(part))
        parts.append(scores.softmax(1) @ values[:, part])
    return torch.cat(parts, 1) @ state[f"{layer}.project.weight"].T + state[f"{layer}.project.bias"]


def norm(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[1:], state[f"{name}.weight"], state[f"{name}.bias"])


def test_normalised_vectors_through_a_transformer_of_40_tokens(tmp_path: Path, golden: Path) -> None:
    """As image ClipCap's RN50x4 models: 640 wide, features divided by their norm; against the plain computation."""
    case = recorded(golden, "image-clipcap/transformer")
    generator = torch.Generator().manual_seed(0)
    state = torch.load(case.checkpoint, weights_only=True)
    state = {key: value for key, value in state.items() if not key.startswith("clip_project.transformer.layers.1")}
    for number in range(2, 8):
        state = {key: value for key, value in state.items() if f".layers.{number}." not in key}
    state["clip_project.prefix_const"] = torch.randn(6, 32, generator=generator)
    state["clip_project.linear.weight"] = torch.randn(40 * 32, 640, generator=generator)
    state["clip_project.linear.bias"] = torch.randn(40 * 32, generator=generator)
    torch.save(state, tmp_path / "coco_prefix-009.pt")
    model, report = load_legacy(tmp_path / "coco_prefix-009.pt", str(case.lm), LegacyChoices(normalize_prefix=True))
    assert "layers: 1" in report.inferred
    vector = torch.randn(640, generator=generator)

    linear, layer = "clip_project.linear", "clip_project.transformer.layers.0"
    tokens = ((vector / vector.norm()) @ state[f"{linear}.weight"].T + state[f"{linear}.bias"]).view(40, 32)
    x = torch.cat([tokens, state["clip_project.prefix_const"]])
    normed = norm(state, f"{layer}.norm1", x)
    x = x + attention(state, f"{layer}.attn", normed, normed, 8)
    hidden = norm(state, f"{layer}.norm2", x) @ state[f"{layer}.mlp.fc1.weight"].T + state[f"{layer}.mlp.fc1.bias"]
    x = x + hidden.relu() @ state[f"{layer}.mlp.fc2.weight"].T + state[f"{layer}.mlp.fc2.bias"]
    with torch.no_grad():
        prefix = model.mapping(*stack_features([vector[None].numpy()]))[0]
    torch.testing.assert_close(prefix, x[40:], atol=1e-5, rtol=0)


class TestWhatIsSaid:
    def test_every_key_is_mapped_or_dropped(self, case: Recorded) -> None:
        _, report = load_legacy(case.checkpoint, str(case.lm), choices(case))
        assert report.mapped.keys() | report.dropped.keys() == torch.load(case.checkpoint, weights_only=True).keys()
        assert not report.mapped.keys() & report.dropped.keys()
        masks = {key for key in report.dropped if key.endswith(("attn.bias", "attn.masked_bias"))}
        assert report.dropped.keys() - masks == {"gpt.lm_head.weight"}
        assert bool(masks) == case.checkpoint.name.startswith("msrvtt")
        text = "\n".join(report.lines())
        for word in ("mapping: ", f"prefix length: {case.prefix.shape[1]}", "feature size: ", "language model: "):
            assert word in text

    def test_a_language_model_that_was_trained_goes_into_the_checkpoint(self, golden: Path, tmp_path: Path) -> None:
        case = recorded(golden, "image-clipcap/mlp")
        state = torch.load(case.checkpoint, weights_only=True)
        state["gpt.transformer.wte.weight"] = state["gpt.lm_head.weight"] = state["gpt.lm_head.weight"] * 1.5
        torch.save(state, tmp_path / "coco_prefix-000.pt")
        model, _ = load_legacy(tmp_path / "coco_prefix-000.pt", str(case.lm))
        assert not model.config.only_prefix
        save_checkpoint(tmp_path / "converted", model, CheckpointInfo())
        again, _ = load_checkpoint(tmp_path / "converted")
        torch.testing.assert_close(again.language_model.lm_head.weight, state["gpt.lm_head.weight"], atol=0, rtol=0)
        assert again.language_model.lm_head.weight is again.language_model.transformer.wte.weight

    def test_the_mapping_network_alone_takes_the_language_model_from_lm(self, golden: Path, tmp_path: Path) -> None:
        case = recorded(golden, "msrvtt-clipcap/transformer")
        state = torch.load(case.checkpoint, weights_only=True)
        torch.save({k: v for k, v in state.items() if k.startswith("clip_project.")}, tmp_path / "p-000.pt")
        model, _ = load_legacy(tmp_path / "p-000.pt", str(case.lm))
        assert model.config.only_prefix
        found = Captioner(model, CheckpointInfo(), tmp_path, torch.device("cpu"), "fp32").caption_features(
            case.features, DecodingSettings(entry_length=10)
        )
        assert [model.decode_tokens(own[0].tokens, own[0].stop_token) for own in found] == [b[0] for b in case.beam]


def renamed(state: State, old: str, new: str) -> None:
    state[new] = state.pop(old)


LAYER = "clip_project.transformer.layers.3"
MISFITS: dict[str, tuple[Callable[[State], object], str]] = {
    "unknown key": (lambda state: state.update(surplus=torch.zeros(1)), "'surplus'"),
    "unknown part": (lambda state: renamed(state, f"{LAYER}.norm1.bias", f"{LAYER}.norm3.bias"), r"3\.norm3\.bias"),
    "wrong shape": (
        lambda state: state.update({f"{LAYER}.mlp.fc1.weight": torch.zeros(128, 32)}),
        r"layers\.3\.mlp\.fc1\.weight has shape \[128, 32\], where \[64, 32\]",
    ),
    "a layer less": (
        lambda state: [state.pop(key) for key in list(state) if key.startswith(LAYER)],
        r"lacks the weights of mapping\.layers\.3\.",
    ),
    "no constants": (lambda state: state.pop("clip_project.prefix_const"), r"clip_project\.prefix_const"),
    "no linear": (lambda state: state.pop("clip_project.linear.weight"), r"clip_project\.linear\.weight"),
    "another language model": (
        lambda state: state.update({"clip_project.linear.weight": torch.zeros(33, 512)}),
        r"linear\.weight has shape \[33, 512\].*--lm",
    ),
    "part of a language model": (
        lambda state: state.pop("gpt.transformer.ln_f.bias"),
        r"lacks the weights of language_model\.transformer\.ln_f\.bias",
    ),
    "a head of its own": (
        lambda state: state.update({"gpt.lm_head.weight": torch.zeros(600, 32)}),
        r"lm_head\.weight differs",
    ),
    "not a tensor": (lambda state: state.update(epoch=3), "'epoch' holds no tensor"),  # type: ignore[call-overload]
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_fits_no_layout_is_named(golden: Path, tmp_path: Path, misfit: str) -> None:
    case = recorded(golden, "msrvtt-clipcap/transformer")
    change, match = MISFITS[misfit]
    state = dict(torch.load(case.checkpoint, weights_only=True))
    change(state)
    torch.save(state, tmp_path / "x-000.pt")
    with pytest.raises(ClipcapError, match=match) as error:
        load_legacy(tmp_path / "x-000.pt", str(case.lm))
    assert "\n" not in str(error.value)


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (print, ("this must not run",))


def test_code_in_a_checkpoint_never_runs(tmp_path: Path, golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"clip_project.linear.weight": Evil()}, tmp_path / "x-000.pt")
    with pytest.raises(ClipcapError, match="more than tensors") as error:
        load_legacy(tmp_path / "x-000.pt", str(golden / "msrvtt-clipcap" / "gpt2-tiny"))
    assert "\n" not in str(error.value)
    assert "must not run" not in capsys.readouterr().out
    (tmp_path / "x-000.pt").write_bytes(b"no pickle")
    with pytest.raises(ClipcapError, match="more than tensors"):
        load_legacy(tmp_path / "x-000.pt", "unused")


def test_which_checkpoint_of_a_folder(tmp_path: Path) -> None:
    assert find_legacy(tmp_path) is None
    for name in ("msrvtt_prefix-000.pt", "msrvtt_prefix-009.pt", "msrvtt_prefix_latest.pt", "notes.pt"):
        (tmp_path / name).touch()
    assert find_checkpoint(tmp_path) == tmp_path / "msrvtt_prefix-009.pt"
    assert find_checkpoint(tmp_path, epoch=0) == tmp_path / "msrvtt_prefix-000.pt"
    assert find_checkpoint(tmp_path / "msrvtt_prefix-000.pt") == tmp_path / "msrvtt_prefix-000.pt"
    with pytest.raises(ClipcapError, match=r"epoch 10.*msrvtt_prefix-009\.pt"):
        find_checkpoint(tmp_path, epoch=10)
    (tmp_path / "other-009.pt").touch()
    with pytest.raises(ClipcapError, match="several prefixes"):
        find_checkpoint(tmp_path)
    assert find_checkpoint(tmp_path, "other") == tmp_path / "other-009.pt"
