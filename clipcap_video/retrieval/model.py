"""Text-video retrieval after CLIP4Clip (Luo et al., arXiv 2104.08860): the model around a similarity head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.files import BOXED
from clipcap_video.models.checkpoint import (
    PATHS,
    WEIGHTS,
    CheckpointInfo,
    fill,
    find_checkpoint,
    parse_config,
    read_weights,
    write_checkpoint,
)
from clipcap_video.models.contrastive import LARGEST_SCALE, contrastive_loss
from clipcap_video.models.sizes import check_outline, sizes_of
from clipcap_video.retrieval.config import SIMILARITY_HEADS
from clipcap_video.retrieval.gathering import gather, process_count
from clipcap_video.retrieval.heads import pool
from clipcap_video.runs.field_types import check_types

_CLIP = "clip.network."

if TYPE_CHECKING:
    from clipcap_video.retrieval.video_clip import VideoClip


@dataclass(frozen=True)
class RetrievalConfig:
    """What rebuilds a retrieval model, beside its weights.

    sim_header: a key of SIMILARITY_HEADS. dim: D, of the space where texts and frames meet.
    feature_dim, text_dim: width of a frame feature and of a text embedding before their projections.
    project: projections to `dim` are learned; otherwise all three widths are the same.
    text_encoder: name of the frozen text encoder (see encoders.load_text_encoder); None: a trained CLIP in the
        checkpoint reads frames and texts. text_digest: of the text encoder's weights.
    linear_patch: "2d" or "3d", how the CLIP in the checkpoint cuts frames into patches.
    num_layers, num_heads: of the sequential and tight transformers. max_positions: frames (and text) that they can
        tell apart. max_frames: most frames of a video. max_words: tokens of a text that CLIP reads, first and last
        included; a frozen text encoder reads as many as it can.
    """

    sim_header: str
    dim: int
    feature_dim: int
    text_dim: int
    project: bool
    text_encoder: str | None = None
    text_digest: str = ""
    linear_patch: str = "2d"
    num_layers: int = 4
    num_heads: int = 8
    max_positions: int = 77
    max_frames: int = 12
    max_words: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        SIMILARITY_HEADS.find(self.sim_header)
        if self.dim % self.num_heads and self.sim_header in ("seqTransf", "tightTransf"):
            raise ClipcapError(f"{self.num_heads} attention heads do not divide the width {self.dim}; change one")
        used = self.max_frames + (self.sim_header == "tightTransf")
        if used > self.max_positions:
            raise ClipcapError(
                f"{self.max_frames} frames need more than the model's {self.max_positions} positions; "
                "lower --max_frames"
            )
        if not self.project and not self.dim == self.feature_dim == self.text_dim:
            raise ClipcapError(
                f"frame features are {self.feature_dim} wide and text embeddings {self.text_dim}; without projections "
                f"both must be {self.dim}"
            )


@dataclass
class RetrievalBatch:
    """B texts with their videos.

    frames: [B, T, W] float32 features, or uint8 [B, T, 3, S, S] pictures for a model with CLIP inside.
    mask: [B, T] bool, True where a frame is real. text: [B, W'] float32 embeddings, or int64 [B, L] tokens for such
    a model. video: [B] int64, number of the video.
    """

    frames: Tensor
    mask: Tensor
    text: Tensor
    video: Tensor

    def to(self, device: torch.device) -> RetrievalBatch:
        return RetrievalBatch(*(part.to(device) for part in (self.frames, self.mask, self.text, self.video)))


class RetrievalModel(nn.Module):
    """Finds videos by text and texts by video. What a search needs of it:

    * `RetrievalModel.from_pretrained(folder)`: a trained model in eval mode.
    * `embed_text(texts) -> [N, D]`: a vector a text.
    * `embed_frames(features [V, T, W], mask [V, T]) -> [V, T, D]`: a vector a frame, zero where mask is False, from
      frame features as `extract_features.py` stores them.
    * `pool(frames, mask) -> [V, D]`: a vector a video, from those.
    * `similarity(text, frames, mask) -> [N, V]`: of all pairs, from what the two `embed_` functions give.

    Where `separable` is true (every head but tightTransf), texts, frames and pooled videos have unit length, and
    videos are ranked for a text as by `text @ pool(frames, mask).T`; `text @ frame` says which moment fits best.
    All of these run without gradient and return float32 on the CPU.
    """

    def __init__(self, config: RetrievalConfig, clip: VideoClip | None = None, text_encoder: Any = None) -> None:
        """clip: the trained CLIP, where config.text_encoder is None. text_encoder: loaded when needed, if None."""
        super().__init__()
        self.config = config
        self.clip = clip
        self.head = SIMILARITY_HEADS[config.sim_header](
            config.dim, config.num_layers, config.num_heads, config.max_positions
        )
        self.frame_projection = _projection(config.feature_dim, config)
        self.text_projection = _projection(config.text_dim, config)
        self._text_encoder = text_encoder
        if clip is not None and self.head.logit_scale is not None:
            # One weight under two names: CLIP's own scale is the head's.
            self.head.logit_scale = clip.network.logit_scale
        elif clip is not None:
            clip.network.logit_scale.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str = "auto") -> RetrievalModel:
        """The model of a run (its best checkpoint) or of a checkpoint, in eval mode on `device`.

        Raises ClipcapError when `folder` holds no retrieval model.
        """
        from clipcap_video.devices import pick_device
        from clipcap_video.retrieval.model import load_retrieval

        model, _ = load_retrieval(Path(folder))
        return model.to(pick_device(device))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def separable(self) -> bool:
        return self.head.separable

    @property
    def text_encoder(self) -> Any:
        """The frozen text encoder, loaded by its name. Raises ClipcapError when it is not the one trained with."""
        if self._text_encoder is None:
            from clipcap_video.devices import pick_precision
            from clipcap_video.encoders import load_text_encoder

            assert self.config.text_encoder is not None
            # In the precision that training embeds its captions in.
            encoder = load_text_encoder(self.config.text_encoder, self.device, pick_precision(self.device))
            if encoder.weights_digest != self.config.text_digest:
                raise ClipcapError(
                    f"text encoder {self.config.text_encoder} is not the one that the model was trained with "
                    f"({encoder.weights_digest}, trained with {self.config.text_digest}); put that one in its place"
                )
            self._text_encoder = encoder
        return self._text_encoder

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Tensor:
        """n texts -> [n, D] float32 on the CPU; of unit length where the model is separable."""
        if not texts:
            return torch.zeros(0, self.config.dim)
        if self.clip is not None:
            inputs = self.clip.tokenize(texts, self.config.max_words)
        else:
            inputs = self.text_encoder.encode_text(texts)
        return self.embed_text_inputs(inputs)

    @torch.no_grad()
    def embed_text_inputs(self, inputs: Tensor) -> Tensor:
        """The same from what a batch has in `text`: embeddings [n, W'] or tokens [n, L]."""
        text = self._text(inputs.to(self.device)).float()
        return (F.normalize(text, dim=-1) if self.separable else text).cpu()

    @torch.no_grad()
    def embed_frames(self, features: Tensor, mask: Tensor) -> Tensor:
        """features: [V, T, W] frame features; mask: [V, T] bool -> [V, T, D] float32 on the CPU."""
        self.check_width(features.shape[-1])
        mask = mask.to(self.device)
        frames = self.frame_projection(features.to(self.device))
        return self.head.prepare(frames, mask).float().cpu()

    @torch.no_grad()
    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """What embed_frames gave, [V, T, D], and its mask [V, T] -> [V, D] float32, a unit vector a video."""
        return pool(frames, mask)

    @torch.no_grad()
    def similarity(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """What embed_text [N, D] and embed_frames [V, T, D] gave -> [N, V] float32 on the CPU."""
        parts = (part.to(self.device) for part in (text, frames, mask))
        return self.head.score(*parts).float().cpu()

    def forward(self, batch: RetrievalBatch) -> Tensor:
        """The loss of a batch in nats; under several processes, of the batches of all of them together."""
        text = self._text(batch.text)
        frames = self._frames(batch.frames, batch.mask)
        prepared, mask, video = self.head.prepare(frames, batch.mask), batch.mask, batch.video
        if process_count() > 1:
            # As many frames everywhere, so that videos of all processes stand in one tensor.
            missing = self.config.max_frames - mask.shape[1]
            prepared, mask = F.pad(prepared, (0, 0, 0, missing)), F.pad(mask, (0, missing))
            text, prepared, mask, video = gather(text), gather(prepared), gather(mask), gather(video)
        return contrastive_loss(self.head.score(text, prepared, mask), video)

    def frame_features(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Features [B, T, W] of pictures uint8 [B, T, 3, S, S], by the CLIP inside."""
        assert self.clip is not None
        return self.clip.encode_frames(frames, mask)

    def _frames(self, frames: Tensor, mask: Tensor) -> Tensor:
        if self.clip is not None:
            frames = self.frame_features(frames, mask)
        self.check_width(frames.shape[-1])
        return self.frame_projection(frames)

    def _text(self, inputs: Tensor) -> Tensor:
        if self.clip is not None:
            inputs = self.clip.encode_tokens(inputs)
        return self.text_projection(inputs)

    def check_width(self, width: int) -> None:
        if width != self.config.feature_dim:
            raise ClipcapError(
                f"the frame features are {width} wide, but the model was trained on {self.config.feature_dim}; "
                "extract features with the model's encoder"
            )

    def clamp_scale(self) -> None:
        """Keeps the scale of the logits at 100 or below, as CLIP does after every step."""
        if self.head.logit_scale is not None:
            self.head.logit_scale.data.clamp_(max=LARGEST_SCALE)


def _projection(width: int, config: RetrievalConfig) -> nn.Module:
    if not config.project:
        return nn.Identity()
    return nn.Sequential(nn.LayerNorm(width), nn.Dropout(config.dropout), nn.Linear(width, config.dim))


def save_retrieval(
    directory: Path,
    model: RetrievalModel,
    info: CheckpointInfo,
    extra: Callable[[Path], None] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes a whole checkpoint, replacing what was there in one step. extra, dtype: as in save_checkpoint."""
    write_checkpoint(
        directory, "retrieval", {"retrieval": asdict(model.config)}, retrieval_weights(model), info, dtype, extra=extra
    )


def holds_retrieval(checkpoint: Path) -> bool:
    """Whether a checkpoint is of a retrieval model."""
    try:
        read_retrieval_config(checkpoint)
    except ClipcapError:
        return False
    return True


def pack_retrieval(checkpoint: Path, out: Path) -> int:
    """Writes `checkpoint` to `out` in float16 and without the paths of its training run; returns its size in bytes."""
    model, info = load_retrieval(checkpoint)
    info.training = {name: value for name, value in info.training.items() if name not in PATHS}
    save_retrieval(out, model, info, dtype=torch.float16)
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def retrieval_weights(model: RetrievalModel) -> dict[str, Tensor]:
    """The weights that belong in a checkpoint, on the CPU, each once."""
    # Where there is a CLIP, the scale is its own.
    twice = set() if model.clip is None else {"head.logit_scale"}
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items() if name not in twice
    }


def read_retrieval_config(checkpoint: Path) -> tuple[RetrievalConfig, CheckpointInfo]:
    """The configuration of a checkpoint directory, without its weights."""

    def retrieval(raw: dict[str, Any]) -> RetrievalConfig:
        config = RetrievalConfig(**raw["retrieval"])
        check_types(config)
        return config

    return parse_config(checkpoint, ("retrieval",), retrieval)


@cache
def boxed_fingerprint() -> Fingerprint | None:
    """Of the features that the model in the box was trained on; None where there is no such model."""
    return read_retrieval_config(BOXED)[1].fingerprint if BOXED.is_dir() else None


def load_retrieval(folder: Path) -> tuple[RetrievalModel, CheckpointInfo]:
    """The model of a run (its best checkpoint) or of a checkpoint, on the CPU in eval mode.

    Raises ClipcapError when a part is missing, damaged or does not fit.
    """
    checkpoint = find_checkpoint(folder)
    if checkpoint.is_file():
        raise ClipcapError(f"{folder} holds checkpoints of ClipCap, which do not retrieve; give a retrieval model")
    config, info = read_retrieval_config(checkpoint)
    file = checkpoint / WEIGHTS
    check_outline(lambda: RetrievalModel(config), sizes_of(config), file)
    weights = read_weights(file)
    clip = None
    if config.text_encoder is None:
        from clipcap_video.retrieval.video_clip import VideoClip  # CLIP, a second of imports

        clip_weights = {name.removeprefix(_CLIP): tensor for name, tensor in weights.items() if name.startswith(_CLIP)}
        clip = VideoClip(clip_weights, file, config.linear_patch)
    model = RetrievalModel(config, clip)
    fill(model, retrieval_weights(model), weights, file)
    return model.eval(), info


def load_retrieval_weights(model: RetrievalModel, file: Path) -> None:
    """Fills the model with the weights in `file`; every tensor must be there and fit."""
    fill(model, retrieval_weights(model), read_weights(file), file)
