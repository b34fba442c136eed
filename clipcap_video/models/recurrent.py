"""The recurrent captioner: an LSTM reads the frames, another writes the words (Venugopalan et al., arXiv 1505.00487).

    frame features [B, T, D] -> head -> encoder LSTM -> decoder LSTM -> a word at a time
                                               `------ attention (additive: Bahdanau et al., arXiv 1409.0473)

The smallest thing that learns to caption video. In the shapes below B is videos, T frames, D the width of a frame
feature, H the width of the LSTMs, W that of a word, N captions, K beams, V the size of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from clipcap_video.encoders.trainable import TrainableEncoder
from clipcap_video.encoders.weights import write_weights
from clipcap_video.errors import ClipcapError
from clipcap_video.features.fingerprint import Fingerprint
from clipcap_video.models.base import ENCODER_WEIGHTS, TOKENIZER, CaptionModel, ModelConfig, TrainingFacts
from clipcap_video.models.language_model import load_tokenizer
from clipcap_video.models.packing import PackedCaptions
from clipcap_video.models.vocabulary import subword_tokenizer, word_tokenizer

# name -> layers that read a whole sequence at once, and one layer that takes one step
CELLS: dict[str, tuple[Callable[..., nn.RNNBase], Callable[..., nn.RNNCellBase]]] = {
    "lstm": (nn.LSTM, nn.LSTMCell),
    "gru": (nn.GRU, nn.GRUCell),
}
ATTENTIONS = ("none", "additive")

# What an LSTM remembers, (h, c), each [layers, rows, H]; a GRU has h alone.
State = tuple[Tensor, ...]


@dataclass(frozen=True)
class RecurrentConfig(ModelConfig):
    """What rebuilds a recurrent captioner, beside its weights and its tokenizer.

    feature_dim: D. max_frames: frames of a video that it is given at most. vocabulary_size: V, of the tokenizer.
    head_dim: width of the linear layer in the place of the encoder's classifier; None reads features as they are.
    cell: a key of CELLS. attention: one of ATTENTIONS. width: H, of both LSTMs; layers: of each.
    word_width: W. tied: the embeddings of the words that are read are the output weights too.
    dropout: in training, on frames, words, outputs, and between layers.
    encoder_weights: digest of the weights that the encoder had before it was trained along; None: it was not.
    """

    feature_dim: int
    max_frames: int
    vocabulary_size: int
    head_dim: int | None = 512
    cell: str = "lstm"
    attention: str = "additive"
    width: int = 512
    layers: int = 1
    word_width: int = 256
    tied: bool = True
    dropout: float = 0.0
    encoder_weights: str | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("cell", self.cell, CELLS), ("attention", self.attention, ATTENTIONS)):
            if value not in known:
                raise ClipcapError(f"unknown {name} {value!r}; use one of {', '.join(known)}")
        for name in ("feature_dim", "max_frames", "vocabulary_size", "head_dim", "width", "layers", "word_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ClipcapError(f"{name} must be at least 1, not {value}")


class FrameReader(nn.Module):
    """The encoder: a linear head over each frame, then an LSTM over the frames in their order."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        # Encoders differ in scale by orders of magnitude; normalised, one learning rate suits them all.
        self.norm = nn.LayerNorm(config.feature_dim)
        self.head = nn.Identity() if config.head_dim is None else nn.Linear(config.feature_dim, config.head_dim)
        self.dropout = nn.Dropout(config.dropout)
        # PyTorch warns about dropout between the layers where there is one layer alone.
        between = config.dropout if config.layers > 1 else 0.0
        whole, _ = CELLS[config.cell]
        self.rnn = whole(
            config.head_dim or config.feature_dim, config.width, config.layers, batch_first=True, dropout=between
        )

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, State]:
        """features: [B, T, D]; mask: [B, T] bool, real frames first.

        Returns what was made of each frame, [B, T, H], zero where there is none, and the state after the last one.
        """
        frames = self.dropout(self.head(self.norm(features)))
        # Packed, so that the state of a short video is that after its own last frame, not after its padding.
        packed = pack_padded_sequence(frames, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        out, state = self.rnn(packed)
        encoded, _ = pad_packed_sequence(out, batch_first=True, total_length=mask.shape[1])
        return encoded, as_state(state)


class AdditiveAttention(nn.Module):
    """Which frames matter for the next word: weights softmax(v . tanh(Q h + K e_t)) (arXiv 1409.0473, A.1.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, hidden: Tensor, video: EncodedFrames) -> tuple[Tensor, Tensor]:
        """hidden: [N, H], the decoder's before it reads its next word; video: the frames of each of the N captions.

        Returns the context [N, H] and the weights [N, T], which sum to one over the real frames.
        """
        scores = self.score(torch.tanh(self.query(hidden)[:, None] + video.keys)).squeeze(-1).float()  # [N, T]
        weights = scores.masked_fill(~video.mask, float("-inf")).softmax(dim=-1)
        context = weights[:, None].to(video.frames.dtype) @ video.frames  # [N, 1, H]
        return context.squeeze(1), weights


@dataclass(frozen=True)
class EncodedFrames:
    """What the decoder looks at: frames [N, T, H], their attention keys [N, T, H], and mask [N, T] bool."""

    frames: Tensor
    keys: Tensor
    mask: Tensor

    def __getitem__(self, rows: Tensor | slice) -> EncodedFrames:
        return EncodedFrames(self.frames[rows], self.keys[rows], self.mask[rows])


class WordWriter(nn.Module):
    """The decoder: reads a word (and, with attention, looks at the frames), then predicts the next.

    never: token ids that it is never to write.
    """

    barrier: Tensor

    def __init__(self, config: RecurrentConfig, never: Sequence[int]) -> None:
        super().__init__()
        # One row more than there are words: that of the start token, which can be read but not written.
        self.start_token = config.vocabulary_size
        self.embedding = nn.Embedding(config.vocabulary_size + 1, config.word_width)
        nn.init.normal_(self.embedding.weight, std=config.word_width**-0.5)
        self.dropout = nn.Dropout(config.dropout)
        self.attention = AdditiveAttention(config.width) if config.attention == "additive" else None
        context = 0 if self.attention is None else config.width
        _, one_step = CELLS[config.cell]
        widths = [config.word_width + context, *[config.width] * (config.layers - 1)]
        self.cells = nn.ModuleList(one_step(width, config.width) for width in widths)
        self.project = nn.Linear(config.width + context, config.word_width)
        self.output = None if config.tied else nn.Parameter(self.embedding.weight.detach()[:-1].clone())
        bias = torch.zeros(config.vocabulary_size)
        self.bias = nn.Parameter(bias)
        # <unk> and padding are impossible in training as they are in use: probabilities sum to one without them.
        barrier = bias.index_fill(0, torch.tensor(never, dtype=torch.int64), float("-inf"))
        self.register_buffer("barrier", barrier, persistent=False)

    def look(self, encoded: Tensor, mask: Tensor) -> EncodedFrames:
        """encoded: [B, T, H]; mask: [B, T] bool."""
        return EncodedFrames(encoded, encoded if self.attention is None else self.attention.key(encoded), mask)

    def step(self, tokens: Tensor, video: EncodedFrames, state: State) -> tuple[Tensor, State]:
        """Reads one token of each of N captions: tokens [N] int64 -> what predicts the next, [N, W], and the state."""
        context = [] if self.attention is None else [self.attention(state[0][-1], video)[0]]  # [N, H]
        x = torch.cat([self.embedding(tokens), *context], dim=1)  # [N, W + H]
        after = []
        for cell, before in zip(self.cells, zip(*state, strict=True), strict=True):
            after.append(as_state(cell(self.dropout(x), before if len(before) > 1 else before[0])))
            x = after[-1][0]  # [N, H]
        predicting = self.dropout(torch.tanh(self.project(torch.cat([x, *context], dim=1))))
        return predicting, tuple(torch.stack(parts) for parts in zip(*after, strict=True))

    def forward(self, tokens: PackedSequence, video: EncodedFrames, state: State) -> Tensor:
        """Reads whole captions, every word given (teacher forcing).

        tokens: int64, of N captions, the longest first; video: their frames; state: before their first token.
        Returns what predicts the token after each one: [tokens, W], in their order.
        """
        predicting = []
        for step in tokens.data.split(tokens.batch_sizes.tolist()):
            going = slice(len(step))  # the captions that are so long
            out, state = self.step(step, video[going], tuple(part[:, going] for part in state))
            predicting.append(out)
        return torch.cat(predicting)

    def output_layer(self) -> tuple[Tensor, Tensor]:
        """Weight [V, W] and bias [V], -inf for what is never written."""
        words = self.embedding.weight[:-1] if self.output is None else self.output
        return words, self.bias + self.barrier

    def logits(self, predicting: Tensor) -> Tensor:
        """[..., W] -> float32 [..., V], -inf for what is never written."""
        return F.linear(predicting, *self.output_layer()).float()


class RecurrentCaptioner(CaptionModel):
    """FrameReader, then WordWriter; with a `trained_encoder` before them, which turns pixels into frame features."""

    kind = "lstm"

    def __init__(
        self, config: RecurrentConfig, tokenizer: Any, trained_encoder: TrainableEncoder | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.reader = FrameReader(config)
        self.writer = WordWriter(config, never_written(tokenizer))
        self.trained_encoder = trained_encoder

    @classmethod
    def build(cls, config: Any, facts: TrainingFacts) -> RecurrentCaptioner:
        if config.tokenizer is None:
            tokenizer = word_tokenizer(facts.captions, config.min_count)
        else:
            tokenizer = subword_tokenizer(config.tokenizer)
        recurrent = RecurrentConfig(
            feature_dim=facts.feature_dim,
            max_frames=facts.max_frames,
            vocabulary_size=len(tokenizer),
            head_dim=None if config.train_encoder == "none" else config.head_width,
            cell=config.cell,
            attention=config.attention,
            width=config.rnn_width,
            layers=config.rnn_layers,
            word_width=config.word_width,
            tied=config.embeddings == "tied",
            dropout=config.dropout,
            encoder_weights=facts.encoder_weights,
        )
        torch.manual_seed(config.seed)
        return cls(recurrent, tokenizer, facts.encoder)

    @classmethod
    def read_config(cls, raw: dict[str, Any]) -> RecurrentConfig:
        return RecurrentConfig(**raw)

    @classmethod
    def load(cls, config: RecurrentConfig, checkpoint: Path, language_model: str | None) -> RecurrentCaptioner:
        if language_model is not None:
            raise ClipcapError(f"{checkpoint} has no language model, for it is a recurrent captioner; leave out --lm")
        return cls(config, load_tokenizer(checkpoint / TOKENIZER))

    @classmethod
    def outline(cls, config: RecurrentConfig, checkpoint: Path) -> nn.Module:
        return nn.ModuleDict({"reader": FrameReader(config), "writer": WordWriter(config, ())})

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        super().save(folder, dtype)
        if self.trained_encoder is not None:
            write_weights(folder / ENCODER_WEIGHTS, self.trained_encoder.trained_weights(), dtype)

    @property
    def device(self) -> torch.device:
        return self.writer.bias.device

    @property
    def ignored_label(self) -> int | None:
        unknown = self.tokenizer.unk_token_id
        return None if unknown == self.tokenizer.eos_token_id else unknown

    @property
    def encoder_weights_before(self) -> str | None:
        return self.config.encoder_weights

    def fingerprint(self, base: Fingerprint | None) -> Fingerprint | None:
        if self.trained_encoder is None or base is None:
            return base
        return replace(base, weights=self.trained_encoder.digest())

    def backbone(self) -> nn.Module | None:
        return self.trained_encoder

    def omitted_weights(self) -> list[str]:
        return [name for name in self.state_dict() if name.startswith("trained_encoder.")]

    def describe(self) -> dict[str, str]:
        config = self.config
        attention = "no attention" if config.attention == "none" else f"{config.attention} attention"
        return {"network": f"{config.cell}, {config.layers} x {config.width}, {attention}"}

    def frame_features(self, features: Tensor, mask: Tensor) -> Tensor:
        """features: [B, T, D]; with a trained encoder also pixels, uint8 [B, T, 3, S, S], of which it makes them."""
        if features.dim() == 3:
            return features
        assert self.trained_encoder is not None
        encoded = self.trained_encoder(features[mask])  # all frames of all videos at once: [frames, D]
        return encoded.new_zeros(*mask.shape, encoded.shape[-1]).masked_scatter(mask[:, :, None], encoded)

    def read(self, features: Tensor, mask: Tensor) -> tuple[EncodedFrames, State, Tensor]:
        """Reads the frames and the start token: what to look at, the state, and what predicts the first word [B, W]."""
        encoded, state = self.reader(self.frame_features(features, mask), mask)
        video = self.writer.look(encoded, mask)
        starts = torch.full((len(mask),), self.writer.start_token, device=mask.device)
        first, state = self.writer.step(starts, video, state)
        return video, state, first

    def forward(self, batch: PackedCaptions, label_smoothing: float = 0.0) -> Tensor:
        video, state, predicting = self.read(batch.features, batch.mask)
        row_of_label = batch.label_row  # a caption's first word is predicted behind the start token of its video
        if (batch.caption >= 0).any():
            captions = unpack(batch)
            rows = captions.video
            later = self.writer(captions.tokens, video[rows], tuple(part[:, rows] for part in state))
            places = captions.place[batch.label_row, batch.label_column.clamp(min=0)] + len(predicting)
            row_of_label = row_of_label.where(batch.label_column < 0, places)
            predicting = torch.cat([predicting, later])
        return self._mean_loss(predicting, row_of_label, batch, label_smoothing)

    def output_layer(self) -> tuple[Tensor, Tensor]:
        return self.writer.output_layer()

    def start(self, features: Tensor, mask: Tensor, max_tokens: int) -> RecurrentDecoding:
        return RecurrentDecoding(self, *self.read(features, mask))


@dataclass(frozen=True)
class CaptionRows:
    """The captions of a packed batch, each on its own, the longest first.

    tokens: int64, of N captions. video: [N] int64, row of each one's video.
    place: [B, L] int64, where a token of the batch stands in `tokens.data`; of padding it means nothing.
    """

    tokens: PackedSequence
    video: Tensor
    place: Tensor


def unpack(batch: PackedCaptions) -> CaptionRows:
    """An LSTM cannot skip from one caption's end to the next one's start, as a language model does with a mask."""
    real = batch.caption >= 0
    row = torch.arange(len(real), device=real.device)[:, None].expand_as(batch.caption)
    numbers = batch.caption.max() + 1
    names, caption, lengths = (row * numbers + batch.caption)[real].unique(return_inverse=True, return_counts=True)
    order = lengths.argsort(descending=True, stable=True)
    rank = order.argsort()  # of each caption
    sizes = (lengths[None] > torch.arange(int(lengths.max()), device=lengths.device)[:, None]).sum(1)
    before = sizes.cumsum(0) - sizes  # tokens of earlier steps
    column = before[batch.position[real]] + rank[caption]
    tokens = torch.empty_like(column).index_copy(0, column, batch.tokens[real])
    place = torch.zeros_like(batch.tokens).masked_scatter(real, column)
    return CaptionRows(PackedSequence(tokens, sizes.cpu()), (names // numbers)[order], place)


class RecurrentDecoding:
    """Captions of B videos in the making: the LSTM's state of every lane; see decoding.protocol.StepModel."""

    def __init__(self, model: RecurrentCaptioner, video: EncodedFrames, state: State, first: Tensor) -> None:
        self.writer = model.writer
        self.video = video
        self.state = state
        self.first = first
        self.lanes = 1

    def begin(self) -> Tensor:
        return self.writer.logits(self.first)

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        videos, lanes = tokens.shape
        if lanes != self.lanes:  # the first step makes K lanes of the one beginning
            rows = torch.arange(videos, device=tokens.device).repeat_interleave(lanes)
            self.video = self.video[rows]
        rows = (torch.arange(videos, device=tokens.device)[:, None] * self.lanes + parents).flatten()
        self.lanes = lanes
        state = tuple(part[:, rows] for part in self.state)
        predicting, self.state = self.writer.step(tokens.flatten(), self.video, state)
        return self.writer.logits(predicting).view(videos, lanes, -1)

    def keep(self, rows: Tensor) -> None:
        lanes = (rows[:, None] * self.lanes + torch.arange(self.lanes, device=rows.device)).flatten()
        self.video = self.video[lanes]
        self.state = tuple(part[:, lanes] for part in self.state)


def as_state(state: Tensor | State) -> State:
    """What PyTorch's layers return: of a GRU one tensor, of an LSTM a pair."""
    return (state,) if isinstance(state, Tensor) else state


def never_written(tokenizer: Any) -> list[int]:
    """Ids of the special tokens (<unk>, padding, ...) but for the one that ends a caption."""
    return sorted(set(tokenizer.all_special_ids) - {tokenizer.eos_token_id})
