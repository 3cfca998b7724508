"""Which findings each modality has, which combinations are kept for evaluation only, and what classes are called."""

from __future__ import annotations

from collections.abc import Mapping

FINDINGS: Mapping[str, str] = {
    "normal": "Normal",
    "mass": "Mass",
    "ring_lesion": "Ring lesion",
    "calcifications": "Calcifications",
    "linear_defect": "Linear defect",
    "fluid_level": "Fluid level",
    "haemorrhage": "Haemorrhage",
}
MODALITY_FINDINGS: Mapping[str, tuple[str, ...]] = {
    "xray": ("normal", "mass", "ring_lesion", "calcifications", "linear_defect", "fluid_level"),
    "ct": ("normal", "mass", "ring_lesion", "calcifications", "linear_defect", "fluid_level", "haemorrhage"),
    "mri": ("normal", "mass", "ring_lesion", "linear_defect", "fluid_level", "haemorrhage"),
    "ultrasound": ("normal", "mass", "ring_lesion", "calcifications", "linear_defect", "fluid_level"),
    "histopathology": ("normal", "mass", "ring_lesion", "calcifications", "linear_defect", "haemorrhage"),
    "fundus": ("normal", "mass", "ring_lesion", "calcifications", "linear_defect", "haemorrhage"),
    "dermatology": ("normal", "mass", "ring_lesion", "calcifications", "linear_defect", "haemorrhage"),
    "endoscopy": ("normal", "mass", "ring_lesion", "calcifications", "linear_defect", "fluid_level", "haemorrhage"),
}
# Seen in training in other modalities; in these only in the test split, and never in an article.
HELD_OUT = frozenset(
    {
        ("ct", "linear_defect"),
        ("ultrasound", "ring_lesion"),
        ("dermatology", "haemorrhage"),
        ("endoscopy", "calcifications"),
    }
)
FOLDER_MODALITIES = ("xray", "ct", "mri", "histopathology", "fundus")
TABLE_MODALITIES = ("ultrasound", "dermatology", "endoscopy")


def trained_combinations() -> list[tuple[str, str]]:
    """Return every (modality, finding) that training may show."""
    return [pair for pair in all_combinations() if pair not in HELD_OUT]


def all_combinations() -> list[tuple[str, str]]:
    """Return every (modality, finding) that is drawn at all."""
    return [(modality, finding) for modality, findings in MODALITY_FINDINGS.items() for finding in findings]
