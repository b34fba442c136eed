from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import clipcap_video.models.loss as loss_module
from clipcap_video.captioning.captioner import Captioner
from clipcap_video.decoding import DecodingSettings
from clipcap_video.decoding.search import decode
from clipcap_video.devices import has_fast_bf16
from clipcap_video.errors import ClipcapError
from clipcap_video.features.base import stack_features
from clipcap_video.models.language_model import check_usable, digest_language_model, load_language_model
from clipcap_video.models.mapping import MAPPING_NETWORKS
from clipcap_video.models.mapping.base import MappingConfig
from clipcap_video.models.packing import pack, packed_attention
from clipcap_video.models.prefix import CaptionerConfig, PrefixCaptioner
from tests.decoding_models import clipcap_beam
from tests.tiny import WIDTH, captions_of, features_of


def build(
    tiny_lm: Path, mapping_type: str = "transformer", only_prefix: bool = True, llama: bool = False
) -> PrefixCaptioner:
    language_model, tokenizer = load_language_model(str(tiny_lm))
    torch.manual_seed(1)
    if llama:
        config = LlamaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=48, vocab_size=len(tokenizer), max_position_embeddings=128,
        )  # fmt: skip
        language_model = LlamaForCausalLM(config).eval()
    mapping = MappingConfig(mapping_type, WIDTH, 32, 5, 6, num_layers=2)
    digest = digest_language_model(language_model)
    return PrefixCaptioner(CaptionerConfig(mapping, "tiny", digest, only_prefix), language_model, tokenizer).eval()


def batch_of(model: PrefixCaptioner, numbers: list[int]) -> tuple[list[np.ndarray], list[list[list[int]]]]:
    captions = [[model.encode_caption(text, 40) for text in captions_of(number)] for number in numbers]
    captions[0].append([model.tokenizer.eos_token_id])  # an empty caption is an end token alone
    return [features_of(number) for number in numbers], captions


def row_a_caption(model: PrefixCaptioner, videos: list[np.ndarray], captions: list[list[list[int]]]) -> torch.Tensor:
    """The plain computation: every caption behind a prefix of its own, all logits, mean over all tokens."""
    losses = []
    for video, own in zip(videos, captions, strict=True):
        features, mask = stack_features([video])
        for tokens in own:
            prefix = model.mapping(features, mask)
            ids = torch.tensor([tokens])
            embedded = torch.cat([prefix, model.language_model.get_input_embeddings()(ids)], dim=1)
            logits = model.language_model(inputs_embeds=embedded).logits[0, prefix.shape[1] - 1 : -1]
            losses.append(F.cross_entropy(logits, ids[0], reduction="none"))
    return torch.cat(losses).mean()


