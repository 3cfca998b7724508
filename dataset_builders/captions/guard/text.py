"""Captions as words with their place: normalised, cut into clauses, and marked where they deny or only suppose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_WORD = re.compile(r"[a-z0-9]+(?:&[a-z]|'[a-z]+)?|[.;:!?,()\[\]]")
_SPELLING = (
    (re.compile(r"haem"), "hem"), (re.compile(r"oedema"), "edema"), (re.compile(r"oesoph"), "esoph"),
    (re.compile(r"anaem"), "anem"), (re.compile(r"tumour"), "tumor"), (re.compile(r"colour"), "color"),
    (re.compile(r"leuk?aemi"), "leukemi"), (re.compile(r"paed"), "ped"), (re.compile(r"ischaem"), "ischem"),
    (re.compile(r"fibre"), "fiber"), (re.compile(r"grey"), "gray"), (re.compile(r"diarrhoea"), "diarrhea"),
    (re.compile(r"centre"), "center"), (re.compile(r"litre"), "liter"), (re.compile(r"neovascularis"), "neovasculariz"),
    (re.compile(r"calibre"), "caliber"), (re.compile(r"sulph"), "sulf"),
)  # fmt: skip
_STOPS = frozenset(".;!?")
_ARTICLES = frozenset({"a", "an", "the"})


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


def phrases_of(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the phrases that stand between bars in a text."""
    return tuple(tuple(phrase.split()) for phrase in text.split("|"))


