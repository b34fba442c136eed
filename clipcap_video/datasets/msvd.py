"""MSVD (Microsoft Research Video Description Corpus, also "YouTube2Text"), in each form that its captions go by.

Chen and Dolan, "Collecting Highly Parallel Data for Paraphrase Evaluation", ACL 2011: 1,970 clips with some 41
English captions each, clip ids VIDEO_START_END. The captions: video_corpus.csv ("MSR Video Description Corpus.csv",
all languages), AllVideoDescriptions.txt (English), raw-captions.pkl (tokenised, as CLIP4Clip reads it). The split into
1,200, 100 and 670 is that of Venugopalan et al., "Translating Videos to Natural Language" (NAACL 2015): the order of
youtube_mapping.txt, or train_list.txt, val_list.txt and test_list.txt.
"""

from __future__ import annotations

import re
from typing import Any

from clipcap_video.datasets.records import Listing, VideoRecord
from clipcap_video.datasets.source import Source
from clipcap_video.errors import ClipcapError

LAST_TRAIN, LAST_VALIDATE, LAST_TEST = 1200, 1300, 1970
_MAPPING = re.compile(r"(\S+)\s+(vid(\d+))")
_DESCRIPTION = re.compile(r"(\S+_\d+_\d+)\s+(.+)")


def matches(source: Source) -> bool:
    if source.content is not None:
        return not source.text and _is_token_lists(source.content)
    if {"videoid", "start", "end", "description"} <= set(source.columns()):
        return True
    return any(form.fullmatch(line) for line in source.lines()[:1] for form in (_MAPPING, _DESCRIPTION))


def read(source: Source) -> list[VideoRecord] | Listing:
    """Clips in order of first appearance with English captions, of no split; or the split, of youtube_mapping.txt."""
    if source.content is not None:
        return [
            VideoRecord(clip, "", [_joined(source, clip, words) for words in captions])
            for clip, captions in source.content.items()
        ]
    if source.columns()[0] != "videoid":
        first = source.lines()[0]
        return _read_mapping(source) if _MAPPING.fullmatch(first) else _read_descriptions(source)
    captions: dict[str, list[str]] = {}
    for where, row in source.rows():
        if str(row.get("language", "English")).strip().lower() != "english":
            continue
        clip = "_".join(str(row.get(name, "")).strip() for name in ("videoid", "start", "end"))
        if not re.fullmatch(r".+_\d+_\d+", clip):
            raise ClipcapError(f"{source.path}, {where} lacks VideoID, Start or End; add them or remove the line")
        captions.setdefault(clip, []).append(row.get("description") or "")
    return [VideoRecord(clip, "", texts) for clip, texts in captions.items()]


def _is_token_lists(content: Any) -> bool:
    """Whether content is {clip: [caption, ...]}, a caption being a list of words, or a text."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(clip, str) and isinstance(captions, list) for clip, captions in content.items())
    )


def _joined(source: Source, clip: str, words: Any) -> str:
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        return " ".join(words)
    if isinstance(words, str):
        return words
    raise ClipcapError(f"{source.path}: a caption of {clip!r} is neither a text nor a list of words; fix the file")


def _read_descriptions(source: Source) -> list[VideoRecord]:
    captions: dict[str, list[str]] = {}
    for line in source.lines():
        match = _DESCRIPTION.fullmatch(line)
        if match is None:
            raise ClipcapError(
                f"{source.path}: the line {line[:60]!r} is not a clip id (VIDEO_START_END) and a caption"
            )
        captions.setdefault(match[1], []).append(match[2])
    return [VideoRecord(clip, "", texts) for clip, texts in captions.items()]


def _read_mapping(source: Source) -> Listing:
    records = []
    for line in source.lines():
        match = _MAPPING.fullmatch(line)
        number = int(match[3]) if match else 0
        if match is None or not 1 <= number <= LAST_TEST:
            raise ClipcapError(
                f"{source.path}: the line {line[:60]!r} is not a clip id and one of vid1 to vid{LAST_TEST}"
            )
        split = "train" if number <= LAST_TRAIN else "validate" if number <= LAST_VALIDATE else "test"
        records.append(VideoRecord(match[1], split, aliases=(match[2],)))
    return Listing(records)
