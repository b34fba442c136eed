"""Sizes that a configuration claims, against what a file of weights holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clipcap_video.errors import ClipcapError
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.sizes import check_layers, check_outline, pickled_shapes, sizes_of, weight_shapes


def layers(count: int, width: int = 4) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(count)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(layers(2).state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_shapes_are_read_without_what_they_hold(file: Path, tmp_path: Path) -> None:
    expected = {"0.weight": (4, 4), "0.bias": (4,), "1.weight": (4, 4), "1.bias": (4,)}
    assert weight_shapes(file) == expected
    for zipped in (True, False):
        torch.save(layers(2).state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
        assert pickled_shapes(tmp_path / "w.pt") == expected


def test_what_fits_passes_and_what_does_not_is_named(file: Path) -> None:
    check_outline(lambda: layers(2), {"num_layers": 2}, file)
    with pytest.raises(ClipcapError, match=r"has 4 tensors, and its configuration wants 6: it lacks tensor 2\.bias"):
        check_outline(lambda: layers(3), {}, file)
    with pytest.raises(ClipcapError, match=r"wrong shape for tensor 0\.weight: \[4, 4\], where .* says \[9, 9\]"):
        check_outline(lambda: layers(2, 9), {}, file)


def test_a_million_layers_are_refused_before_one_is_made(file: Path) -> None:
    def outline() -> nn.Module:
        raise AssertionError("it was made")

    with pytest.raises(ClipcapError, match="has 4 tensors, and num_layers is said to be 1000000; it is damaged"):
        check_outline(outline, {"mapping": {"num_layers": 10**6}}, file)


def test_a_size_that_no_memory_holds_costs_none(file: Path) -> None:
    with pytest.raises(ClipcapError, match=r"wrong shape for tensor 0\.weight"):
        check_outline(lambda: layers(2, 10**6), {}, file)  # four terabytes a layer


def test_layers_are_counted_against_tensors_alone() -> None:
    check_layers({"num_layers": 4, "width": 10**9}, 4, "it")
    check_layers({"num_layers": 8}, 4, "it", unused=8)
    with pytest.raises(ClipcapError, match="n_layer is said to be 5"):
        check_layers({"inner": {"n_layer": 5}}, 4, "it")


def test_sizes_of_a_configuration() -> None:
    assert sizes_of(MappingConfig("mlp", 4, 6, 3, 2))["prefix_length"] == 3
    assert sizes_of(MappingConfig) == sizes_of({"width": 3}) == {}
