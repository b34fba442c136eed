"""Mapping networks: frame features -> prefix of language-model embeddings (Mokady et al., arXiv 2111.09734).

Three networks share one interface, `(features [B, T, D], mask [B, T]) -> prefix [B, P, E]`:

* `mlp`          every frame passes through a two-layer perceptron; the results are resampled over time to P tokens.
* `transformer`  frames and P learned prefix constants attend to each other; the constants' outputs are the prefix.
* `cross`        P learned prefix constants attend to the frames only.

The networks of the ClipCap programs are configurations of these, without `input_norm` and `temporal_positions`: see
`models/legacy.py`.
"""