_BREAKS = words_of("but however although though whereas while yet except")
# After a comma or "and", these begin a new statement, which an earlier "no" does not reach.
_RESUMES = words_of(
    "showing shows show demonstrating demonstrates revealing reveals with displaying displays depicting depicts "
    "indicating indicates there it this consistent suggesting containing"
)
_DENIALS = phrases_of(
    "no|not|without|absent|absence of|free of|free from|lack of|lacks|lacking|negative for|rules out|rule out|"
    "ruled out|ruling out|neither|nor|never|devoid of|denies|excludes|excluding|fails to|failed to|nothing|"
    "cannot see|clear of|exclude|spared of|isn't|aren't|doesn't|don't|wasn't|weren't|none of|zero|rather than|"
    "instead of"
)
_NO_DENIAL = phrases_of("not only|no doubt|without doubt|not just|without contrast")
_LATER_DENIALS = phrases_of(
    "is absent|are absent|was absent|were absent|not seen|not present|not identified|not visible|not found|"
    "not detected|not evident|not observed|not noted|not demonstrated|not appreciated|not apparent|not shown|"
    "not depicted|ruled out|is excluded|are excluded|was excluded|been excluded|is missing|are missing|free|"
    "is lacking|isn't seen|unlikely|absent"
)
_SUPPOSITIONS = phrases_of(
    "possible|possibly|may|might|could|cannot be excluded|can't be excluded|not excluded|differential|questionable|"
    "question of|versus|maybe|perhaps|rule out|potential|potentially|equivocal|uncertain|if|whether|cannot be ruled|"
    "cannot be confirmed|not confirmed|unconfirmed|unclear|risk of|should be considered"
)
# Adjectives and other forms that stand for a noun: adjective: noun.
_NOUNS = {
    pair[0]: pair[1]
    for pair in phrases_of(
        "fetal fetus|renal kidney|hepatic liver|pulmonary lung|cardiac heart|cerebral brain|colonic colon|"
        "gastric stomach|retinal retina|macular macula|meniscal meniscus|menisci meniscus|spinal spine|ovarian ovary|"
        "uterine uterus|pancreatic pancreas|splenic spleen|prostatic prostate|cutaneous skin|osseous bone|bony bone|"
        "cystic cyst|polypoid polyp|nodular nodule|hemorrhagic hemorrhage|necrotic necrosis|metastatic metastasis|"
        "metastases metastasis|adenomatous adenoma|malignancies malignancy|esophageal esophagus|laryngeal larynx|"
        "fibrotic fibrosis|calcified calcification|glaucomatous glaucoma|pneumonic pneumonia|ulcerated ulcer|"
        "ulceration ulcer|inflammatory inflammation|inflamed inflammation|infected infection|torn tear|"
        "fractured fracture|atelectatic atelectasis|emphysematous emphysema|cirrhotic cirrhosis|"
        "hyperplastic hyperplasia|dysplastic dysplasia|nevi nevus|diverticula diverticulum|thrombi thrombus|"
        "bronchi bronchus|foci focus|papillae papilla|carcinomatous carcinoma|leukemic leukemia|edematous edema|"
        "ischemic ischemia|psoriatic psoriasis|abnormal abnormality|leucocyte leukocyte|leucocytes leukocyte|"
        "drusens drusen"
    )
}
# Endings of plurals: how many letters to take off, and what to put there. The first that fits counts.
_PLURALS = (
    (re.compile(r".{2,}ies$"), 3, "y"),
    (re.compile(r".{2,}(?:ss|x|ch|sh)es$"), 2, ""),
    (re.compile(r".+oses$"), 2, "is"),
    (re.compile(r".+(?:ys|as)es$"), 2, "is"),
    (re.compile(r".{2,}ses$"), 1, ""),
    (re.compile(r".{2,}(?<![suiao])s$"), 1, ""),
    (re.compile(r".{2,}[aeio]s$(?<!us)(?<!is)(?<!as)(?<!os)"), 1, ""),
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word in its normal form. `clause` counts statements; `denied` and `supposed` say how it stands in its own."""

    word: str
    stem: str
    sentence: int
    clause: int
    denied: bool
    supposed: bool


def tokenize(text: str) -> list[Token]:
    """Return the words of a caption with what their clause does to them.

    Negation is NegEx's idea (Chapman et al., A simple algorithm for identifying negated findings, J Biomed Inform
    2001): a denial reaches to the end of its clause, a later one back to its beginning.
    """
    words = normal_words(text)
    found: list[Token] = []
    sentence = clause = 0
    current: list[str] = []
    for position, word in enumerate([*words, "."]):
        following = words[position + 1] if position + 1 < len(words) else ""
        ends = word in _STOPS or word in _BREAKS or (word in {",", "and"} and following in _RESUMES | _ARTICLES)
        if not ends:
            current.append(word)
            continue
        found += _marked([each for each in current if each not in ":()[]"], sentence, clause)
        current = []
        clause += 1
        sentence += word in _STOPS
    return found


def normal_words(text: str) -> list[str]:
    """Return words and marks in lower case, hyphens as spaces, in American spelling."""
    lower = text.lower().replace("’", "'")
    lower = re.sub(r"\bnon[- ](?=[a-z])", "non", lower)  # "non-proliferative" is one word, and denies nothing else
    lower = re.sub(r"\b(\w+)-free\b", r"no \1", lower)
    lower = re.sub(r"[-–—/_]", " ", lower)
    for pattern, american in _SPELLING:
        lower = pattern.sub(american, lower)
    return _WORD.findall(lower)


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Return the singular of a noun, and the noun of an adjective that anatomy and pathology often use for it."""
    if word in _NOUNS:
        return _NOUNS[word]
    found = next(((cut, end) for pattern, cut, end in _PLURALS if pattern.match(word)), None)
    return word if found is None else word[: -found[0]] + found[1]


def _marked(words: list[str], sentence: int, clause: int) -> list[Token]:
    """Mark the words of one clause, which may hold commas: a later denial reaches back to the last of them."""
    denied = [False] * len(words)
    for position in range(len(words)):
        if _at(words, position, _NO_DENIAL):
            continue
        if _at(words, position, _DENIALS):
            denied[position:] = [True] * (len(words) - position)
        if length := _at(words, position, _LATER_DENIALS):
            ends = position + length == len(words) or words[position + length] == ","
            # "free" and "absent" reach back only where they end their part, as in "tumor free".
            if length > 1 or ends:
                start = max((place + 1 for place in range(position) if words[place] == ","), default=0)
                denied[start:position] = [True] * (position - start)
    supposed = any(_at(words, position, _SUPPOSITIONS) for position in range(len(words)))
    return [
        Token(word, stem(word), sentence, clause, is_denied, supposed)
        for word, is_denied in zip(words, denied, strict=True)
        if word != ","
    ]


def _at(words: list[str], position: int, phrases: tuple[tuple[str, ...], ...]) -> int:
    """Return the length of the phrase that begins at a position, or 0."""
    return next((len(phrase) for phrase in phrases if tuple(words[position : position + len(phrase)]) == phrase), 0)
