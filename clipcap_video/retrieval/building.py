"""The retrieval model that a run begins with: fresh, from CLIP's weights, or from another run's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from clipcap_video.datasets.records import VideoRecord
from clipcap_video.devices import pick_precision
from clipcap_video.encoders import VIT_CLIPS, load_text_encoder
from clipcap_video.encoders.clip import CLIP, fetch
from clipcap_video.encoders.weights import read_state_dict
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import FeatureStore
from clipcap_video.features.fingerprint import check_fingerprints
from clipcap_video.retrieval.config import CROSS_LAYERS, RetrievalTrainConfig
from clipcap_video.retrieval.heads import TightHead, TransformerHead
from clipcap_video.retrieval.model import RetrievalConfig, RetrievalModel, load_retrieval
from clipcap_video.retrieval.video_clip import TEMPORAL, VideoClip, first_text_layers


def build_retrieval(
    config: RetrievalTrainConfig, store: FeatureStore | None, training: Sequence[VideoRecord], device: torch.device
) -> RetrievalModel:
    """The model that `config` asks for: fresh, with CLIP's weights, or with those of `--init_from`."""
    if config.init_from is not None:
        return _begun(config, store, training)
    if config.end_to_end:
        name = config.pretrained_clip_name
        path = fetch(name) if name in VIT_CLIPS else Path(name).expanduser()
        clip = VideoClip(read_state_dict(path), path, config.linear_patch)
        width = clip.dim
        heads = max(1, width // 64) if config.sim_header == "seqTransf" else 8
        shape = RetrievalConfig(
            config.sim_header, width, width, width, False, None, "", config.linear_patch,
            config.cross_num_hidden_layers, heads, clip.network.context_length, config.max_frames, config.max_words,
        )  # fmt: skip
        clip.freeze(config.freeze_layer_num)
        model = RetrievalModel(shape, clip)
        _start_from_text_layers(model, clip.network)
        return model
    assert store is not None
    encoder = load_text_encoder(config.text_encoder, device, pick_precision(device, config.precision))
    width = store.shape(training[0].video_id).dim
    dim = config.dim or encoder.dim
    shape = RetrievalConfig(
        config.sim_header, dim, width, encoder.dim, config.dim > 0, encoder.name, encoder.weights_digest, "2d",
        config.cross_num_hidden_layers, max(1, dim // 64), max(77, config.max_frames + 1), config.max_frames,
        config.max_words, config.dropout,
    )  # fmt: skip
    model = RetrievalModel(shape, text_encoder=encoder)
    network = getattr(encoder, "network", None)
    if isinstance(network, CLIP):
        _start_from_text_layers(model, network)
    return model


def _begun(config: RetrievalTrainConfig, store: FeatureStore | None, training: Sequence[VideoRecord]) -> RetrievalModel:
    """The model of `--init_from`, which must fit what is asked for."""
    assert config.init_from is not None
    model, info = load_retrieval(config.init_from)
    if (model.clip is not None) != config.end_to_end:
        kind = "from frames; give --videos" if model.clip is not None else "on stored features; give --features"
        raise ClipcapError(f"{config.init_from} was trained {kind}")
    if store is not None:
        check_fingerprints(info.fingerprint, store.fingerprint, str(config.data))
        model.check_width(store.shape(training[0].video_id).dim)
    if model.clip is not None and config.linear_patch != model.config.linear_patch:
        model = _with_patches(model, config)
    if config.sim_header != model.config.sim_header:
        model = _with_head(model, config)
    elif config.cross_num_hidden_layers not in (CROSS_LAYERS, model.config.num_layers):  # a record names the default
        raise ClipcapError(
            f"{config.init_from} has {model.config.num_layers} layers in its head; leave --cross_num_hidden_layers out"
        )
    # Positions of more frames than it was trained with are there up to max_positions.
    model.config = replace(model.config, max_frames=config.max_frames, max_words=config.max_words)
    if model.clip is not None:
        model.clip.freeze(config.freeze_layer_num)
    return model


def _with_patches(model: RetrievalModel, config: RetrievalTrainConfig) -> RetrievalModel:
    """The model with frames cut into patches as `config` asks for; says what becomes of the weights that do it."""
    assert model.clip is not None
    assert config.init_from is not None
    weights = model.clip.network.state_dict()
    to = config.linear_patch
    if to == "2d":
        del weights[TEMPORAL]
        fate = f"{TEMPORAL} of --init_from has no place; frames are cut by visual.conv1.weight, as before it"
    else:
        fate = f"{TEMPORAL} begins as visual.conv1.weight in the middle frame and zeros around it"
    print(f"--linear_patch {to}: {fate}", file=sys.stderr)
    changed = RetrievalModel(replace(model.config, linear_patch=to), VideoClip(weights, config.init_from, to))
    _keep_fitting(model, changed)
    return changed


def _keep_fitting(old: RetrievalModel, new: RetrievalModel) -> tuple[set[str], set[str]]:
    """Gives `new` the weights of `old` that fit it. Returns the names without a place, and those that begin anew."""
    weights, wanted = old.state_dict(), new.state_dict()
    kept = {name: weight for name, weight in weights.items() if name in wanted and wanted[name].shape == weight.shape}
    new.load_state_dict(kept, strict=False)
    return weights.keys() - kept, wanted.keys() - kept


def _with_head(model: RetrievalModel, config: RetrievalTrainConfig) -> RetrievalModel:
    """The model with the head that `config` asks for; says which weights have no place and which begin anew."""
    dim, layers = model.config.dim, config.cross_num_hidden_layers
    heads = 8 if config.sim_header == "tightTransf" and model.clip is not None else max(1, dim // 64)
    positions = max(model.config.max_positions, config.max_frames + 1)
    shape = replace(
        model.config, sim_header=config.sim_header, num_layers=layers, num_heads=heads, max_positions=positions
    )
    changed = RetrievalModel(shape, model.clip)
    if model.clip is not None:
        _start_from_text_layers(changed, model.clip.network)
    without_place, anew = _keep_fitting(model, changed)
    for names, fate in ((without_place, "of --init_from have no place"), (anew, "begin anew")):
        if names:
            listed = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            print(f"--sim_header {config.sim_header}: {len(names)} tensors {fate} ({listed})", file=sys.stderr)
    return changed


def _start_from_text_layers(model: RetrievalModel, network: CLIP) -> None:
    """Sequential and tight transformers begin as the first layers of CLIP's text transformer.

    Not where widths differ, nor where learned projections lead to another space than CLIP's.
    """
    config = model.config
    if config.project or network.positional_embedding.shape[1] != config.dim:
        return
    if isinstance(model.head, TransformerHead | TightHead):
        positions, layers = first_text_layers(network, config.num_layers)
        model.head.positions.data[: len(positions)] = positions
        # A CLIP of fewer layers starts the first ones.
        model.head.transformer.load_state_dict(layers, strict=False)
