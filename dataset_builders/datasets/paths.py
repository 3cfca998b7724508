"""Path patterns: which files below a root are images of a dataset, and what the parts of their paths say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

_PART = re.compile(r"\{(\w+)\}|(\*)|(\?)")
_ANY_FOLDERS = "**"


class PathPattern:
    """A pattern such as '{split}/{label}/**/*.png'.

    {name} is a part of one folder or file name, as short as fits; a name that comes twice must be the same text. * is
    any part of a name, ? one character, ** any number of folders. Capitals count.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._segments = pattern.split("/")

    @cached_property
    def _whole(self) -> re.Pattern[str]:
        return re.compile(_regex(self._segments) + r"\Z")

    @cached_property
    def _folders(self) -> list[re.Pattern[str]]:
        """By depth, what the folders down to it must fit; where ** comes, any folder fits."""
        fixed = self._segments[: self._segments.index(_ANY_FOLDERS)] if _ANY_FOLDERS in self._segments else None
        steps = self._segments[:-1] if fixed is None else fixed
        return [re.compile(_regex(steps[: depth + 1]) + r"\Z") for depth in range(len(steps))]

    def match(self, path: str) -> dict[str, str] | None:
        """Return the named parts of a path, or None where it does not fit."""
        found = self._whole.match(path)
        return found.groupdict() if found else None

    def may_hold(self, folder: str) -> bool:
        """Whether a file below the folder may fit."""
        depth = folder.count("/")
        if depth < len(self._folders):
            return bool(self._folders[depth].match(folder))
        return _ANY_FOLDERS in self._segments and (
            not self._folders or bool(self._folders[-1].match("/".join(folder.split("/")[: len(self._folders)])))
        )


def matching_files(
    root: Path, patterns: Sequence[str], exclude: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the path below the root, and its named parts, of every file that fits one of the patterns, in order.

    The first pattern that fits counts. Folders behind links are not entered: a link that a pattern would enter is
    yielded itself, so that it can be rejected by name.
    """
    wanted = [PathPattern(pattern) for pattern in patterns]
    unwanted = [PathPattern(pattern) for pattern in exclude]
    for path, is_linked_folder in _walk(root, wanted):
        if any(pattern.match(path) is not None for pattern in unwanted):
            continue
        found = next((parts for pattern in wanted if (parts := pattern.match(path)) is not None), None)
        if found is not None:
            yield path, found
        elif is_linked_folder:
            yield path, {}


def _walk(root: Path, wanted: Sequence[PathPattern]) -> Iterator[tuple[str, bool]]:
    for current, folders, files in os.walk(root, followlinks=False):
        here = PurePosixPath(Path(current).relative_to(root).as_posix())
        inside = {name: str(here / name) for name in [*folders, *files]}
        links = [
            name
            for name in folders
            if Path(current, name).is_symlink() and any(pattern.may_hold(inside[name]) for pattern in wanted)
        ]
        folders[:] = sorted(
            name for name in folders if any(pattern.may_hold(inside[name]) for pattern in wanted) and name not in links
        )
        for name in sorted([*files, *links]):
            yield inside[name], name in links


def _regex(segments: Sequence[str]) -> str:
    pieces: list[str] = []
    names: set[str] = set()
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if segment == _ANY_FOLDERS and not last:
            pieces.append("(?:[^/]+/)*")
            continue
        pieces.append(_segment_regex(segment, names) + ("" if last else "/"))
    return "".join(pieces)


def _segment_regex(segment: str, names: set[str]) -> str:
    pieces, place = [], 0
    for found in _PART.finditer(segment):
        pieces.append(re.escape(segment[place : found.start()]))
        place = found.end()
        name, star, _ = found.groups()
        if name:
            pieces.append(f"(?P={name})" if name in names else f"(?P<{name}>[^/]+?)")
            names.add(name)
        else:
            pieces.append("[^/]*" if star else "[^/]")
    return "".join(pieces) + re.escape(segment[place:])
