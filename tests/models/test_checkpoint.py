from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipcap_video.captioning.captioner import Captioner
from clipcap_video.errors import ClipcapError
from clipcap_video.models.checkpoint import (
    CONSENSUS,
    CheckpointInfo,
    find_checkpoint,
    load_checkpoint,
    pack_checkpoint,
    recover_checkpoint,
    save_checkpoint,
)
from clipcap_video.models.packing import pack
from clipcap_video.models.prefix import PrefixCaptioner
from tests.cli.test_cli import run
from tests.prefix_models import batch_of, build
from tests.tiny import fingerprint, write_language_model


@pytest.fixture(params=[True, False], ids=["only_prefix", "fine-tuned"])
def saved(request: pytest.FixtureRequest, tiny_lm: Path, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A checkpoint and the loss that its model has on a batch."""
    model = build(tiny_lm, only_prefix=request.param)
    model.config.__dict__["language_model"] = str(tiny_lm)
    save_checkpoint(tmp_path / "model", model, CheckpointInfo(fingerprint(), {"lr": 1.0}, {"epoch": 3}))
    return tmp_path / "model", model(pack(*batch_of(model, [1, 2]))).detach()


def test_saved_and_loaded_equals_original(saved: tuple[Path, torch.Tensor]) -> None:
    path, loss = saved
    model, info = load_checkpoint(path)
    assert torch.equal(model(pack(*batch_of(model, [1, 2]))), loss)
    assert info == CheckpointInfo(fingerprint(), {"lr": 1.0}, {"epoch": 3})
    assert not model.training


@pytest.mark.parametrize("more", [{}, {"input_norm": False, "temporal_positions": False}], ids=["ours", "reference"])
def test_layers_that_a_network_has_none_of_are_not_missed(tiny_lm: Path, tmp_path: Path, more: dict[str, bool]) -> None:
    """The mlp has no layers, whatever its configuration says of them, and fewer tensors."""
    before = build(tiny_lm, "mlp")
    mapping = replace(before.config.mapping, num_layers=8, **more)
    before = PrefixCaptioner(replace(before.config, mapping=mapping), before.language_model, before.tokenizer)
    save_checkpoint(tmp_path / "model", before, CheckpointInfo())
    again, _ = load_checkpoint(tmp_path / "model", language_model=str(tiny_lm))
    assert again.config.mapping == mapping


def test_only_what_was_trained_is_stored_and_tied_weights_once(saved: tuple[Path, torch.Tensor]) -> None:
    path, _ = saved
    names = load_file(path / "model.safetensors").keys()
    only_prefix = json.loads((path / "config.json").read_text())["captioner"]["only_prefix"]
    assert any(name.startswith("mapping.") for name in names)
    assert any(name.startswith("language_model.") for name in names) == (not only_prefix)
    assert "language_model.lm_head.weight" not in names


def test_half_precision_checkpoints_load_as_float32(tiny_lm: Path, tmp_path: Path) -> None:
    model = build(tiny_lm, only_prefix=False)
    save_checkpoint(tmp_path / "half", model, CheckpointInfo(), dtype=torch.float16)
    again, _ = load_checkpoint(tmp_path / "half")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    batch = pack(*batch_of(model, [1, 2]))
    torch.testing.assert_close(again(batch), model(batch), atol=1e-2, rtol=0)


def test_a_packed_checkpoint_is_half_the_size_and_names_no_path(tiny_lm: Path, tmp_path: Path) -> None:
    model = build(tiny_lm, only_prefix=False)
    model.config.__dict__["language_model"] = str(tiny_lm)
    info = CheckpointInfo(fingerprint(), {"data": "/home/me/features", "lm": str(tiny_lm), "lr": 0.1}, {"epoch": 2})
    save_checkpoint(tmp_path / "whole", model, info)
    assert pack_checkpoint(tmp_path / "whole", tmp_path / "packed") < 2e6
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "packed")]
    assert sizes[1] < 0.55 * sizes[0]
    assert str(tiny_lm.parent) not in (tmp_path / "packed" / "config.json").read_text()
    again, kept = load_checkpoint(tmp_path / "packed")
    assert (kept.fingerprint, kept.progress) == (info.fingerprint, info.progress)
    assert kept.training == {"lm": tiny_lm.name, "lr": 0.1}
    batch = pack(*batch_of(model, [1, 2]))
    torch.testing.assert_close(again(batch), model(batch), atol=1e-2, rtol=0)


def test_another_language_model_under_the_old_name_is_refused(tiny_lm: Path, tmp_path: Path) -> None:
    model = build(tiny_lm)
    model.config.__dict__["language_model"] = str(tiny_lm)
    save_checkpoint(tmp_path / "model", model, CheckpointInfo())
    other = write_language_model(tmp_path / "other", layers=1)
    with pytest.raises(ClipcapError, match="is not the one that"):
        load_checkpoint(tmp_path / "model", language_model=str(other))
    moved = shutil.copytree(tiny_lm, tmp_path / "moved")
    load_checkpoint(tmp_path / "model", language_model=str(moved))


def change_config(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        config = json.loads((path / "config.json").read_text())
        change(config)
        (path / "config.json").write_text(json.dumps(config))

    return apply


def change_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        weights = load_file(path / "model.safetensors")
        change(weights)
        save_file(weights, path / "model.safetensors")

    return apply


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda path: (path / "config.json").unlink(), r"holds no config\.json"),
    "config not json": (lambda path: (path / "config.json").write_text("{"), "damaged"),
    "config of another program": (lambda path: (path / "config.json").write_text("{}"), "lacks the field 'captioner'"),
    "config lacks a field": (
        change_config(lambda config: config["captioner"]["mapping"].pop("prefix_length")),
        "prefix_length",
    ),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "cannot read the weights"),
    "weights cut": (
        lambda path: (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:999]),
        "cannot read the weights",
    ),
    "missing tensor": (
        change_weights(lambda weights: weights.pop("mapping.prefix_const")),
        r"lacks tensor mapping\.prefix_const",
    ),
    "unknown tensor": (
        change_weights(lambda weights: weights.update(surplus=torch.zeros(1))),
        "unknown tensor surplus",
    ),
    "wrong shape": (
        change_weights(lambda weights: weights.update({"mapping.prefix_const": torch.zeros(1)})),
        r"wrong shape for tensor mapping\.prefix_const",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_one_sentence(saved: tuple[Path, torch.Tensor], damage: str) -> None:
    path, _ = saved
    apply, match = DAMAGE[damage]
    apply(path)
    with pytest.raises(ClipcapError, match=match) as error:
        load_checkpoint(find_checkpoint(path))
    assert "\n" not in str(error.value)


def test_a_fine_tuned_checkpoint_needs_its_own_parts(tiny_lm: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", build(tiny_lm, only_prefix=False), CheckpointInfo())
    with pytest.raises(ClipcapError, match="leave out --lm"):
        load_checkpoint(tmp_path / "model", language_model="gpt2")
    shutil.rmtree(tmp_path / "model" / "tokenizer")
    with pytest.raises(ClipcapError, match="cannot read the tokenizer"):
        load_checkpoint(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "language_model")
    with pytest.raises(ClipcapError, match=r"lacks language_model/config\.json"):
        load_checkpoint(tmp_path / "model")


def test_a_failed_save_leaves_the_old_checkpoint(tiny_lm: Path, tmp_path: Path) -> None:
    model = build(tiny_lm)
    save_checkpoint(tmp_path / "last", model, CheckpointInfo(progress={"epoch": 1}))

    def fail(partial: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path / "last", model, CheckpointInfo(progress={"epoch": 2}), extra=fail)
    assert json.loads((tmp_path / "last" / "config.json").read_text())["progress"] == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tiny_lm: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ClipcapError, match="is no checkpoint, so it is not replaced"):
        save_checkpoint(tmp_path, build(tiny_lm), CheckpointInfo())
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_save_killed_between_its_renames_is_put_right(tmp_path: Path) -> None:
    (tmp_path / ".last.old").mkdir()
    (tmp_path / ".last.old" / "config.json").write_text("{}")
    recover_checkpoint(tmp_path / "last")
    assert (tmp_path / "last" / "config.json").exists()


def test_best_comes_before_last(tmp_path: Path) -> None:
    for name in ("last", "best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        assert find_checkpoint(tmp_path) == tmp_path / name
    with pytest.raises(ClipcapError, match="no model directory"):
        find_checkpoint(tmp_path / "nowhere")


def test_a_packed_and_a_saved_checkpoint_keep_it(ranked: Path, tmp_path: Path) -> None:
    before = (ranked / "out" / "best" / CONSENSUS).read_bytes()
    assert run("clipcap-video", "pack", "--model_dir", ranked / "out", "--out", tmp_path / "packed").returncode == 0
    assert (tmp_path / "packed" / CONSENSUS).read_bytes() == before
    Captioner.from_pretrained(ranked / "out", device="cpu").save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / CONSENSUS).read_bytes() == before
