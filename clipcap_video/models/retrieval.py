"""Text-video retrieval after CLIP4Clip (Luo et al., arXiv 2104.08860): similarity heads, their loss, and the model.

A head turns texts and the frames of videos into similarities, `(text [N, D], frames [V, T, D], mask [V, T]) -> [N, V]`:

* `meanP`        cosine of the text and the mean of the frames; no weights but the scale.
* `seqLSTM`      the same, of frames that an LSTM has read in order and added to.
* `seqTransf`    the same, with a transformer over frames with position embeddings.
* `tightTransf`  a transformer reads the text and the frames of each pair together; its first output is the similarity.

A new head is a subclass of `SimilarityHead` and a line in `SIMILARITY_HEADS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap_video.errors import ClipcapError
from clipcap_video.models.gathering import gather, process_count

if TYPE_CHECKING:
    from clipcap_video.models.video_clip import VideoClip

FIRST_SCALE = 2.6592600  # ln(1 / 0.07), CLIP's
LARGEST_SCALE = 4.6051702  # ln 100, CLIP's
NORM_EPS = 1e-12  # of the released code's layer norms; CLIP's own have 1e-5
PAIRS_AT_ONCE = 4096  # of text and video, in the tight head


class SimilarityHead(nn.Module):
    """Base of the heads.

    logit_scale: logarithm of what cosines are multiplied by; None in the tight head, which has no use for it.
    separable: a similarity is the scaled cosine of one vector of the text and one of the video, so that videos can
        be indexed.
    """

    separable: ClassVar[bool] = True

    def __init__(self, dim: int, num_layers: int, num_heads: int, max_positions: int) -> None:
        super().__init__()
        self.logit_scale: nn.Parameter | None = nn.Parameter(torch.tensor(FIRST_SCALE)) if self.separable else None

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Similarities of all pairs, [N, V] float32, as they enter the softmax of the loss.

        text: [N, D]; frames: [V, T, D]; mask: [V, T] bool, True where a frame is real (padding comes last). What
        stands in padded frames has no influence.
        """
        return self.score(text, self.prepare(frames, mask), mask)

    def prepare(self, frames: Tensor, mask: Tensor) -> Tensor:
        """What the head makes of each video by itself: [V, T, D] -> [V, T, D], zero where mask is False."""
        return F.normalize(self.read(frames, mask).float(), dim=-1) * mask[..., None]

    def read(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Frames that know of each other: [V, T, D] -> [V, T, D]."""
        return frames

    def score(self, text: Tensor, prepared: Tensor, mask: Tensor) -> Tensor:
        """Similarities [N, V] of texts [N, D] and prepared videos [V, T, D]."""
        assert self.logit_scale is not None
        cosines = F.normalize(text.float(), dim=-1) @ pool(prepared, mask).T
        return self.logit_scale.exp() * cosines


def pool(prepared: Tensor, mask: Tensor) -> Tensor:
    """The vector of each video: the mean of its frames, of unit length. [V, T, D], [V, T] -> [V, D] float32."""
    count = mask.sum(1, keepdim=True).clamp(min=1)
    return F.normalize((prepared.float() * mask[..., None]).sum(1) / count, dim=-1)


class MeanHead(SimilarityHead):
    """Parameter-free: each frame to unit length, their mean to unit length, times the scale."""


class LSTMHead(SimilarityHead):
    """An LSTM reads the frames in order; what it says of each is added to it."""

    def __init__(self, dim: int, num_layers: int, num_heads: int, max_positions: int) -> None:
        super().__init__(dim, num_layers, num_heads, max_positions)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)

    def read(self, frames: Tensor, mask: Tensor) -> Tensor:
        # Padding comes last, and an LSTM looks back only: padded frames change nothing that is read before them.
        return self.lstm(frames)[0] + frames


class TransformerHead(SimilarityHead):
    """A transformer reads the frames with their positions; what it says of each is added to it."""

    def __init__(self, dim: int, num_layers: int, num_heads: int, max_positions: int) -> None:
        super().__init__(dim, num_layers, num_heads, max_positions)
        self.positions = nn.Parameter(torch.randn(max_positions, dim) * 0.01)
        self.transformer = FrameTransformer(dim, num_layers, num_heads)

    def read(self, frames: Tensor, mask: Tensor) -> Tensor:
        return self.transformer(frames + positions_of(self.positions, frames.shape[1]), mask) + frames


class TightHead(SimilarityHead):
    """A transformer reads the text and the frames of a pair as one sequence; a linear layer scores its first output.

    Text and frames are told apart by their positions alone, as in the released code: there are no type embeddings.
    """

    separable = False

    def __init__(self, dim: int, num_layers: int, num_heads: int, max_positions: int) -> None:
        super().__init__(dim, num_layers, num_heads, max_positions)
        self.positions = nn.Parameter(torch.randn(max_positions, dim) * 0.01)
        self.dropout = nn.Dropout(0.1)
        self.transformer = FrameTransformer(dim, num_layers, num_heads)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.dense = nn.Linear(dim, dim)
        self.similarity = nn.Linear(dim, 1)

    def prepare(self, frames: Tensor, mask: Tensor) -> Tensor:
        return frames * mask[..., None]

    def score(self, text: Tensor, prepared: Tensor, mask: Tensor) -> Tensor:
        texts = max(1, PAIRS_AT_ONCE // len(prepared))
        return torch.cat([self._score(part, prepared, mask) for part in text.split(texts)])

    def _score(self, text: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        pairs = (len(text), len(frames))
        first = text[:, None, None].expand(*pairs, 1, -1)
        sequence = torch.cat([first, frames[None].expand(pairs[0], -1, -1, -1)], dim=2)  # [N, V, 1 + T, D]
        sequence = sequence + positions_of(self.positions, sequence.shape[2])
        seen = F.pad(mask, (1, 0), value=True)[None].expand(pairs[0], -1, -1)  # [N, V, 1 + T]
        read = self.transformer(self.dropout(sequence.flatten(0, 1)), seen.flatten(0, 1))  # [N * V, 1 + T, D]
        pooled = quick_gelu(self.dense(self.norm(read[:, 0])))
        return self.similarity(pooled).float().view(pairs)


def positions_of(table: Tensor, length: int) -> Tensor:
    """The first `length` rows of [M, D]. Raises ClipcapError when there are fewer."""
    if length > len(table):
        raise ClipcapError(f"{length} frames are more than the {len(table)} positions of the model; lower --max_frames")
    return table[:length]


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


class FrameTransformer(nn.Module):
    """CLIP's transformer over padded sequences; its weights have the names that they have in CLIP."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(TransformerBlock(width, heads, layers) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, N, D]; mask: [B, N] bool, True where a token may be attended to."""
        for block in self.resblocks:
            x = block(x, mask)
        return x


class TransformerBlock(nn.Module):
    """Pre-norm attention and a perceptron of four times the width, initialised as in a CLIP of `layers` layers."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width, eps=NORM_EPS)
        widen, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.ModuleDict({"c_fc": widen, "c_proj": narrow})
        self.ln_2 = nn.LayerNorm(width, eps=NORM_EPS)
        deep = (2 * layers * width) ** -0.5
        nn.init.normal_(self.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.attn.out_proj.weight, std=deep)
        nn.init.normal_(widen.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(narrow.weight, std=deep)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, key_padding_mask=~mask, need_weights=False)[0]
        return x + self.mlp["c_proj"](quick_gelu(self.mlp["c_fc"](self.ln_2(x))))


SIMILARITY_HEADS: dict[str, type[SimilarityHead]] = {
    "meanP": MeanHead,
    "seqLSTM": LSTMHead,
    "seqTransf": TransformerHead,
    "tightTransf": TightHead,
}


def contrastive_loss(similarity: Tensor, video: Tensor | None = None) -> Tensor:
    """Symmetric cross-entropy in nats: each text finds its video and each video its text (CLIP4Clip, section 3.4).

    similarity: [N, N], text i belonging to video i. video: [N] int64, which video each row and column is; another
    text of the same video is then no negative. None: all are different, as in the released code.
    """
    if video is not None:
        twin = (video[:, None] == video[None, :]).fill_diagonal_(False)
        similarity = similarity.masked_fill(twin, float("-inf"))
    own = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


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
        if self.sim_header not in SIMILARITY_HEADS:
            known = ", ".join(SIMILARITY_HEADS)
            raise ClipcapError(f"unknown similarity head {self.sim_header!r}; use one of {known}")
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
        from clipcap_video.models.retrieval_checkpoint import load_retrieval

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
