"""Does a folder hold what its catalogue entry says? Answered from names and tables alone, before any work."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipmed.errors import DataError
from clipmed.files import sha256_file
from dataset_builders.datasets.entry import Download, Entry
from dataset_builders.datasets.listing import list_items
from dataset_builders.items import path_problem

SHOWN_PROBLEMS = 10
ALL = "all"
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many usable images of a class or a split were found; `expected` is None where the entry does not say."""

    what: str
    found: int
    expected: int | None

    @property
    def fits(self) -> bool:
        """Whether the count is the expected one, or at least one image where none is stated."""
        return self.found == self.expected if self.expected is not None else self.found > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a folder holds compared with its entry.

    `missing` says what of the layout is not there, `problems` are item: reason and detail, `hints` what may help.
    """

    items: int = 0
    counts: tuple[Count, ...] = ()
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, every count fits and no item has a problem."""
        return not self.missing and not self.problems and all(count.fits for count in self.counts)


def check_folder(entry: Entry, root: Path, *, checksums: bool = False) -> CheckReport:
    """Compare the folder with the entry: what is missing of the layout, images by split and class, unusable items.

    Images are not decoded; files of several images are opened for their headers.

    Args:
        entry: the dataset's catalogue entry.
        root: the dataset's folder, which need not exist.
        checksums: also compare the downloads that lie in the folder with the sizes and digests of the entry.
    """
    hints = tuple(_unpacked_hints(entry, root))
    damaged = tuple(_damaged(entry, root)) if checksums else ()
    try:
        items = list_items(entry, root)
    except DataError as error:
        return CheckReport(missing=(str(error), *damaged), hints=hints)
    missing = damaged if items else (f"{root} holds no image in the layout of {entry.name}: {_layout(entry)}", *damaged)
    problems, splits = [], Counter[str]()
    classes: Counter[tuple[str, str]] = Counter()
    for item in items:
        problem = item.problem or path_problem(root, item.path)
        if problem is not None:
            problems.append(f"{item.item}: {problem.reason}: {problem.detail}")
            continue
        splits.update({ALL, item.split} - {None} if item.split else {ALL})
        classes.update((labels.task, class_id) for labels in item.labels for class_id in labels.present)
    counts = [
        Count(what=f"images, {name}", found=splits[name], expected=number)
        for name, number in entry.expected_items.items()
    ]
    expected = {entry.class_named(name): number for name, number in entry.expected_counts.items()}
    counts += [
        Count(what=f"{task}/{class_id}", found=classes[task, class_id], expected=expected.get((task, class_id)))
        for task, content in entry.tasks.items()
        for class_id in content.classes
    ]
    return CheckReport(items=len(items), counts=tuple(counts), missing=missing, problems=tuple(problems), hints=hints)


def _layout(entry: Entry) -> str:
    layout = entry.layout
    return ", ".join(
        [*layout.files, *(table.file for table in layout.tables), *(array.file for array in layout.arrays)]
    )


def _unpacked_hints(entry: Entry, root: Path) -> Iterator[str]:
    """Say which downloads lie in the folder or beside it, still packed."""
    for download in entry.downloads:
        for folder in (root, root.parent):
            if download.file.endswith(_ARCHIVES) and (folder / download.file).is_file():
                yield f"{folder / download.file} is there: unpack it into {root}, if that was not done"


def _damaged(entry: Entry, root: Path) -> Iterator[str]:
    for download in entry.downloads:
        path = root / download.file
        if path.is_file() and (fault := _fault(download, path)):
            yield f"{path}: {fault}; get it again"


def _fault(download: Download, path: Path) -> str:
    size = path.stat().st_size
    if download.bytes is not None and size != download.bytes:
        return f"{size} bytes; expected: {download.bytes}"
    if download.sha256 and sha256_file(path) != download.sha256:
        return f"its SHA-256 is not {download.sha256}"
    if download.md5:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != download.md5:
            return f"its MD5 is {found}; expected: {download.md5}"
    return ""
