"""Short names of checkpoints, each different."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from clipmed.errors import ConfigError

_RUN_FOLDER = "model"  # what every run calls its checkpoint, which tells nothing


def short_names(locations: Sequence[str]) -> list[str]:
    """Return a name for each location: its last parts, as few as tell it from the others.

    Args:
        locations: folders, `hf-hub:org/name[@revision]`, OpenCLIP's `MODEL:TAG` or URLs.

    Raises:
        ConfigError: a location twice.
    """
    paths = [_parts(location) for location in locations]
    for location, path in zip(locations, paths, strict=True):
        if paths.count(path) > 1:
            raise ConfigError(f"checkpoint {location} is given twice; give each once")
    telling = [path[:-1] if len(path) > 1 and path[-1] == _RUN_FOLDER else path for path in paths]
    if len(set(telling)) < len(telling):
        telling = paths
    return ["/".join(_tail(path, telling)) for path in telling]


def _parts(location: str) -> tuple[str, ...]:
    bare = location.partition("://")[2] or location.removeprefix("hf-hub:")
    path = PurePath(bare)
    return tuple(part for part in path.parts if part != path.anchor) or (location,)


def _tail(path: tuple[str, ...], paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The fewest last parts of a path that no other path ends with."""
    others = [other for other in paths if other != path]
    counts = range(1, len(path) + 1)
    return next((path[-n:] for n in counts if not any(other[-n:] == path[-n:] for other in others)), path)
