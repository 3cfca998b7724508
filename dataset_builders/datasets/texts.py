"""Native texts of an image: columns, text files beside it, and sections of radiology reports."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset_builders.datasets.layout import FIELD, NativeOrigin, Text
from dataset_builders.items import read_media

NativeText = tuple[NativeOrigin, str]
MAX_REPORT_MB = 4.0
# A heading stands at the start of a line and ends with a colon: "FINDINGS:", "FINAL REPORT", "Impression:".
_HEADING = re.compile(r"^[ \t]*([A-Za-z][A-Za-z /&()-]{2,48}?)[ \t]*:(?=\s|$)", re.MULTILINE)
_BLANKS = re.compile(r"_{2,}|\bX{3,}\b|\[\*\*.*?\*\*\]")
_WORD = re.compile(r"[A-Za-z]{2,}")
# Blanks of de-identification may take the place of every fourth word; more leaves no sentence.
_MOST_BLANKS = 0.25


def native_texts(texts: Sequence[Text], cells: Mapping[str, str], root: Path) -> list[NativeText]:
    """Return the texts of an image in the layout's order, white space tidied, each once; empty ones are left out.

    Raises:
        ItemRejectedError: a text file that is missing, unsafe, too large or not UTF-8.
    """
    found = [
        (text.origin, f"{filled(text.prefix, cells)}{tidied}" if text.prefix else tidied)
        for text in texts
        for written in _written(text, cells, root)
        if (tidied := tidy(written))
    ]
    return list(dict.fromkeys(found))


def report_section(report: str, headings: Sequence[str]) -> str:
    """Return what stands below the first of the headings, up to the next heading; the empty text if none is there.

    >>> report_section("FINDINGS: The lungs are clear.\\n\\nIMPRESSION: Normal.", ["impression"])
    'Normal.'
    """
    wanted = {heading.lower() for heading in headings}
    found = [(match.group(1).strip().lower(), match.start(), match.end()) for match in _HEADING.finditer(report)]
    for place, (name, _, start) in enumerate(found):
        if name in wanted:
            end = found[place + 1][1] if place + 1 < len(found) else len(report)
            if section := report[start:end].strip():
                return section
    return ""


def tidy(text: str) -> str:
    """Return the text with single spaces; the empty text where blanks of de-identification leave no sentence."""
    words = " ".join(text.split())
    blanks = len(_BLANKS.findall(words))
    return "" if blanks and blanks > _MOST_BLANKS * (blanks + len(_WORD.findall(_BLANKS.sub(" ", words)))) else words


def filled(template: str, cells: Mapping[str, str]) -> str:
    """Return a template with {column} replaced by cells."""
    return FIELD.sub(lambda match: cells[match.group(1)].strip(), template)


def _written(text: Text, cells: Mapping[str, str], root: Path) -> list[str]:
    if text.file:
        data = read_media(root, filled(text.file, cells), MAX_REPORT_MB)
        whole = [data.decode("utf-8", errors="replace")]
    else:
        whole = _listed(cells[text.column])
    return [report_section(written, text.sections) for written in whole] if text.sections else whole


def _listed(cell: str) -> list[str]:
    """Return the texts of a cell: several where it is a list in JSON."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            found = json.loads(cell)
        except (ValueError, RecursionError):
            return [cell]
        if isinstance(found, list) and all(isinstance(text, str) for text in found):
            return found
    return [cell]
