"""The mapping networks by name. A new one is a subclass of `MappingNetwork` in a file of its own and a line here."""

from __future__ import annotations

from clipcap_video.errors import ClipcapError
from clipcap_video.models.mapping.base import MappingConfig, MappingNetwork
from clipcap_video.models.mapping.cross import CrossMapping
from clipcap_video.models.mapping.mlp import MLPMapping
from clipcap_video.models.mapping.transformer import TransformerMapping

MAPPING_NETWORKS: dict[str, type[MappingNetwork]] = {
    "mlp": MLPMapping,
    "transformer": TransformerMapping,
    "cross": CrossMapping,
}
MAPPING_TYPES = tuple(MAPPING_NETWORKS)


def build_mapping(config: MappingConfig) -> MappingNetwork:
    """The mapping network that `config` describes, with fresh weights. Raises ClipcapError for an unknown type."""
    if config.mapping_type not in MAPPING_NETWORKS:
        raise ClipcapError(f"unknown mapping type {config.mapping_type!r}; use one of {', '.join(MAPPING_NETWORKS)}")
    return MAPPING_NETWORKS[config.mapping_type](config)
