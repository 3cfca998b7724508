"""The published models that a medical checkpoint is compared with: what each is, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clipmed.configuration import from_dict, nearest, read_yaml
from clipmed.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

BASELINES_FILE = Path(__file__).parent / "baselines.yaml"

_REMEDIES = {
    "convert": (
        "its weights are not in safetensors beside an OpenCLIP config. Convert them once, in an environment of its own "
        "and only if you trust the source: read them with torch.load(…, weights_only=True), name them as OpenCLIP "
        "does, and write open_clip_model.safetensors and open_clip_config.json; then give the folder's path"
    ),
    "code": (
        "it needs code of its own, which is neither shipped nor downloaded here. Convert it to an OpenCLIP folder if "
        "its architecture allows, or embed with its own code and compare the scores"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """One entry of baselines.yaml."""

    flag: str
    """name to ask for it by"""
    title: str
    """name in words"""
    loader: Literal["open_clip", "hub", "convert", "code"]
    """how it is opened; `convert` and `code` are not, without work of the user's"""
    location: str | None = None
    """what `open_encoder` takes, where it can be opened"""
    source: str | None = None
    """page to get it from, where it cannot"""
    image_size: int | None = None
    """input side in pixels"""
    context_length: int | None = None
    """tokens of a text"""
    license: str
    """SPDX identifier of the weights' licence, or LicenseRef-…"""
    access: Literal["open", "gated"] = "open"
    """gated: terms are accepted on its page first, and HF_TOKEN is needed"""
    pretraining: tuple[str, ...]
    """data that it was trained on, by the catalogue's names where it has them"""
    citation: str
    """paper"""
    verified: Literal["code", "page", "memory"]
    """what this entry rests on"""
    remark: str = ""
    """what to know before quoting its scores"""

    def __post_init__(self) -> None:
        opens = self.loader in ("open_clip", "hub")
        if opens != (self.location is not None) or opens == (self.source is not None):
            raise ConfigError(
                f"baseline {self.flag!r}: loader {self.loader!r} goes with {'location' if opens else 'source'} alone"
            )

    def opened_as(self) -> str:
        """Return the location that `open_encoder` takes.

        Raises:
            ConfigError: it cannot be opened here; says why and what to do.
        """
        if self.location is None:
            raise ConfigError(f"{self.flag} ({self.title}, {self.source}) cannot be opened: {_REMEDIES[self.loader]}")
        return self.location


def list_baselines() -> tuple[Baseline, ...]:
    """Return all baselines, in the order of the file."""
    return tuple(_read().values())


def baseline(flag: str) -> Baseline:
    """Return the baseline of a flag.

    Raises:
        ConfigError: no such flag, with the nearest.
    """
    known = _read()
    if flag not in known:
        raise ConfigError(f"no baseline is called {flag!r}{nearest(flag, list(known))} Allowed: {', '.join(known)}")
    return known[flag]


def is_baseline(flag: str) -> bool:
    """Whether there is a baseline of this flag."""
    return flag in _read()


def baselines_table() -> Table:
    """Return all baselines as a table for a terminal."""
    from rich.table import Table

    table = Table(title="published models by flag", caption="verified: what the entry rests on")
    for column in ("flag", "opened from", "px", "tokens", "licence", "access", "verified", "pretraining"):
        table.add_column(column, overflow="fold")
    for entry in list_baselines():
        sizes = [str(value or "") for value in (entry.image_size, entry.context_length)]
        opened = entry.location or f"{entry.source} ({entry.loader})"
        rest = (entry.license, entry.access, entry.verified, ", ".join(entry.pretraining))
        table.add_row(entry.flag, opened, *sizes, *rest)
    return table


@lru_cache(maxsize=1)
def _read() -> dict[str, Baseline]:
    entries = read_yaml(BASELINES_FILE)
    return {
        flag: from_dict(Baseline, {"flag": flag, **entry}, f"{BASELINES_FILE.name}: {flag}")
        for flag, entry in entries.items()
    }
