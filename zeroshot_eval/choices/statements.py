"""Questions that are answered with yes or no, turned into the statements that they ask about."""

from __future__ import annotations

import re
from collections.abc import Callable

_HINT = re.compile(r"\s*\(?\s*please answer yes/no\.?\s*\)?\s*", re.IGNORECASE)
_SUBJECT = r"(?:this|these|it|there)"

# The forms of questions and how each is said as a statement, the more special ones first.
_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    # Is there a nodule in the left lung? -> there is a nodule in the left lung
    (
        re.compile(rf"(?P<be>is|are|was|were) (?P<subject>{_SUBJECT})\b(?P<rest>.+)", re.IGNORECASE),
        lambda m: f"{m['subject'].lower()} {m['be'].lower()}{m['rest']}",
    ),
    # Does this x-ray show any abnormality of the chest? -> this x-ray shows an abnormality of the chest
    (
        re.compile(r"(?:does|do) (?P<subject>.+?) show (?P<rest>.+)", re.IGNORECASE),
        lambda m: f"{m['subject'][0].lower()}{m['subject'][1:]} shows {_affirmed(m['rest'])}",
    ),
    # Is pleural effusion present in the given chest x-ray? -> pleural effusion is present in the given chest x-ray
    (
        re.compile(
            r"(?P<be>is|are) (?P<subject>.+?) (?P<rest>(?:present|visible|seen|located|found)\b.*)", re.IGNORECASE
        ),
        lambda m: f"{m['subject']} {m['be'].lower()} {m['rest']}",
    ),
    # In the given brain mri, is mass present in the left? -> in the given brain mri, mass is present in the left
    (
        re.compile(r"(?P<place>in [^,]+), (?P<question>(?:is|are|does|do) .+)", re.IGNORECASE),
        lambda m: f"{m['place'][0].lower()}{m['place'][1:]}, {statement(m['question'])}",
    ),
)


def statement(question: str) -> str:
    """Return what a question of yes or no asks about, as a statement; a question of no known form as it is.

    Hints at how to answer are left out, and so is the question mark where a statement could be made.
    """
    asked = _HINT.sub(" ", question).strip()
    body = asked.rstrip("? ").strip()
    for form, said in _FORMS:
        if match := form.fullmatch(body):
            return said(match)
    return asked


def _affirmed(rest: str) -> str:
    match = re.match(r"any (?P<thing>\w)", rest, re.IGNORECASE)
    if match is None:
        return rest
    return f"{'an' if match['thing'].lower() in 'aeiou' else 'a'} {rest[4:]}"
