"""The recurrent captioner against its equations, written out one video, one caption and one word at a time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.search import decode
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import stack_features
from clipcap_video.models import loss as loss_module
from clipcap_video.models.packing import pack
from clipcap_video.models.recurrent import RecurrentCaptioner, RecurrentConfig
from clipcap_video.models.vocabulary import word_tokenizer
from tests.tiny import WIDTH, captions_of, features_of

KINDS = [
    {"cell": "lstm", "attention": "none"},
    {"cell": "lstm", "attention": "additive"},
    {"cell": "gru", "attention": "none", "layers": 2, "tied": False},
    {"cell": "gru", "attention": "additive", "layers": 2, "head_dim": None},
    {"cell": "lstm", "attention": "additive", "layers": 2, "tied": False},
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))


def build(seed: int = 0, captions: list[str] | None = None, **changes: Any) -> RecurrentCaptioner:
    """A small captioner of random weights, large enough for every part to count."""
    captions = captions or [caption for number in range(24) for caption in captions_of(number)]
    tokenizer = word_tokenizer(captions, min_count=1)
    options: dict[str, Any] = {"head_dim": 12, "width": 10, "word_width": 8, "layers": 1}
    config = RecurrentConfig(WIDTH, 6, len(tokenizer), **(options | changes))
    torch.manual_seed(seed)
    model = RecurrentCaptioner(config, tokenizer).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)
    return model


def step(w_x: Tensor, w_h: Tensor, b_x: Tensor, b_h: Tensor, x: Tensor, state: list[Tensor]) -> list[Tensor]:
    """One step of one layer: PyTorch's documented equations."""
    given, own = w_x @ x + b_x, w_h @ state[0] + b_h
    if len(state) == 2:
        into, forget, candidate, out = (given + own).chunk(4)
        memory = forget.sigmoid() * state[1] + into.sigmoid() * candidate.tanh()
        return [out.sigmoid() * memory.tanh(), memory]
    (reset_x, update_x, new_x), (reset_h, update_h, new_h) = given.chunk(3), own.chunk(3)
    update = (update_x + update_h).sigmoid()
    new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
    return [(1 - update) * new + update * state[0]]


def layers(weights: list[Tensor], x: Tensor, states: list[list[Tensor]]) -> tuple[Tensor, list[list[Tensor]]]:
    """weights: four of each layer, in PyTorch's order."""
    after = []
    for layer, state in enumerate(states):
        after.append(step(*weights[4 * layer : 4 * layer + 4], x, state))
        x = after[-1][0]
    return x, after


def plain_logits(model: RecurrentCaptioner, features: Tensor, tokens: list[int]) -> Tensor:
    """Logits [len(tokens) + 1, V] after the start token and each of `tokens`, for the video `features` [T, D]."""
    config, reader, writer = model.config, model.reader, model.writer
    parts = 2 if config.cell == "lstm" else 1
    states = [[torch.zeros(config.width) for _ in range(parts)] for _ in range(config.layers)]
    frames = []
    for feature in features:
        normed = F.layer_norm(feature, feature.shape, reader.norm.weight, reader.norm.bias)
        x = normed if config.head_dim is None else reader.head.weight @ normed + reader.head.bias
        out, states = layers(list(reader.rnn.parameters()), x, states)
        frames.append(out)
    rows = []
    for token in [config.vocabulary_size, *tokens]:
        x, seen = writer.embedding.weight[token], []
        if writer.attention is not None:
            look, query = writer.attention, states[-1][0]
            scores = [
                look.score.weight[0] @ torch.tanh(look.query.weight @ query + look.query.bias + look.key.weight @ frame)
                for frame in frames
            ]
            shares = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
            seen = [sum(share * frame for share, frame in zip(shares, frames, strict=True))]
        out, states = layers(list(writer.cells.parameters()), torch.cat([x, *seen]), states)
        hidden = torch.tanh(writer.project.weight @ torch.cat([out, *seen]) + writer.project.bias)
        words = writer.embedding.weight[:-1] if config.tied else writer.output
        logits = words @ hidden + writer.bias
        logits = logits.masked_fill(torch.arange(len(logits)) == model.tokenizer.unk_token_id, float("-inf"))
        rows.append(logits)
    return torch.stack(rows)


def encoded(model: RecurrentCaptioner, numbers: list[int]) -> list[list[list[int]]]:
    captions = [[model.encode_caption(text, 40) for text in captions_of(number)] for number in numbers]
    captions[0].insert(1, [model.tokenizer.eos_token_id])  # nothing but an end, between two others
    return captions


