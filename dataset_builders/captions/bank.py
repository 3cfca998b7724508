"""Template banks: the wording of label-made captions as versioned data."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipmed.configuration import from_dict, nearest, read_yaml, to_dict
from clipmed.errors import ConfigError
from clipmed.records import Modality

BANKS = Path(__file__).parent / "banks"
CONTEXT_PLACEHOLDERS = ("body_part", "view")
DEFAULT = "default"
PLAIN = "plain"
TemplateKind = Literal["finding", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateBank:
    """The phrases and templates that captions are made of.

    A phrase or template may hold {body_part} and {view}; it is used only where the facts name them. Every list
    therefore needs an entry without them.
    """

    name: str
    """the bank's name, that of its file"""
    version: int
    """raised with every change of wording; captions carry it"""
    modality_phrases: dict[str, list[str]]
    """modality: what such an image is called, such as xray: [radiograph, X-ray]"""
    finding_phrases: dict[str, list[str]] = field(default_factory=dict)
    """class id, or modality/class id, which comes first: noun phrases that state it, in place of the names of its
    catalogue entry"""
    templates: dict[str, list[str]]
    """default, or a modality instead of it: sentences with {modality} and {finding}. plain: those of images whose
    labels state no finding, with {modality} alone"""

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ConfigError(f"bank {self.name}: version {self.version}; allowed: 1 or more")
        self._check_keys()
        for where, texts in self._lists():
            _check_list(where, texts)
        for key, texts in self.templates.items():
            _check_templates(f"templates.{key}", key, texts)
        for where, phrases in self._phrase_lists():
            allowed = CONTEXT_PLACEHOLDERS if where.startswith("finding_phrases") else ()
            for phrase in phrases:
                _check_placeholders(where, phrase, allowed)

    def modality_words(self, modality: str) -> list[str]:
        """Return what an image of the modality may be called."""
        try:
            return self.modality_phrases[modality]
        except KeyError as error:
            raise ConfigError(
                f"bank {self.name} has no modality_phrases for {modality!r}; it has: "
                f"{', '.join(sorted(self.modality_phrases))}; add them or use another bank"
            ) from error

    def finding_words(self, modality: str, class_id: str) -> list[str]:
        """Return the bank's own phrases for a class; none where it has none."""
        return self.finding_phrases.get(f"{modality}/{class_id}") or self.finding_phrases.get(class_id) or []

    def sentences(self, modality: str, kind: TemplateKind) -> list[str]:
        """Return the templates for images of the modality, with a finding or plain."""
        key = PLAIN if kind == PLAIN else modality if modality in self.templates else DEFAULT
        try:
            return self.templates[key]
        except KeyError as error:
            raise ConfigError(
                f"bank {self.name} has no templates.{key}; it has: {', '.join(sorted(self.templates))}; "
                "add the list, or give the task findings to state"
            ) from error

    def _check_keys(self) -> None:
        modalities = [str(modality) for modality in Modality]
        for name in self.modality_phrases:
            _check_known(f"modality_phrases.{name}", name, modalities)
        for name in self.finding_phrases:
            if "/" in name:
                _check_known(f"finding_phrases.{name}", name.split("/", 1)[0], modalities)
        for name in self.templates:
            _check_known(f"templates.{name}", name, [DEFAULT, PLAIN, *modalities])
        if DEFAULT not in self.templates:
            raise ConfigError(f"bank {self.name}: templates.{DEFAULT} is missing; add a list of sentences")

    def _phrase_lists(self) -> Iterator[tuple[str, list[str]]]:
        for kind in ("modality_phrases", "finding_phrases"):
            lists: Mapping[str, list[str]] = getattr(self, kind)
            for name, texts in lists.items():
                yield f"{kind}.{name}", texts

    def _lists(self) -> Iterator[tuple[str, list[str]]]:
        yield from self._phrase_lists()
        for name, texts in self.templates.items():
            yield f"templates.{name}", texts


def load_bank(name: str) -> TemplateBank:
    """Read a shipped bank by its name, or any bank by the path of its YAML file.

    Raises:
        ConfigError: no such bank, or an entry of it that cannot be used, by name.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else BANKS / f"{name}.yaml"
    if not path.is_file():
        known = shipped_banks()
        raise ConfigError(
            f"no template bank {name!r}{nearest(name, known)} Shipped: {', '.join(known)}; or give the path of a file"
        )
    bank = from_dict(TemplateBank, read_yaml(path), str(path))
    if bank.name != path.stem:
        raise ConfigError(f"{path}: name is {bank.name!r}; allowed: the file's name, {path.stem!r}")
    return bank


def shipped_banks() -> list[str]:
    """Return the names of the banks that come with clipmed."""
    return sorted(path.stem for path in BANKS.glob("*.yaml"))


def bank_dict(bank: TemplateBank) -> dict[str, object]:
    """Return the whole bank as plain data, for the saved config of what was built with it."""
    return to_dict(bank)


def fields_of(text: str) -> list[str]:
    """Return the names of the placeholders in a text, in order."""
    return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]


def _check_known(where: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise ConfigError(f"{where}: unknown name {name!r}{nearest(name, known)} Allowed: {', '.join(known)}")


def _check_list(where: str, texts: list[str]) -> None:
    if not texts:
        raise ConfigError(f"{where}: got an empty list; allowed: one or more texts; remove the key or add a text")
    for position, text in enumerate(texts):
        if not text.strip():
            raise ConfigError(f"{where}[{position}]: got an empty text; allowed: words; remove it")
    repeated = sorted({text for text in texts if texts.count(text) > 1})
    if repeated:
        raise ConfigError(f"{where}: {repeated[0]!r} comes twice; remove one")
    if all(any(f"{{{name}}}" in text for name in CONTEXT_PLACEHOLDERS) for text in texts):
        raise ConfigError(
            f"{where}: every text holds {{body_part}} or {{view}}; add one without, for images of which "
            "neither is known"
        )


def _check_placeholders(where: str, text: str, allowed: tuple[str, ...]) -> None:
    try:
        found = fields_of(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} is not a template: {error}; close every brace") from error
    for name in found:
        if name not in allowed:
            shown = ", ".join(f"{{{known}}}" for known in allowed) or "none"
            raise ConfigError(f"{where}: unknown placeholder {{{name}}} in {text!r}; allowed here: {shown}")


def _check_templates(where: str, key: str, texts: list[str]) -> None:
    needed = ("modality",) if key == PLAIN else ("modality", "finding")
    allowed = (*needed, *CONTEXT_PLACEHOLDERS)
    for text in texts:
        _check_placeholders(where, text, allowed)
        missing = [name for name in needed if name not in fields_of(text)]
        if missing:
            raise ConfigError(f"{where}: {text!r} lacks {{{missing[0]}}}; a caption must state it; add the placeholder")
