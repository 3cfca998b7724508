"""The card of a converted checkpoint: its source with the hash of the bytes that were read, and what is known of it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from clipmed.cards import DISCLAIMER, NOT_SCORED, Card, hub_license, limits_section, use_section
from clipmed.importing.published import Published

if TYPE_CHECKING:
    from clipmed.importing import Import


def import_card(wanted: Import, known: Published | None, file: str, sha256: str) -> str:
    """Return the card as Markdown.

    Args:
        wanted: the conversion.
        known: what is known of the published checkpoint; None for any other.
        file: name of the file of weights.
        sha256: of that file, hex.
    """
    license_name = hub_license(wanted.license) if wanted.license else known.license if known else None
    sections = {
        "Use": use_section(),
        "Licences": _licences(license_name, known),
        "Training configuration": "Not trained here: its authors' publication says how.",
        "Scores": NOT_SCORED,
        "Limits of use": limits_section(),
        "Source": "\n".join(
            [
                f"- from: {_name(wanted.source)}",
                f"- file: {file}, sha256 {sha256}",
                f"- command: `{_command(wanted)}`",
                "- changed: names and layout of the tensors; their numbers are the source's",
            ]
        ),
    }
    if known:
        sections |= {"Data": known.data, "Citation": known.citation}
    title = f"{known.title}, converted" if known else "A converted CLIP-style model"
    card = Card(title=title, intro=DISCLAIMER, sections=sections)
    return (card.with_metadata(license=license_name) if license_name else card).text()


def _licences(name: str | None, known: Published | None) -> str:
    if name is None:
        return ""
    whose = f"Of the weights: {name}, as known to this library" if known else f"Of the weights: {name}, as given"
    return f"{whose}; the source's own statement counts. Those of the data are the source's to say."


def _command(wanted: Import) -> str:
    words = ["clipmed", "import", _name(wanted.source), "--layout", wanted.layout]
    for name in ("model", "tokenizer", "license"):
        if value := getattr(wanted, name):
            words += [f"--{name}", _name(value)]
    return shlex.join([*words, "--out", wanted.out.name])


def _name(source: str) -> str:
    """Return a file's or folder's name alone: its path is this machine's."""
    return Path(source).resolve().name if Path(source).exists() else source
