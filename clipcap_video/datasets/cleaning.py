"""Training captions that are known to be wrong English, put right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from clipcap_video.datasets.records import Texts, VideoRecord

_VERB = r"(?:is|are|was|were)\s"
_NOUN_PHRASE = rf"((?:(?!{_VERB}|(?:who|that|which|where|and|or)\s)[^\s,]+\s+){{1,8}}?)"
_VERB_TWICE = re.compile(rf"\s*there\s+{_VERB}\s*{_NOUN_PHRASE}({_VERB}.*)", re.IGNORECASE | re.DOTALL)


def fix_caption(caption: str) -> str:
    """A caption that has its verb twice without the first: "there is a man is talking" is "a man is talking".

    One of MSR-VTT's annotators wrote so. It is half a hundredth of its captions, but they share so many n-grams with
    others that whoever looks for agreement (a consensus network, CIDEr) comes to prefer them.
    """
    match = _VERB_TWICE.fullmatch(caption)
    if match is None:
        return caption
    fixed = match[1] + match[2]
    return fixed[0].upper() + fixed[1:] if caption.lstrip()[0].isupper() else fixed


def plain_caption(caption: str) -> str:
    """A caption as MSR-VTT's are: in lower case, and without a full stop at its end."""
    return caption.lower().rstrip(" .")


def fix_captions(records: Iterable[VideoRecord], fix: Callable[[str], str] = fix_caption) -> list[VideoRecord]:
    """The records with each caption as `fix` has it. Texts, which are in no memory yet, come out so later."""
    return [record if _fixed_later(record, fix) else replace(record, captions=list(map(fix, record.captions)))
            for record in records]  # fmt: skip


def _fixed_later(record: VideoRecord, fix: Callable[[str], str]) -> bool:
    if isinstance(record.captions, Texts):
        before = record.captions.fix
        record.captions.fix = fix if before is None else lambda text: fix(before(text))
    return isinstance(record.captions, Texts)
