"""Does a folder hold what its catalogue entry says? Answered from names and tables alone, before any work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dataset_builders.classification.entry import Entry
from dataset_builders.classification.listing import list_items
from dataset_builders.items import path_problem

SHOWN_PROBLEMS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCount:
    """How many usable images of a class were found; `expected` is None where the entry does not say."""

    task: str
    class_id: str
    found: int
    expected: int | None

    @property
    def fits(self) -> bool:
        """Whether the count is the expected one, or at least one image where none is stated."""
        return self.found == self.expected if self.expected is not None else self.found > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a folder holds compared with its entry. `problems` are item: reason and detail."""

    items: int
    counts: tuple[ClassCount, ...]
    problems: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every count fits and no item has a problem."""
        return not self.problems and all(count.fits for count in self.counts)


def check_folder(entry: Entry, root: Path) -> CheckReport:
    """Compare the folder with the entry: images by class, and every item that could not be built for its path or label.

    Images are not decoded.

    Raises:
        DataError: no such folder or table, or a table without a column that the entry names.
    """
    found: Counter[tuple[str, str]] = Counter()
    problems = []
    items = list_items(entry, root)
    for item in items:
        problem = item.problem or path_problem(root, item.path)
        if problem is not None:
            problems.append(f"{item.item}: {problem.reason}: {problem.detail}")
            continue
        found.update((task, class_id) for task, classes in item.labels for class_id in classes)
    expected = {entry.class_named(name): number for name, number in entry.expected_counts.items()}
    counts = tuple(
        ClassCount(task=task, class_id=class_id, found=found[task, class_id], expected=expected.get((task, class_id)))
        for task, content in entry.tasks.items()
        for class_id in content.classes
    )
    return CheckReport(items=len(items), counts=counts, problems=tuple(problems))
