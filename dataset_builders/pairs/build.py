"""The builder of image–caption lists: JSON lines to samples with native captions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from clipmed.configuration import to_dict
from clipmed.errors import ItemRejectedError
from clipmed.images import ingest_image
from clipmed.jobs import JobsConfig
from clipmed.licenses import spdx_id
from clipmed.records import Caption, CaptionOrigin, Modality, Sample, canonical_json, sample_key
from clipmed.rejects import RejectReason, Stage
from dataset_builders.items import Problem, build_spool, read_media, require_folder, text_lines
from dataset_builders.pairs.config import MODALITIES, PairsConfig
from shards.spool import SpoolInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class PairItem:
    """One image and its texts, as a line lists them. `captions` are (origin, text)."""

    item: str
    path: str
    group: str
    line: int
    captions: tuple[tuple[CaptionOrigin, str], ...] = ()
    modality: str = ""
    license: str = ""
    provenance: str = "{}"
    problem: Problem | None = None


def build_pairs(config: PairsConfig, root: Path, out: Path, jobs: JobsConfig) -> dict[str, Any]:
    """Build the list at `root` into the spool `out`, or finish one that was begun.

    Returns:
        The counts: source, units, seen, samples, rejects, rejects_by_reason, counters.

    Raises:
        DataError: no such folder or list, or `out` was begun from something else.
    """
    items = list_pairs(config, root)
    info = SpoolInfo(
        source=config.source,
        num_units=config.num_units,
        config={"builder": "pairs", **to_dict(config)},
    )
    return build_spool(out, info, items, partial(make_sample, config=config, root=root), jobs)


def list_pairs(config: PairsConfig, root: Path) -> list[PairItem]:
    """Return one item for each line that is not blank, in the file's order."""
    require_folder(root)
    items: list[PairItem] = []
    lines: dict[str, int] = {}
    for number, text in enumerate(text_lines(root / config.file), 1):
        if not text.strip():
            continue
        item = _line_item(config, text, number)
        if item.problem is None and item.path in lines:
            detail = f"line {number} lists the image of line {lines[item.path]} again"
            item = replace(item, problem=Problem(Stage.PARSE, RejectReason.DUPLICATE_EXACT, detail))
        if item.problem is None:
            lines[item.path] = number
        items.append(item)
    return items


def make_sample(item: PairItem, config: PairsConfig, root: Path) -> Sample:
    """Return the sample of a listed image.

    Raises:
        ItemRejectedError: the image is missing, reached through a link, or not one that is kept.
    """
    stored = ingest_image(read_media(root, item.path, config.max_file_mb), config.image)
    return Sample(
        key=sample_key(config.source, item.path),
        source=config.source,
        image=stored.jpeg,
        captions=tuple(Caption(text=text, origin=origin) for origin, text in item.captions),
        modality=Modality(item.modality),
        group=item.group,
        license=item.license,
        width=stored.width,
        height=stored.height,
        sha256=stored.sha256,
        phash=stored.phash,
        provenance={"path": item.path, "line": item.line, **json.loads(item.provenance)},
    )


def _line_item(config: PairsConfig, text: str, number: int) -> PairItem:
    found = PairItem(item=f"{config.file}:{number}", path="", group=f"{config.source}/line {number}", line=number)
    try:
        row = _parse(text)
        path = str(PurePosixPath(_required(row, config.image_field)))
        found = replace(found, item=f"{path} ({found.item})", path=path, group=f"{config.source}/{path}")
        if config.group_field is not None:
            found = replace(found, group=f"{config.source}/{_required(row, config.group_field)}")
        return replace(
            found,
            captions=_captions(config, row),
            modality=_modality(config, row),
            license=_license(config, row),
            provenance=canonical_json({name: row[name] for name in config.provenance_fields if name in row}),
        )
    except ItemRejectedError as error:
        return replace(found, problem=Problem(error.stage, error.reason, error.detail))


def _parse(text: str) -> Mapping[str, Any]:
    try:
        row = json.loads(text, parse_constant=_refuse_constant)
        canonical_json(row).encode()  # what JSON cannot say again, such as a lone surrogate or 1e999, goes no further
    except (ValueError, RecursionError) as error:
        raise _invalid(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise _invalid(f"got {type(row).__name__}; allowed: a JSON object")
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _required(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _invalid(f"field {name!r} is {value!r}; allowed: a text")
    return value.strip()


def _captions(config: PairsConfig, row: Mapping[str, Any]) -> tuple[tuple[CaptionOrigin, str], ...]:
    fields: list[tuple[CaptionOrigin, str]] = [("figure", config.caption_field)]
    if config.mention_field is not None:
        fields.append(("mention", config.mention_field))
    found = [(origin, text) for origin, name in fields for text in _texts(row, name)]
    if not found:
        raise ItemRejectedError(Stage.CAPTION, RejectReason.CAPTION_MISSING, "no caption and no mention")
    kept = [(origin, text) for origin, text in found if len(text) >= config.min_caption_chars]
    if not kept:
        detail = f"{found[0][1]!r}; allowed: {config.min_caption_chars} characters or more"
        raise ItemRejectedError(Stage.CAPTION, RejectReason.CAPTION_TOO_SHORT, detail)
    return tuple(dict.fromkeys(kept))


def _texts(row: Mapping[str, Any], name: str) -> Sequence[str]:
    value = row.get(name)
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in values):
        raise _invalid(f"field {name!r} holds something else than text")
    tidy = [" ".join(text.split()) for text in values]
    return [text for text in tidy if text]


def _modality(config: PairsConfig, row: Mapping[str, Any]) -> str:
    if config.modality_field is None:
        return config.modality
    written = _required(row, config.modality_field)
    modality = config.modality_map.get(written, written.lower())
    if modality not in MODALITIES:
        raise _invalid(f"unknown modality {written!r}; name it in modality_map")
    return modality


def _license(config: PairsConfig, row: Mapping[str, Any]) -> str:
    stated = row.get(config.license_field) if config.license_field else None
    written = stated.strip() if isinstance(stated, str) and stated.strip() else config.license
    return spdx_id(config.license_map.get(written, written))


def _invalid(detail: str) -> ItemRejectedError:
    return ItemRejectedError(Stage.PARSE, RejectReason.ROW_INVALID, detail)
