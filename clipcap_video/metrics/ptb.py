"""Penn Treebank tokenisation of captions without Java.

The official caption metrics tokenise with the PTBTokenizer of Stanford CoreNLP 3.4.1 (`-preserveLines
-lowerCase`) and then drop the punctuation tokens listed in `PUNCTUATION`. This is a rendering of what that
program does to captions, written from its outputs; the tests compare the two. Where they differ the input is
hardly a caption: long dotted figures, rare emoticons, scripts other than Latin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# As in the official evaluation. Its "-LRB-" and its kin never match, for tokens are lower-cased before they
# are compared: round brackets do count as words ("-lrb-"). Published scores include this, so it is kept.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

_SPLIT = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "lemme": "lem me",
    "gimme": "gim me",
}

# A full stop after these belongs to the word.
_ABBREVIATIONS = (
    r"adj|adm|adv|al|ala|alex|apr|ariz|assn|assoc|asst|aug|ave|bancorp|bldg|blvd|bros|calif|capt|"
    r"cf|cie|cmdr|co|col|colo|comdr|conn|corp|cos|cpl|ct|dak|dec|dept|det|dr|elec|esq|est|etc|ext|"
    r"feb|fla|fri|ft|ga|gen|gov|hon|inc|ind|insp|intl|invt|jan|jos|jr|jul|jun|kan|kans|ky|lt|ltd|"
    r"maj|mar|md|messrs|mfg|mich|minn|mlle|mme|mo|mon|mont|mr|mrs|ms|mt|natl|neb|nev|nov|oct|okla|"
    r"penn|pfc|ph\.d|plc|pres|prof|pty|pvt|rd|rep|reps|rev|rt|sen|sens|sep|sept|sgt|sq|sr|st|ste|"
    r"supt|tel|tenn|thu|thurs|treas|tue|tues|univ|va|vs|vt|wed|wis|wm|wyo"
)
_STATES = "Ark|ARK|Del|DEL|Ill|ILL|La|LA|Mass|MASS|Miss|MISS|Ore|ORE|Pa|PA|Tex|TEX|Wash|WASH"
_BEFORE_FIGURES = "art|ca|fig|figs|no|nos|op|pp|prop"
# "plan b. The ..." ends a sentence; "J. Smith" does not.
_SENTENCE_STARTS = (
    "A|After|An|As|At|But|He|Her|Here|However|If|In|It|Last|Many|Now|One|Other|Our|She|Since|So|Some|Such|"
    "That|The|Their|Then|There|These|They|This|We|What|When|While|You"
)

_L = r"[^\W\d_]"  # a letter
_WORD = "[^\\W_](?:[^\\W_]|[\u0300-\u036f\u00ad])*"
_END = r"(?![^\W_])"
_ACRONYM = rf"{_L}(?:\.{_L})+\.{_END}"
_PART = rf"(?:{_ACRONYM}|{_WORD})"
_FACE = r"[()\[\]{}|\\@]|[DdPpO](?!\w)"

# As in a lexer generator, the longest match at a position wins; of equals, the first.
_RULES = [
    # marks of the web
    r"</?[A-Za-z][^<>]*>",
    r"https?://[^\s\"<>()]*[^\s\"<>().,;:!?]",
    r"www\.[^\s\"<>()]*[^\s\"<>().,;:!?]",
    r"(?:\w[\w.+-]*)?\w@\w[\w-]*(?:\.\w+)*",
    r"[@#][A-Za-z]\w*",
    rf"[<>]?[:;=][-o']?(?:{_FACE})",
    r"\(?\^_\^\)?|-_-|>_<",
    # contractions
    rf"(?i:['’](?:s|m|d|ll|re|ve)|'(?:em|cause|til|n)){_END}",
    r"'[nN]'",
    rf"'[tT](?=(?i:is|was)(?:{_END}|(?i:n't)))",
    rf"['’]\d\ds?{_END}(?!\")",
    rf"(?i:n't){_END}",
    rf"(?i:{_L}+n't){_END}",
    rf"(?i:ol'|cap'n|nat'l|c'mon|e'er|d'ye){_END}",
    rf"(?i:y'(?=all{_END})|j'(?={_L}{{2}}))",
    rf"(?i:[dlno]'(?!(?:em|ll|re|ve|til){_END}){_L}{{2,}})",
    rf"(?i:{_L}+[aeiou]'(?!em{_END})[aeiou]{_L}+)",
    # words
    _WORD,
    rf"{_PART}(?:[-_]{_PART})+",
    rf"{_PART}(?:-{_PART})*(?:/{_L}[^\W_]*)+(?:-{_WORD})*",
    rf"[^\W_]*{_L}[^\W_]*/{_WORD}",
    r"[A-Z]+(?:&|&amp;)[A-Z]+",
    r"[cC](?:\+\+|#)",
    rf"{_L}+[!?]{_L}+",
    # a full stop in or after a word
    _ACRONYM,
    rf"{_L}[^\W_]*(?:\.{_L}[^\W_]*)+",
    rf"{_L}\.(?!{_L}|\s+(?:{_SENTENCE_STARTS}){_END})",
    rf"{_L}[^\W_]*(?:-[^\W_]+)*\.(?=,)",
    rf"(?i:{_ABBREVIATIONS})\.(?!{_L})",
    rf"(?:{_STATES})\.(?!{_L})",
    rf"(?i:{_BEFORE_FIGURES})\.(?=\s?\d)",
    # figures
    r"[-+]?(?:\d+(?:[.,:]\d+)*|[.,:]\d+(?:[.,:]\d+)*)",
    rf"\d+/\d+(?:-{_WORD})?",
    r"\d{1,2}/\d{1,2}/\d{2,4}",
    rf"\d+-\d+/\d+{_END}",
    r"\(\d{3}\)[ -]?\d{3}-\d{4}",
    r"(?:US|HK|NZ|A|C)\$",
    # signs
    r"&(?:amp|lt|gt|quot);|&#\d+;",
    r"[!?]+|-{5,}|-{2,4}|#+|\*+|@+|_+|<<|>>",
    r"\S",
]
_MATCHERS = [re.compile(rule).match for rule in _RULES]

# Most captions are letters and commas, and the rules need not be tried on those.
_PLAIN_WORD = re.compile(r"[A-Za-z]+(?=[ ,]|$)").match
_PLAIN_CAPTION = re.compile(r"[a-z]+(?: [a-z]+)*").fullmatch

_SIGNS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "£": "#",
    "€": "$",
    "¤": "$",
    "¢": "cents",
    "¼": "1/4",
    "½": "1/2",
    "¾": "3/4",
    "⅓": "1/3",
    "⅔": "2/3",
    "&lt;": "<",
    "&gt;": ">",
}
# Quotation marks, dashes and the like, which become punctuation tokens.
_DROPPED = frozenset('"“”„‟«»‘’‛‹›–—―…\u00ad\u2010\u2011\u2012') | {"&quot;", "---", "----"} | PUNCTUATION
_SPLIT_WORDS = re.compile(rf"\b(?:{'|'.join(_SPLIT)})\b").search
_RAISED_OR_FRACTION = re.compile("[¹²³¼½¾⅓⅔]")
_BRACKETS = re.compile(r"[()]")


def tokenize(caption: str) -> str:
    """The caption's tokens, lower-cased, without punctuation, joined by single spaces; "" when none are left.

    >>> tokenize("A man can't see the dog's ball (red).")
    "a man ca n't see the dog 's ball -lrb- red -rrb-"
    """
    text = " ".join(caption.split())
    if _PLAIN_CAPTION(text) and not _SPLIT_WORDS(text):
        return text
    text = text.replace("&apos;", "'").replace("&nbsp;", " ")
    # A typographic apostrophe inside a word is an apostrophe.
    text = re.sub(r"(?<=\w)’(?=\w)", "'", text)
    # Python counts these as parts of words.
    text = _RAISED_OR_FRACTION.sub(r" \g<0> ", text)
    tokens: list[str] = []
    position = 0
    while position < len(text):
        if text[position] == " ":
            position += 1
            continue
        match = _PLAIN_WORD(text, position)
        if match is None:
            matches = [one for matcher in _MATCHERS if (one := matcher(text, position))]
            match = max(matches, key=re.Match.end)
        position = match.end()
        tokens.extend(_render(match.group(), text[position : position + 2]))
    return " ".join(tokens)


def _render(token: str, following: str) -> list[str]:
    """What the tokenizer prints for a matched piece of text; nothing for punctuation."""
    token = _SIGNS.get(token, token)
    if token in _DROPPED or (len(token) == 1 and not _printable(token)):
        return []
    token = token.lower()
    if token.endswith("n't"):
        return [part for part in (token[:-3], "n't") if part]
    if token.startswith("’") and token[1].isalpha():
        return ["'" + token[1:]]
    if token in _SPLIT and following != "'s":
        return _SPLIT[token].split()
    return [_BRACKETS.sub(lambda bracket: _SIGNS[bracket.group()], token).replace("&amp;", "&")]


def _printable(char: str) -> bool:
    # The tokenizer knows no characters beyond the basic plane (emoji above all) and drops them.
    return ord(char) < 0x10000 and char.isprintable()


MOST_FOREIGN = 0.005  # MSR-VTT's captions have 2 such letters in 3,251,379; German has some two in a hundred


def assumes_english(captions: Iterable[str]) -> str | None:
    """A sentence for captions that hardly are English, by their letters beyond a to z; None for others."""
    letters = [letter for caption in captions for letter in caption if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters)
    if foreign <= MOST_FOREIGN * len(letters):
        return None
    return (
        f"{foreign / len(letters):.0%} of the references' letters are not among a to z: these figures split words as "
        "English does (PTB), and METEOR knows English alone; compare them with nothing but themselves"
    )
