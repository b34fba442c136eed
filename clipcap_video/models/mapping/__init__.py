"""Mapping networks: frame features -> prefix of language-model embeddings (Mokady et al., arXiv 2111.09734).

Three networks share one interface, `(features [B, T, D], mask [B, T]) -> prefix [B, P, E]`:

* `mlp`          every frame passes through a two-layer perceptron; the results are resampled over time to P tokens.
* `transformer`  frames and P learned prefix constants attend to each other; the constants' outputs are the prefix.
* `cross`        P learned prefix constants attend to the frames only.

The networks of the ClipCap programs are configurations of these, without `input_norm` and `temporal_positions`: see
`models/legacy.py`.
A new one is a subclass of `MappingNetwork` in a file of its own and a line here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipcap_video.runs.options import Registry

if TYPE_CHECKING:
    from clipcap_video.models.mapping.base import MappingConfig, MappingNetwork

MAPPING_NETWORKS = Registry(
    "mapping type",
    {
        "mlp": "clipcap_video.models.mapping.mlp:MLPMapping",
        "transformer": "clipcap_video.models.mapping.transformer:TransformerMapping",
        "cross": "clipcap_video.models.mapping.cross:CrossMapping",
    },
)


def build_mapping(config: MappingConfig) -> MappingNetwork:
    """The mapping network that `config` describes, with fresh weights. Raises ClipcapError for an unknown type."""
    network: type[MappingNetwork] = MAPPING_NETWORKS.find(config.mapping_type)
    if config.text_noise is None:
        return network(config)
    from clipcap_video.models.mapping.joint import JointMapping

    return JointMapping(config, network(JointMapping.inner_config(config)))
