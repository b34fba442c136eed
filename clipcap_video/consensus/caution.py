"""Forms of a caption that say less and so are right more often: shorter and more general ones. The rules are English.

A form leaves one run of words out (what follows the verb, or an adjective of the subject), or puts "someone" in the
place of a single person. Its grammar is that of the training captions: at the seam, every two and three words stand
side by side in some n-gram of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from clipcap_video.metrics.cider import END

Words = tuple[str, ...]
_FUNCTION_WORDS = """
a an the this that these those some any each every another other of in on at to from by with without for into onto over
under about around through near behind before after up down out off along across between among inside outside while as
and or but so then than there here is are was were be been being am do does did has have having had can could will would
may might it its he she they him his her their himself herself themselves someone somebody something who whom which what
where when how not no very i me my we us our you your 's
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
AUXILIARIES = frozenset(("is", "are", "was", "were"))
DETERMINERS = frozenset(("a", "an", "the", "two", "three", "some", "several", "many", "his", "her", "their"))
PERSONS = frozenset(
    ("man", "woman", "person", "boy", "girl", "lady", "guy", "child", "kid", "player", "chef", "singer", "model")
)
ENDINGS = ("ings", "ing", "ers", "er", "ies", "ied", "ed", "es", "s", "y")
# Nats: the rarities of a shortened caption's words add up to more, for "someone is playing" says nothing.
LEAST_SAID = 2.0


def content_words(words: Sequence[str]) -> list[str]:
    """Words that say something of a video: all but articles, pronouns, prepositions and the like."""
    return [word for word in words if word not in FUNCTION_WORDS and word != END]


def stem(word: str) -> str:
    """A word without its ending, so that "talks" and "talking" are one."""
    word = word.removesuffix("'s")
    ending = next((one for one in ENDINGS if word.endswith(one) and len(word) - len(one) >= 3), "")
    word = word.removesuffix(ending)
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sl":
        word = word[:-1]
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def all_right(words: Sequence[str], references: Sequence[Sequence[str]]) -> bool:
    """Whether every content word of a caption is in one of its references, endings left out; it has one at least."""
    said = {stem(word) for reference in references for word in reference}
    content = content_words(words)
    return bool(content) and all(stem(word) in said for word in content)


def cautious_forms(
    captions: Sequence[Words], known: Collection[Words], rarity: Callable[[str], float]
) -> Iterator[Words]:
    """Forms of captions that are not among them.

    captions: words by `caption_words`, END included. known: the n-grams of the table. rarity: of a word, in nats.
    """
    given = set(captions)
    for caption in captions:
        shortened = [form for form in _shortened(caption, known) if _says_enough(form, rarity)]
        general = [form for whole in (caption, *shortened) if (form := _of_someone(whole, known)) is not None]
        general = general[:1] + [form for form in general[1:] if _says_enough(form, rarity)]
        for form in (*shortened, *general):
            if form not in given:
                given.add(form)
                yield form


def _says_enough(words: Words, rarity: Callable[[str], float]) -> bool:
    return sum(map(rarity, set(content_words(words)))) > LEAST_SAID


def _shortened(words: Words, known: Collection[Words]) -> Iterator[Words]:
    verb = _verb(words)
    if verb is None:
        return
    for start in range(1, len(words) - 1):
        for end in range(start + 1, len(words)):
            if start <= verb:
                adjective = end == start + 1 and end < verb and words[start - 1] in DETERMINERS
                if not adjective or FUNCTION_WORDS & {words[start], words[end]}:
                    continue
            elif start == verb + 1 and words[verb] in AUXILIARIES:
                continue  # "a man is"
            form = words[:start] + words[end:]
            if len(form) >= 4 and _joins(form, start, known):
                yield form


def _verb(words: Words) -> int | None:
    """Where the verb begins: its auxiliary, or the word before one in -ing, or before one in -s."""
    for place, word in enumerate(words):
        if word in AUXILIARIES:
            return place
    for place, word in enumerate(words[1:], 1):
        if word.endswith("ing"):
            return place - 1
    for place, word in enumerate(words[1:-1], 1):
        if word.endswith("s") and word not in FUNCTION_WORDS:
            return place - 1
    return None


def _joins(words: Words, seam: int, known: Collection[Words]) -> bool:
    """Whether all runs of two and three words across the seam, which is before `words[seam]`, are known."""
    pairs, triples = [seam - 1], [start for start in (seam - 2, seam - 1) if 0 <= start <= len(words) - 3]
    runs = [words[start : start + 2] for start in pairs] + [words[start : start + 3] for start in triples]
    return all(run in known for run in runs)


def _of_someone(words: Words, known: Collection[Words]) -> Words | None:
    """ "a young man is cooking" and "a man cooking" -> "someone is cooking"."""
    for subject in (2, 3):
        verb = words[subject] if len(words) > subject + 2 else ""
        if words[0] not in ("a", "an", "the") or words[subject - 1] not in PERSONS or ("someone", "is") not in known:
            continue
        if verb in ("is", "was"):
            return ("someone", *words[subject:])
        if verb.endswith("ing"):
            return ("someone", "is", *words[subject:])
    return None
