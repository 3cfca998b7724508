"""The model card that travels with a checkpoint: data with licences, settings, scores on the way, limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import yaml

from clipmed.cards import DISCLAIMER, NOT_SCORED, Card, citation_section, limits_section, use_section
from clipmed.configuration import to_dict
from clipmed.description import read_card
from clipmed.errors import ConfigError
from clipmed.licenses import LicenseGroup, license_group, spdx_id
from clipmed.towers import ModelConfig, model_config
from shards.reader import ShardSet
from train.config import TrainConfig
from train.summary import settings_in_words

PHANTOM_PREFIX = "phantom"
PHANTOM_WARNING = """\
> **Trained on phantoms.** {which} of this checkpoint's training images are procedurally drawn phantoms, not medical
> images. No score of it is a medical result.
"""


def model_card(config: TrainConfig, sets: Sequence[ShardSet], validation: Mapping[str, float]) -> str:
    """Return the card as Markdown with the metadata block of the Hugging Face hub.

    It has every section that publishing asks for; scores come from an evaluation, when it is pushed.

    Args:
        config: the run's settings.
        sets: the shard sets trained on; the card counts their samples of the training split.
        validation: the last validation's numbers; may be empty.
    """
    rows = _provenance(sets, config.data.split)
    starts = _starts(config.model)
    sources = sorted({source for source, _, _ in rows})
    phantoms = [source for source in sources if source.startswith(PHANTOM_PREFIX)]
    warning = PHANTOM_WARNING.format(which="All" if len(phantoms) == len(sources) else "Some") if phantoms else ""
    return Card(
        intro=f"{DISCLAIMER}\n\n{warning}",
        sections={
            "Use": use_section(),
            "Data": _data(rows, sets, starts),
            "Licences": _licences(rows, starts),
            "Training configuration": _configuration(config),
            "Scores": _scores(validation),
            "Limits of use": limits_section(_modalities(rows)),
            "Citation": citation_section(),
        },
    ).text()


def _starts(model: ModelConfig) -> list[str]:
    """Return what the weights were before training, with its licence where its card says one."""
    starts = []
    if model.pretrained:
        starts.append(_start(model.pretrained, f"OpenCLIP's {model.config}:{model.pretrained}"))
    if model.image_weights:
        start = _start(model.image_weights, f"OpenCLIP's {model.image_weights}")
        starts.append(f"the image tower of {start}")
    if model.pretrained_image:
        starts.append(
            f"timm's weights of the image tower {model_config(model.config)['vision_cfg'].get('timm_model_name')}"
        )
    if model.pretrained_text:
        starts.append(f"the text tower {model_config(model.config)['text_cfg'].get('hf_model_name')}")
    return starts


def _start(location: str, tag: str) -> str:
    """Return the words for a checkpoint's folder, or those given where it is a tag."""
    folder = Path(location)
    if not folder.is_dir():
        return f"the checkpoint {folder.name}" if len(folder.parts) > 1 else tag
    try:
        card = read_card(folder)
    except ConfigError:
        return f"the checkpoint {folder.resolve().name} (its card is not readable)"
    found = card.metadata.get("license")
    said = f"licence {found}" if found else "its card names no licence"
    limits = ", for non-commercial use only" if license_group(spdx_id(str(found))) is LicenseGroup.NONCOMMERCIAL else ""
    return f"the checkpoint {folder.resolve().name} ({card.title}; {said}{limits})"


def _data(rows: Mapping[tuple[str, str, str], int], sets: Sequence[ShardSet], starts: Sequence[str]) -> str:
    return "\n".join(
        [
            f"{sum(rows.values())} training samples."
            + (f" What {' and '.join(starts)} learned from comes on top." if starts else ""),
            "",
            "| source | modality | licence | samples |",
            "|---|---|---|---|",
            *(
                f"| {source} | {modality} | {name} | {count} |"
                for (source, modality, name), count in sorted(rows.items())
            ),
            "",
            *(
                f"Set {PurePosixPath(shard_set.location).name}: manifest sha256 {shard_set.digest}"
                for shard_set in sets
            ),
        ]
    )


def _licences(rows: Mapping[tuple[str, str, str], int], starts: Sequence[str]) -> str:
    counts: Counter[str] = Counter()
    for (_, _, name), count in rows.items():
        counts[name] += count
    return "\n".join(
        [
            f"Of the data: {_license_sentence(rows)} They are the sources' own; look there before you pass images on.",
            *(
                ["", f"Training began with {' and '.join(starts)}: those terms hold for these weights, too."]
                if starts
                else []
            ),
            "",
            *(f"- {name}: {count} samples" for name, count in counts.most_common()),
        ]
    )


def _configuration(config: TrainConfig) -> str:
    return "\n".join(
        [
            f"{config.optim.steps} steps.",
            "",
            *(f"- {name}: {words}" for name, words in settings_in_words(config)),
            "",
            "```yaml",
            yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True).rstrip(),
            "```",
        ]
    )


def _modalities(rows: Mapping[tuple[str, str, str], int]) -> list[str]:
    counts: Counter[str] = Counter()
    for (_, modality, _), count in rows.items():
        counts[modality] += count
    return [name for name, _ in counts.most_common()]


def _provenance(sets: Sequence[ShardSet], split: str) -> Counter[tuple[str, str, str]]:
    counts: Counter[tuple[str, str, str]] = Counter()
    for shard_set in sets:
        columns = [shard_set.column(name) for name in ("source", "modality", "license")]
        counts.update(tuple(column[row] for column in columns) for row in shard_set.rows(split))
    return counts


def _license_sentence(rows: Mapping[tuple[str, str, str], int]) -> str:
    groups = {license_group(name) for _, _, name in rows}
    if LicenseGroup.OTHER in groups:
        return "Some have a licence that is neither known to allow commercial nor non-commercial use: see the table."
    if LicenseGroup.NONCOMMERCIAL in groups:
        return "Some are licensed for non-commercial use only."
    return "All have licences that allow commercial use."


def _scores(validation: Mapping[str, float]) -> str:
    if not validation:
        return NOT_SCORED
    return "\n".join(
        [
            f"{NOT_SCORED} The last validation of training, on held-out pairs of the same sets: equal caption facts "
            "count",
            "as right answers; `chance` is what random ranking gives.",
            "",
            "| measure | value |",
            "|---|---|",
            *(f"| {name} | {value:.4g} |" for name, value in validation.items()),
        ]
    )