@every_kind
def test_packed_loss_and_gradients_are_those_of_the_equations(kind: dict[str, Any]) -> None:
    """Videos of different lengths and captions of different lengths, in one batch."""
    model = build(**kind)
    numbers = [0, 5, 3]
    videos, captions = [features_of(number) for number in numbers], encoded(model, numbers)
    assert len({len(video) for video in videos}) > 1

    def plain() -> Tensor:
        losses = [
            F.cross_entropy(
                plain_logits(model, torch.from_numpy(video), tokens[:-1]), torch.tensor(tokens), reduction="none"
            )
            for video, own in zip(videos, captions, strict=True)
            for tokens in own
        ]
        return torch.cat(losses).mean()

    results = []
    for compute in (lambda: model(pack(videos, captions)), plain):
        model.zero_grad()
        loss = compute()
        loss.backward()
        results.append(
            (loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        )
    (packed, gradients), (expected, expected_gradients) = results
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)
    assert gradients.keys() == expected_gradients.keys() == dict(model.named_parameters()).keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


@every_kind
def test_stepping_gives_the_logits_of_teacher_forcing(kind: dict[str, Any]) -> None:
    """Random walks over lanes: parents swapped, doubled and dropped, videos leaving; every logit recomputed plainly."""
    model = build(**kind)
    generator = torch.Generator().manual_seed(0)
    videos = [torch.from_numpy(features_of(number)) for number in range(4)]
    with torch.no_grad():
        state = model.start(*stack_features([video.numpy() for video in videos]), 12)
        logits = state.begin()[:, None]
        history: list[list[list[int]]] = [[[]] for _ in range(4)]
        for step in range(6):
            for row, lanes in enumerate(history):
                for lane, tokens in enumerate(lanes):
                    torch.testing.assert_close(
                        logits[row, lane], plain_logits(model, videos[row], tokens)[-1], atol=1e-5, rtol=1e-4
                    )
            if step in (2, 4):
                kept = torch.tensor([0, 2, 3] if step == 2 else [1])
                state.keep(kept)
                videos, history = [videos[row] for row in kept], [history[row] for row in kept.tolist()]
            shape = (len(history), 3)
            parents = torch.randint(3 if step else 1, shape, generator=generator)
            tokens = torch.randint(model.config.vocabulary_size, shape, generator=generator)
            history = [
                [[*history[row][parents[row, lane]], int(tokens[row, lane])] for lane in range(3)]
                for row in range(len(history))
            ]
            logits = state.step(tokens, parents)


@every_kind
@pytest.mark.parametrize("mode", ["beam", "greedy", "sample"])
def test_a_video_alone_gets_the_captions_that_it_gets_in_a_batch(kind: dict[str, Any], mode: str) -> None:
    model = build(seed=3, **kind)
    options: dict[str, Any] = {"beam": {"num_return": 3}, "greedy": {}, "sample": {"sample": True, "num_return": 2}}[
        mode
    ]
    settings = DecodingSettings(entry_length=8, use_beam_search=mode == "beam", **options)
    videos = [features_of(number) for number in range(6)]
    keys = [str(number) for number in range(6)]
    together = decode(model.start(*stack_features(videos), 8), 6, model.stop_tokens, settings, video_keys=keys)
    for video, key, expected in zip(videos, keys, together, strict=True):
        (alone,) = decode(model.start(*stack_features([video]), 8), 1, model.stop_tokens, settings, video_keys=[key])
        assert [found.tokens for found in alone] == [found.tokens for found in expected]
        assert [found.logprob for found in alone] == pytest.approx([found.logprob for found in expected], abs=1e-4)


@pytest.mark.parametrize("attention", ["none", "additive"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_wide_enough_finds_the_best_of_all_captions(attention: str, length_penalty: float) -> None:
    model = build(seed=1, captions=["a b c"], attention=attention)  # </s>, <unk>, a, b, c
    words, end, longest = [2, 3, 4], model.tokenizer.eos_token_id, 4
    features = features_of(2)
    scored = []
    with torch.no_grad():
        for count in range(longest + 1):
            for tokens in itertools.product(words, repeat=count):
                ids = torch.tensor([*tokens, end])
                rows = plain_logits(model, torch.from_numpy(features), list(tokens)).log_softmax(-1)
                total = rows[torch.arange(len(ids)), ids].sum().item()
                # At the bound, only those end whose likeliest next token is the end (step 6 of the rule).
                ended = count < longest or int(rows[-1].argmax()) == end
                scored.append((ended, total / len(ids) ** length_penalty, list(tokens)))
        settings = DecodingSettings(
            entry_length=longest, beam_size=2 * 3**longest, num_return=5, length_penalty=length_penalty
        )
        (found,) = decode(model.start(*stack_features([features]), longest), 1, [end], settings)
    best = sorted(scored, reverse=True)[:5]
    assert [hypothesis.tokens for hypothesis in found] == [tokens for _, _, tokens in best]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for _, score, _ in best], abs=1e-5)


