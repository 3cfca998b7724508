"""Model cards: README.md of a checkpoint, with the metadata block that the Hugging Face hub reads.

A card is Markdown: YAML metadata between two lines of dashes, a title, and sections of the second level. Those of
REQUIRED say what a stranger must know before use; `missing` names the ones that a card lacks, and what fills each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from clipmed.errors import ConfigError

NOT_SCORED = "Not scored yet."
FOLDER = "FOLDER"  # stands for the folder of a checkpoint that is not published
DISCLAIMER = "For research. Not a medical device; not for diagnosis."
ORDER = ("Use", "Data", "Licences", "Training configuration", "Scores", "Limits of use", "Citation")
# What a checkpoint must say to be published, and how it gets said.
REQUIRED: Mapping[str, str] = {
    "Data": "a section '## Data': which images and texts it was trained on, from where, how many",
    "Licences": "a section '## Licences': the licences of the data; and --license for that of the weights",
    "Training configuration": "a section '## Training configuration': the start, steps, batch and other settings",
    "Scores": "--scores FOLDER/scores.json, as the evaluation wrote it, or --no-scores to publish without any",
    "Limits of use": "a section '## Limits of use': what it is not for, and whom its data do not stand for",
}
# The hub's identifiers of licences that weights of this kind have.
HUB_LICENSES = (
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0",
    "openrail",
    "other",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model card; `text` gives its Markdown."""

    title: str = "A CLIP-style model of medical images and captions"
    intro: str = DISCLAIMER
    """what stands between the title and the first section"""
    sections: Mapping[str, str] = field(default_factory=dict)
    """Markdown by heading, in order"""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """what the hub reads: license, tags, model-index …"""

    def text(self) -> str:
        """Return the card as Markdown: known sections in their usual order, then the others."""
        names = [name for name in ORDER if name in self.sections]
        names += [name for name in self.sections if name not in ORDER]
        metadata = {"library_name": "open_clip", "pipeline_tag": "zero-shot-image-classification", **self.metadata}
        metadata.setdefault("tags", ["clip", "medical"])
        parts = [
            "---\n" + yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).rstrip() + "\n---",
            f"# {self.title}",
            self.intro.strip(),
            *(f"## {name}\n\n{self.sections[name].strip()}" for name in names),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def with_section(self, name: str, body: str) -> Card:
        """Return the card with a section added or replaced."""
        return replace(self, sections={**self.sections, name: body})

    def with_metadata(self, **values: Any) -> Card:
        """Return the card with metadata added or replaced; names have dashes for underscores."""
        return replace(
            self, metadata={**self.metadata, **{name.replace("_", "-"): one for name, one in values.items()}}
        )


def parse_card(text: str) -> Card:
    """Return the parts of a card; headings inside of code are none.

    Raises:
        ConfigError: metadata that is no YAML mapping.
    """
    lines = text.splitlines()
    metadata: Any = {}
    if lines and lines[0].strip() == "---" and "---" in lines[1:]:
        end = lines.index("---", 1)
        metadata = _metadata("\n".join(lines[1:end]))
        lines = lines[end + 1 :]
    title = Card().title
    intro: list[str] = []
    sections: dict[str, list[str]] = {}
    body = intro
    fenced = False
    for line in lines:
        fenced ^= line.lstrip().startswith("```")
        if line.startswith("## ") and not fenced:
            body = sections.setdefault(line[3:].strip(), [])
        elif line.startswith("# ") and not fenced and body is intro:
            title = line[2:].strip()
        else:
            body.append(line)
    joined = {name: "\n".join(part).strip() for name, part in sections.items()}
    return Card(title=title, intro="\n".join(intro).strip(), sections=joined, metadata=metadata)


def missing(card: Card, *, scores: bool = True) -> dict[str, str]:
    """Return what a card lacks to be published: names of sections and `license`, with what fills each.

    Args:
        card: the card.
        scores: whether it must have scores.
    """
    lacking = {name: remedy for name, remedy in REQUIRED.items() if not _says(card, name)}
    if not scores:
        lacking.pop("Scores", None)
    if not card.metadata.get("license"):
        lacking["license"] = f"--license NAME, of the weights; one of {', '.join(HUB_LICENSES)}"
    return lacking


def use_section(location: str = FOLDER) -> str:
    """Return the three lines that load a checkpoint and ask it, and how OpenCLIP loads it.

    Args:
        location: `hf-hub:org/name`, where it is published.
    """
    openclip, note = location, ""
    if location == FOLDER:
        openclip = f"local-dir:{FOLDER}"
        note = "; if its config calls the text tower `.`, from inside the folder alone, as `local-dir:.`"
    return "\n".join(
        [
            "```python",
            "import clipmed",
            "",
            f'model = clipmed.load("{location}")',
            'print(model.classify("image.jpg", ["a normal chest radiograph", "a chest radiograph with a mass"])[0])',
            "```",
            "",
            f'OpenCLIP loads it, too: `open_clip.create_model_from_pretrained("{openclip}")`{note}.',
        ]
    )


def limits_section(modalities: Sequence[str] = ()) -> str:
    """Return limits that hold for every checkpoint of this kind.

    Args:
        modalities: those that it was trained on, most frequent first.
    """
    seen = (
        f" It was trained on {', '.join(modalities)}; of other kinds of images it knows nothing." if modalities else ""
    )
    return "\n".join(
        [
            f"- {DISCLAIMER} No score here was measured in clinical use.",
            "- Its probabilities compare the labels that it is given: where none of them is true, one still wins. They "
            "are calibrated only where calibration.json says so, for images like those that it was fitted on.",
            "- Figures of articles and public data sets do not stand for all patients: ages, sexes, skin tones, "
            "regions and makers of devices are not balanced, and mostly not recorded. Measure on your own population "
            "first.",
            f"- Kinds of images and findings that its data lack are unseen.{seen}",
            "- Captions name what authors wrote, in English; they may be wrong, and what they leave out was not "
            "learned.",
        ]
    )


def citation_section() -> str:
    """Return how to name the toolkit."""
    return "Made with clipmed. Cite the data sets above, too: their licences ask for it."


def hub_license(name: str) -> str:
    """Return the hub's identifier of a licence that is given as it or as SPDX has it.

    Raises:
        ConfigError: one that the hub does not know.
    """
    found = name.lower()
    if found not in HUB_LICENSES:
        raise ConfigError(f"license: got {name!r}; allowed: {', '.join(HUB_LICENSES)}")
    return found


def _says(card: Card, name: str) -> bool:
    body = card.sections.get(name, "").strip()
    return bool(body) and not body.startswith(NOT_SCORED)


def _metadata(text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the card's metadata is not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(found, dict | None):
        raise ConfigError(f"the card's metadata is {type(found).__name__}; allowed: names and values")
    return dict(found or {})
