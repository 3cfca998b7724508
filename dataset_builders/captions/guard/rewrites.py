"""Rewrites of native texts: they may leave out, and may not add or turn round."""

from __future__ import annotations

from collections.abc import Iterator

from dataset_builders.captions.guard.codes import GuardCode, Refusal
from dataset_builders.captions.guard.lexicon import Lexicon, PhraseIndex
from dataset_builders.captions.guard.text import Token


def check_content(tokens: list[Token], native: list[Token], lexicon: Lexicon) -> Iterator[Refusal]:
    """Yield what a rewrite says that its native text does not."""
    known = {token.stem for token in native}
    for token in tokens:
        if any(sign.isdigit() for sign in token.word) and token.stem not in known:
            yield Refusal(GuardCode.MEASUREMENT, f"{token.word!r} is not in the native text")
    checks: tuple[tuple[PhraseIndex, GuardCode], ...] = (
        (lexicon.modalities, GuardCode.MODALITY_WRONG),
        (lexicon.organs, GuardCode.ORGAN_WRONG),
        (lexicon.views, GuardCode.SIDE),
        (lexicon.sides, GuardCode.SIDE),
        (lexicon.history, GuardCode.HISTORY),
        (lexicon.severity, GuardCode.FINDING_UNKNOWN),
        (lexicon.acquisition, GuardCode.FINDING_UNKNOWN),
    )
    for index, code in checks:
        theirs = {match.name for match in index.find_all(native)}
        for match in index.find_all(tokens):
            words = {token.stem for token in tokens[match.start : match.end]}
            if match.name not in theirs and not words <= known:
                yield Refusal(code, f"{match.name!r} is not in the native text")
    yield from _findings(tokens, native, lexicon)


def _findings(tokens: list[Token], native: list[Token], lexicon: Lexicon) -> Iterator[Refusal]:
    said: dict[str, set[bool]] = {}
    for match in lexicon.concepts.find_all(native):
        said.setdefault(match.name, set()).add(native[match.start].denied)
    known = {token.stem for token in native}
    for match in lexicon.concepts.find_all(tokens):
        denied = tokens[match.start].denied
        if match.name not in said:
            if not {token.stem for token in tokens[match.start : match.end]} <= known:
                yield Refusal(GuardCode.FINDING_UNKNOWN, f"{match.name!r} is not in the native text")
        elif denied not in said[match.name]:
            what = "denies what the native text states" if denied else "states what the native text denies"
            yield Refusal(GuardCode.FINDING_ABSENT, f"{what}: {match.name!r}")