@pytest.mark.parametrize("llama", [False, True], ids=["gpt2", "llama"])
@pytest.mark.parametrize("mapping_type", list(MAPPING_NETWORKS))
def test_packed_loss_and_gradients_equal_one_row_a_caption(tiny_lm: Path, mapping_type: str, llama: bool) -> None:
    model = build(tiny_lm, mapping_type, only_prefix=False, llama=llama)
    videos, captions = batch_of(model, [0, 5, 3])
    results = []
    for compute in (lambda: model(pack(videos, captions)), lambda: row_a_caption(model, videos, captions)):
        model.zero_grad()
        loss = compute()
        loss.backward()
        results.append(
            (
                loss.detach(),
                {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None},
            )
        )
    (packed, packed_gradients), (plain, plain_gradients) = results
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)
    assert packed_gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_logits_in_pieces_give_the_same_loss_and_gradients(tiny_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(tiny_lm, only_prefix=False)
    batch = pack(*batch_of(model, [0, 5, 3]))
    results = []
    for at_once in (2**26, 7 * model.language_model.config.vocab_size):
        monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once)
        model.zero_grad()
        loss = model(batch, label_smoothing=0.1)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((loss.detach(), gradients))
    torch.testing.assert_close(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("change", [{"sliding_window": 8}, {"_attn_implementation": "eager"}])
def test_models_whose_attention_takes_no_such_masks_are_refused(tiny_lm: Path, change: dict[str, object]) -> None:
    language_model, _ = load_language_model(str(tiny_lm))
    for name, value in change.items():
        setattr(language_model.config, name, value)
    with pytest.raises(ClipcapError, match="cannot be a decoder here: its attention"):
        check_usable("some-model", language_model)


def test_label_smoothing_equals_pytorchs(tiny_lm: Path) -> None:
    model = build(tiny_lm)
    features, captions = batch_of(model, [2])
    one = [captions[0][:1]]
    prefix = model.mapping(*stack_features(features))
    ids = torch.tensor(one[0])
    embedded = torch.cat([prefix, model.language_model.get_input_embeddings()(ids)], dim=1)
    logits = model.language_model(inputs_embeds=embedded).logits[0, 4:-1]
    expected = F.cross_entropy(logits, ids[0], label_smoothing=0.1)
    torch.testing.assert_close(model(pack(features, one), label_smoothing=0.1), expected)


def test_packed_attention_by_definition() -> None:
    caption = torch.tensor([[0, 0, 1, -1]])
    position = torch.tensor([[0, 1, 0, 0]])
    allowed = packed_attention(caption, position, 2)[0].int().tolist()
    assert allowed == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("llama", [False, True], ids=["gpt2", "llama"])
def test_cached_lanes_give_the_logits_of_whole_sequences(tiny_lm: Path, llama: bool) -> None:
    """Random walks over lanes: parents swapped, doubled and dropped, videos leaving; every logit recomputed plainly."""
    model = build(tiny_lm, llama=llama)
    rng = np.random.default_rng(0)
    features, mask = stack_features([features_of(number) for number in range(4)])
    with torch.no_grad():
        prefixes = model.mapping(features, mask)
        state = model.start(features, mask, 12)
        logits = state.begin()[:, None]
        history: list[list[list[int]]] = [[[]] for _ in range(4)]
        for step in range(10):
            for row, lanes in enumerate(history):
                for lane, tokens in enumerate(lanes):
                    embedded = prefixes[row : row + 1]
                    if tokens:
                        own = model.language_model.get_input_embeddings()(torch.tensor([tokens]))
                        embedded = torch.cat([embedded, own], dim=1)
                    expected = model.language_model(inputs_embeds=embedded).logits[0, -1]
                    torch.testing.assert_close(logits[row, lane], expected, atol=1e-5, rtol=1e-4)
            if step in (3, 6):
                kept = torch.tensor([0, 2, 3] if step == 3 else [1])
                state.keep(kept)
                prefixes, history = prefixes[kept], [history[row] for row in kept.tolist()]
            parents = rng.integers(0, 3 if step else 1, size=(len(history), 3))
            tokens = rng.integers(0, len(model.tokenizer), size=(len(history), 3))
            history = [
                [[*history[row][parents[row, lane]], int(tokens[row, lane])] for lane in range(3)]
                for row in range(len(history))
            ]
            logits = state.step(torch.from_numpy(tokens), torch.from_numpy(parents))


def test_beams_of_random_models_are_those_of_the_clipcap_program(tiny_lm: Path) -> None:
    """Batched and cached here, one video at a time and uncached there: 40 models of three videos each."""
    model = build(tiny_lm)
    object.__setattr__(model.config, "stop_text", ".")
    (stop,) = model.stop_tokens
    features, mask = stack_features([features_of(number) for number in range(3)])
    settings = DecodingSettings(entry_length=6, beam_size=4, num_return=4, complete=False)
    embed = model.language_model.get_input_embeddings()
    stopped = 0
    for seed in range(40):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.3)
        # A stop token that is often likely, and a vocabulary small enough for beams to meet.
        bias = torch.full((len(model.tokenizer),), -20.0)
        bias[range(20, 26)] = 0.0
        bias[stop] = 2.0
        model.language_model.get_output_embeddings().bias = torch.nn.Parameter(bias)
        with torch.no_grad():
            found = decode(model.start(features, mask, 6), 3, [stop], settings)
            prefixes = model.mapping(features, mask)

            def logits_of(tokens: tuple[int, ...], row: int) -> torch.Tensor:
                own = embed(torch.tensor([tokens], dtype=torch.int64))
                whole = torch.cat([prefixes[row : row + 1], own], dim=1)  # noqa: B023
                return model.language_model(inputs_embeds=whole).logits[0, -1]

            for row, hypotheses in enumerate(found):
                expected = clipcap_beam(partial(logits_of, row=row), 4, 6, stop)
                got = [h.tokens + ([stop] if h.ended else []) for h in hypotheses]
                assert got == [tokens for tokens, _ in expected]
                assert [h.score for h in hypotheses] == pytest.approx([score for _, score in expected], abs=1e-4)
                stopped += sum(h.ended for h in hypotheses)
    assert 50 < stopped < 40 * 3 * 4


