"""The guard on captions that its rules were not written from: how many bad ones it refuses, and how many good ones.

The captions lie in two files of disjoint facts, labelled by hand: real answers of a small language model, captions as
people and published sets write them, and good captions with one thing made wrong. A caption is good where a careful
reader who knows nothing but the facts would sign it. Positives are the bad captions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataset_builders.captions.facts import CaptionFacts, read_facts
from dataset_builders.captions.guard import Guard, GuardCode

FOLDER = Path(__file__).parent
FILES = ("guard_test_a.jsonl", "guard_test_b.jsonl")

Check = Callable[[str, CaptionFacts, tuple[str, ...]], Sequence[str]]
"""(caption, facts, captions accepted before) to the codes of its refusals, none where it is accepted"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A caption, what it is of, whether it is good, and else the codes that tell why it is not."""

    id: str
    text: str
    facts: CaptionFacts
    good: bool
    codes: tuple[str, ...]
    accepted: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a guard did on labelled captions."""

    refused_bad: tuple[Labelled, ...]
    refused_good: tuple[tuple[Labelled, tuple[str, ...]], ...]
    accepted_bad: tuple[Labelled, ...]
    right_code: int

    @property
    def precision(self) -> float:
        """Bad captions among the refused."""
        return len(self.refused_bad) / max(1, len(self.refused_bad) + len(self.refused_good))

    @property
    def recall(self) -> float:
        """Refused captions among the bad."""
        return len(self.refused_bad) / max(1, len(self.refused_bad) + len(self.accepted_bad))


def labelled(name: str) -> list[Labelled]:
    """Return the captions of one file."""
    known: dict[str, Any] = json.loads((FOLDER / "guard_test_facts.json").read_text())
    facts = {key: read_facts(json.dumps(flat), known["tasks"]) for key, flat in known["facts"].items()}
    rows = [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]
    return [
        Labelled(
            id=row["id"],
            text=row["text"],
            facts=facts[row["facts"]],
            good=row["good"],
            codes=tuple(row["codes"]),
            accepted=tuple(row.get("accepted", ())),
        )
        for row in rows
    ]


def score(captions: Sequence[Labelled], check: Check) -> Score:
    """Return what the guard did with the captions."""
    found = [(caption, tuple(check(caption.text, caption.facts, caption.accepted))) for caption in captions]
    return Score(
        refused_bad=tuple(caption for caption, codes in found if codes and not caption.good),
        refused_good=tuple((caption, codes) for caption, codes in found if codes and caption.good),
        accepted_bad=tuple(caption for caption, codes in found if not codes and not caption.good),
        right_code=sum(bool(set(codes) & set(caption.codes)) for caption, codes in found),
    )


def table(title: str, found: Score) -> str:
    """Return the score in lines of text: the whole, then the recall by the first code of the label."""
    refused = Counter(caption.codes[0] for caption in found.refused_bad)
    missed = Counter(caption.codes[0] for caption in found.accepted_bad)
    lines = [
        f"{title}: precision {found.precision:.3f}, recall {found.recall:.3f}; refused {len(found.refused_bad)} bad "
        f"({found.right_code} for a reason of the label) and {len(found.refused_good)} good"
    ]
    lines += [
        f"  {code:17} {refused[code]:3} of {refused[code] + missed[code]:3}" for code in sorted({*refused, *missed})
    ]
    wrongly = Counter(code for _, codes in found.refused_good for code in codes)
    return "\n".join([*lines, f"  good ones refused for: {dict(sorted(wrongly.items()))}"])


def default_guard() -> Check:
    """Return the guard with its defaults."""
    rules = Guard()
    return lambda text, facts, accepted: [str(refusal.code) for refusal in rules.check(text, facts, accepted)]


def test_the_guard_refuses_bad_captions_that_its_rules_have_not_seen():
    check = default_guard()
    scores = {name: score(labelled(name), check) for name in FILES}
    scores["both"] = score([caption for name in FILES for caption in labelled(name)], check)
    report = "\n".join(table(title, found) for title, found in scores.items())
    print(report)  # noqa: T201  (pytest -s shows it)
    for found in scores.values():
        assert found.precision >= 0.95, report
        assert found.recall >= 0.9, report


@pytest.mark.parametrize("name", FILES)
def test_each_file_holds_enough_good_and_bad_captions(name: str):
    captions = labelled(name)
    assert len(captions) >= 250
    assert len({caption.id for caption in captions}) == len(captions)
    assert 0.4 <= sum(caption.good for caption in captions) / len(captions) <= 0.6
    assert all(caption.good != bool(caption.codes) for caption in captions)


def test_every_reason_is_there_often_enough_and_the_files_share_no_facts():
    first, second = (labelled(name) for name in FILES)
    counts = Counter(code for caption in [*first, *second] for code in caption.codes)
    assert {code: number for code, number in counts.items() if number < 10} == {}
    assert set(counts) == {str(code) for code in GuardCode}
    assert len(first) + len(second) >= 400
    assert not {repr(caption.facts) for caption in first} & {repr(caption.facts) for caption in second}


def test_the_score_counts_what_was_refused():
    captions = labelled(FILES[0])
    bad = [caption for caption in captions if not caption.good]
    marks = {(caption.text, repr(caption.facts), caption.accepted): caption.codes for caption in bad[1:]}
    perfect_but_one = score(captions, lambda text, facts, accepted: marks.get((text, repr(facts), accepted), ()))
    assert (perfect_but_one.precision, perfect_but_one.recall) == (1.0, (len(bad) - 1) / len(bad))
    assert perfect_but_one.right_code == len(bad) - 1
    everything = score(captions, lambda *_caption: ["language"])
    assert (everything.precision, everything.recall) == (len(bad) / len(captions), 1.0)
    assert everything.right_code == sum("language" in caption.codes for caption in bad)
