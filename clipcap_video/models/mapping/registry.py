"""The mapping networks by name. A new one is a subclass of `MappingNetwork` in a file of its own and a line here."""

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
    return MAPPING_NETWORKS.find(config.mapping_type)(config)