def test_attention_weights_sum_to_one_over_the_real_frames() -> None:
    model = build()
    attention = model.writer.attention
    assert attention is not None
    features, mask = stack_features([features_of(number) for number in range(4)])
    counts = mask.sum(1)
    assert counts.unique().numel() > 1
    frames, _ = model.reader(features, mask)
    frames[~mask] = 1e4  # what padding holds must not matter
    hidden = torch.randn(4, 10)
    context, weights = attention(hidden, model.writer.look(frames, mask))
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    assert (weights[~mask] == 0).all()
    assert (weights[mask] > 0).all()
    for row, count in enumerate(counts.tolist()):
        alone = model.writer.look(frames[row : row + 1, :count], mask[row : row + 1, :count])
        own_context, own_weights = attention(hidden[row : row + 1], alone)
        torch.testing.assert_close(context[row], own_context[0])
        torch.testing.assert_close(weights[row, :count], own_weights[0])


@pytest.mark.parametrize("attention", ["none", "additive"])
def test_the_order_of_frames_matters(attention: str) -> None:
    model = build(attention=attention)
    features, mask = stack_features([features_of(3, frames=5)])
    forward, backward = (model.start(order, mask, 5).begin() for order in (features, features.flip(1)))
    assert (forward - backward)[0, 2:].abs().max() > 0.01


def test_unknown_words_are_read_but_never_written_or_learned() -> None:
    model = build()
    unknown = model.tokenizer.unk_token_id
    tokens = model.encode_caption("a zebra is riding a horse", 40)
    assert tokens[1] == unknown == model.ignored_label
    batch = pack([features_of(0)], [[tokens]], model.ignored_label)
    assert unknown in batch.tokens
    assert unknown not in batch.labels
    model.writer.bias.data[unknown] = 1e4  # the likeliest by far, were it possible
    state = model.start(*stack_features([features_of(0)]), 5)
    logits = state.begin()
    assert logits[0, unknown] == float("-inf")
    assert logits.softmax(-1).sum().item() == pytest.approx(1)
    settings = DecodingSettings(entry_length=6, use_beam_search=False, sample=True, num_return=40, temperature=3.0)
    (found,) = decode(model.start(*stack_features([features_of(0)]), 6), 1, model.stop_tokens, settings)
    assert all(unknown not in hypothesis.tokens for hypothesis in found)
    assert len({tuple(hypothesis.tokens) for hypothesis in found}) > 20


def test_label_smoothing_is_pytorchs_over_the_words_that_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    features = features_of(2)
    tokens = model.encode_caption("a dog plays with a ball", 40)
    possible = [word for word in range(model.vocabulary_size) if word != model.tokenizer.unk_token_id]
    logits = plain_logits(model, torch.from_numpy(features), tokens[:-1])[:, possible]
    labels = torch.tensor([possible.index(token) for token in tokens])
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    batch = pack([features], [[tokens]])
    torch.testing.assert_close(model(batch, label_smoothing=0.1), expected)
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 2 * model.vocabulary_size)  # in pieces of two rows
    torch.testing.assert_close(model(batch, label_smoothing=0.1), expected)


def test_a_caption_that_is_longer_is_cut_and_has_no_end() -> None:
    model = build()
    end = model.tokenizer.eos_token_id
    assert model.encode_caption("A man, riding.", 3)[3:] == [end]
    assert end not in model.encode_caption("a man is riding a horse", 3)
    assert model.decode_tokens(model.encode_caption("A man is   RIDING a horse!", 40)) == "a man is riding a horse"


@pytest.mark.parametrize(
    "changes", [{"cell": "rnn"}, {"attention": "dot"}, {"width": 0}, {"head_dim": 0}], ids=lambda c: next(iter(c))
)
def test_configurations_without_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ClipcapError, match=next(iter(changes))):
        RecurrentConfig(WIDTH, 6, 20, **changes)
