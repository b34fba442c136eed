"""What a recurrent captioner writes with: a vocabulary of whole words, or a subword tokenizer from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipcap_video.errors import ClipcapError
from clipcap_video.files import reading
from clipcap_video.models.language_model import quiet_transformers
from clipcap_video.network import try_hub_once

END, UNKNOWN = "</s>", "<unk>"
# A word is letters and digits, with apostrophes and hyphens inside; all else separates words and is dropped.
WORD = r"[\p{L}\p{M}\p{N}_]+(?:['’\-][\p{L}\p{M}\p{N}_]+)*"


def word_tokenizer(captions: Iterable[str], min_count: int) -> Any:
    """A tokenizer of the words that occur at least `min_count` times in `captions`, in lower case.

    Id 0 ends a caption, id 1 stands for every other word, then come the words, frequent ones first.
    Raises ClipcapError when no word is frequent enough.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    quiet_transformers()
    tokenizer = Tokenizer(models.WordLevel({END: 0, UNKNOWN: 1}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    counts: Counter[str] = Counter()
    for caption in captions:
        text = tokenizer.normalizer.normalize_str(caption)
        counts.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    frequent = (word for word, count in counts.items() if count >= min_count)
    words = sorted(frequent, key=lambda word: (-counts[word], word))
    if not words:
        raise ClipcapError(f"no word occurs {min_count} times in the training captions; lower --min_count")
    ids = {word: number for number, word in enumerate([END, UNKNOWN, *words])}
    tokenizer.model = models.WordLevel(ids, unk_token=UNKNOWN)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )


def subword_tokenizer(name: str) -> Any:
    """The tokenizer of a Hugging Face name, of a local folder (of a language model, say) or in a `tokenizer.json`.

    Raises ClipcapError when it cannot be had or has no end-of-text token.
    """
    quiet_transformers()
    from transformers import AutoTokenizer

    folder = Path(name).parent if Path(name).is_file() else name
    remedy = "give --tokenizer a Hugging Face name or the folder of a language model, or leave it out for words"
    with reading(folder, "the tokenizer", remedy):
        if not Path(folder).exists():
            try_hub_once()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.eos_token_id is None and tokenizer.sep_token is not None:
        tokenizer.eos_token = tokenizer.sep_token  # BERT's kind ends texts in [SEP]
    if tokenizer.eos_token_id is None:
        raise ClipcapError(f"tokenizer {name!r} has no end-of-text token; captions could not end")
    return tokenizer
