"""The SOURCES file: which sources to build, of which kind, from which folder. Or one dataset of the catalogue, by name.

    sources:
      - {kind: dataset, entry: cxr_pneumonia, root: images/cxr_pneumonia}
      - {kind: pmc, config: {root: pmc, source: pmc}}            # or root: s3://pmc-oa-opendata
      - {kind: dataset, entry: medpix, root: pairs/medpix}

Folders are relative to the root that the caller gives; an entry is a shipped name or the path of a YAML file, relative
to the SOURCES file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from clipmed.configuration import from_dict, nearest, read_yaml
from clipmed.errors import ConfigError
from clipmed.jobs import JobsConfig
from dataset_builders.datasets.build import build_dataset
from dataset_builders.datasets.entry import CATALOGUE, Entry, load_entry, shipped_entries

SHIPPED = CATALOGUE / "sources"
Build = Callable[[Path, JobsConfig], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Source:
    """One source, ready to be built: its name and what builds its spool. `root` is None for an archive on a server."""

    name: str
    root: Path | None
    build: Build


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSource:
    """A dataset of the catalogue, or of an entry of your own."""

    kind: Literal["dataset"]
    entry: str
    """catalogue entry: a shipped name, or the path of a YAML file"""
    root: str = "."
    """the dataset's folder"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PmcSource:
    """PubMed Central articles."""

    kind: Literal["pmc"]
    config: dict[str, Any] = field(default_factory=dict)
    """settings of the PubMed Central builder, its root among them"""


def load_sources(name: str, root: Path | None = None) -> list[Source]:
    """Read and check a SOURCES file, before anything is built; or take one dataset of the catalogue by its name.

    Args:
        name: the path of a YAML file, the name of a shipped one, or that of a catalogue entry.
        root: where the sources' folders start from; the file's own folder if None. Of a catalogue entry, the
            dataset's folder.

    Raises:
        ConfigError: no such file, an unknown kind or key, a value out of range, or two sources of one name.
    """
    if name in shipped_entries() and name not in shipped_sources():
        return [_single(load_entry(name), root)]
    path = _sources_path(name)
    content = read_yaml(path)
    listed = content.get("sources") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed or set(content) != {"sources"}:
        raise ConfigError(f"{path}: allowed: one key, `sources`, with a list of one or more sources")
    base = path.parent if root is None else root
    sources = [_source(item, f"{path}: sources[{position}]", path.parent, base) for position, item in enumerate(listed)]
    names = [source.name for source in sources]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"{path}: two sources are called {repeated[0]!r}; give each its own name")
    missing = [source for source in sources if source.root is not None and not source.root.is_dir()]
    if missing:
        raise ConfigError(
            f"{path}: {missing[0].name} has no folder {missing[0].root}; put it there, or give another --root"
        )
    return sources


def shipped_sources() -> list[str]:
    """Return the names of the SOURCES files that come with clipmed."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _sources_path(name: str) -> Path:
    path = Path(name) if name.endswith((".yaml", ".yml")) else SHIPPED / f"{name}.yaml"
    if not path.is_file():
        known = shipped_sources()
        raise ConfigError(
            f"no SOURCES file or catalogue entry {name!r}{nearest(name, [*known, *shipped_entries()])} Shipped files: "
            f"{', '.join(known)}; or give the path of a file, or a dataset that `list` shows"
        )
    return path


def _single(entry: Entry, root: Path | None) -> Source:
    if root is None or not root.is_dir():
        got = "none" if root is None else f"{root}, which is no folder"
        raise ConfigError(
            f"--root: got {got}; give the folder of {entry.name}, as its provider ships it. "
            f"python -m dataset_builders check {entry.name} FOLDER says what belongs there and how to get it"
        )
    return Source(entry.name, root, lambda out, jobs: build_dataset(entry, root, out, jobs))


def _source(item: Any, where: str, beside: Path, base: Path) -> Source:
    kind = item.get("kind") if isinstance(item, dict) else None
    if not isinstance(kind, str) or kind not in _MAKERS:
        near = nearest(str(kind), list(_MAKERS))
        raise ConfigError(f"{where}: kind is {kind!r}{near} Allowed: {', '.join(_MAKERS)}")
    return _MAKERS[kind](item, where, beside, base)


def _dataset(item: Any, where: str, beside: Path, base: Path) -> Source:
    source = from_dict(DatasetSource, item, where)
    is_file = source.entry.endswith((".yaml", ".yml"))
    entry = load_entry(beside / source.entry if is_file else source.entry)
    root = base / source.root
    return Source(entry.name, root, lambda out, jobs: build_dataset(entry, root, out, jobs))


def _pmc(item: Any, where: str, _beside: Path, base: Path) -> Source:
    from dataset_builders.pmc import PmcConfig, build_pmc
    from dataset_builders.pmc.archive import is_remote

    source = from_dict(PmcSource, item, where)
    config = from_dict(PmcConfig, source.config, f"{where}.config")
    select = replace(
        config.select, ids=_beneath(base, config.select.ids), exclude_ids=_beneath(base, config.select.exclude_ids)
    )
    config = replace(
        config, snapshot=_beneath(base, config.snapshot), mirror=_beneath(base, config.mirror), select=select
    )
    remote = is_remote(config.root)
    placed = config if remote else replace(config, root=str(base / config.root))
    return Source(config.source, None if remote else Path(placed.root), lambda out, jobs: build_pmc(placed, out, jobs))


def _beneath(base: Path, path: Path | None) -> Path | None:
    return None if path is None else base / path


_MAKERS: Mapping[str, Callable[[Any, str, Path, Path], Source]] = {
    "dataset": _dataset,
    "pmc": _pmc,
}