def test_the_clipcap_convention_of_captions(tiny_lm: Path) -> None:
    model = build(tiny_lm)
    whole = model.encode_caption("a man sings.", 40)
    object.__setattr__(model.config, "stop_text", ".")
    assert model.encode_caption("a man sings.", 40) == whole[:-1]
    assert model.encode_caption("a man sings.", 2) == whole[:2]
    assert model.stop_tokens == model.tokenizer(".")["input_ids"][:1]
    assert model.decode_tokens(whole[:-2], whole[-2]) == model.tokenizer.decode(whole[:-1])
    # Token 0 is read, so that what follows it is predicted behind it, but it is not predicted itself.
    captions = [[[5, 0, 7, 0]], [[0, 6]]]
    batch = pack([features_of(0), features_of(1)], captions, model.ignored_label)
    assert batch.labels.tolist() == [5, 7, 6]
    assert batch.tokens.tolist() == [[5, 0, 7], [0, 0, 0]]
    assert batch.label_column.tolist() == [-1, 1, 0]
    rows = []
    for video, (tokens,) in zip([features_of(0), features_of(1)], captions, strict=True):
        ids = torch.tensor([tokens])
        embedded = torch.cat(
            [model.mapping(*stack_features([video])), model.language_model.get_input_embeddings()(ids)], dim=1
        )
        logits = model.language_model(inputs_embeds=embedded).logits[0, 4:-1]
        rows.append(F.cross_entropy(logits, ids[0], ignore_index=0, reduction="sum"))
    torch.testing.assert_close(model(batch), sum(rows) / 3)


def test_frozen_language_model_gets_no_gradient_and_stays_in_eval_mode(tiny_lm: Path) -> None:
    model = build(tiny_lm, only_prefix=True).train()
    model(pack(*batch_of(model, [1, 2]))).backward()
    assert model.mapping.training
    assert not any(module.training for module in model.language_model.modules())
    assert all(parameter.grad is None for parameter in model.language_model.parameters())
    assert all(parameter.grad is not None for parameter in model.mapping.parameters())


def test_captions_end_in_the_end_token_unless_cut(tiny_lm: Path) -> None:
    model = build(tiny_lm)
    end = model.tokenizer.eos_token_id
    assert model.encode_caption("a man is riding", 4)[4:] == [end]
    cut = model.encode_caption("a man is riding a horse outside", 3)
    assert len(cut) == 3
    assert end not in cut
    assert model.decode_tokens(model.encode_caption("two boys  sing", 40)) == "two boys sing"


def test_padding_is_never_a_label(tiny_lm: Path) -> None:
    model = build(tiny_lm)
    videos, captions = batch_of(model, [0, 1, 2])
    batch = pack(videos, captions)
    flat = [token for own in captions for tokens in own for token in tokens]
    assert batch.labels.tolist() == flat
    read = batch.tokens[batch.caption >= 0].tolist()
    assert read == [token for own in captions for tokens in own for token in tokens[:-1]]


def test_entry_length_beyond_the_positions_is_refused(tiny_lm: Path) -> None:
    model = build(tiny_lm)
    features, mask = stack_features([features_of(0)])
    with pytest.raises(ClipcapError, match="256 positions"):
        model.start(features, mask, 300)


@pytest.mark.skipif(not has_fast_bf16(torch.device("cpu")), reason="bf16 products are emulated here")
def test_a_caption_is_the_same_to_the_bit_whatever_it_is_batched_with() -> None:
    captioner = Captioner.from_pretrained(device="cpu")
    assert captioner.precision == "bf16"
    random = np.random.default_rng(0)
    videos = [random.normal(size=(1 + number % 8, 1280)).astype(np.float32) for number in range(5)]
    names = list("abcde")
    together = captioner.caption_features(videos, keys=names)
    alone = [captioner.caption_features([video], keys=[name])[0] for video, name in zip(videos, names, strict=True)]
    assert alone == together


def test_captions_do_not_wait_for_what_they_do_not_need() -> None:
    """CLIP's package, its torchvision and torch's compiler take a second to import."""
    heavy = ("clip", "torchvision", "torch._dynamo", "accelerate", "matplotlib")
    code = f"import sys, clipcap_video.captioning.captioner; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
