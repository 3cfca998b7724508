"""The words of the synthetic articles: captions and mentions that no template bank and no prompt uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IMAGE_NAMES = {
    "xray": ("Chest X-ray", "Frontal radiograph of the thorax", "Plain film X-ray of the chest"),
    "ct": ("Axial CT slice", "Computed tomography scan of the abdomen", "Abdominal CT at one level"),
    "mri": ("Axial MRI slice", "Magnetic resonance image of the brain", "Cranial MRI section"),
    "ultrasound": ("Ultrasound view", "Sonogram with a curved probe", "B-mode ultrasound frame"),
    "histopathology": ("Histopathology tile", "H&E stained section", "Histology at high magnification, H&E"),
    "fundus": ("Fundus photograph", "Colour fundus image of the retina", "Retinal fundus picture"),
    "dermatology": (
        "Dermoscopy image",
        "Dermoscopic close-up of skin",
        "Skin surface under the dermatoscope, dermoscopy",
    ),
    "endoscopy": ("Endoscopy frame", "Colonoscopy still", "Endoscopic look along the lumen"),
}
FINDING_WORDS = {
    "normal": ("without any drawn lesion", "in which nothing abnormal was placed", "of an undisturbed anatomy"),
    "mass": ("with one solid mass", "that holds a single round mass", "where a compact mass was placed"),
    "ring_lesion": (
        "with a ring-shaped lesion",
        "that holds a ring lesion around a core",
        "where one annular ring was placed",
    ),
    "calcifications": (
        "with scattered calcifications",
        "sprinkled by many small calcified specks",
        "full of tiny calcifications",
    ),
    "linear_defect": (
        "crossed by a linear defect",
        "with a fracture-like line through it",
        "where a long linear gap was placed",
    ),
    "fluid_level": ("with fluid up to a level", "that holds a straight fluid level", "half filled by layered fluid"),
    "haemorrhage": (
        "with an irregular haemorrhage",
        "stained by a patchy bleed",
        "where a ragged haemorrhage was placed",
    ),
}
SHOWN_AS = (
    "The drawing in {ref} is the one {words}.",
    "We placed it as {ref} shows, {words}.",
    "Compare {ref}, {words}.",
)
TITLES = (
    "Drawn phantoms of {count} kinds for testing software",
    "A synthetic article on {count} procedural phantoms",
    "Phantom figures, series of {count}: no patient was imaged",
)
NOTICE = (
    "Every figure of this article is a phantom drawn by a computer program. There is no patient, no study and no "
    "finding in it; it exists to test software."
)


def caption(rng: np.random.Generator, panels: Sequence[tuple[str, str]]) -> str:
    """Return a caption for one panel, or "(A) … (B) …" for several."""
    texts = [
        f"{_pick(rng, IMAGE_NAMES[modality])} {_pick(rng, FINDING_WORDS[finding])}" for modality, finding in panels
    ]
    if len(texts) == 1:
        return f"{texts[0]}. Synthetic phantom."
    lettered = " ".join(f"({chr(65 + number)}) {text}." for number, text in enumerate(texts))
    return f"Synthetic phantoms side by side. {lettered}"


def mention(rng: np.random.Generator, reference: str, panels: Sequence[tuple[str, str]]) -> str:
    """Return a sentence that cites a figure; `reference` is the markup of the citation."""
    words = " and ".join(_pick(rng, FINDING_WORDS[finding]) for _, finding in panels)
    return _pick(rng, SHOWN_AS).format(ref=reference, words=words)


def title(rng: np.random.Generator, count: int) -> str:
    """Return an article's title."""
    return _pick(rng, TITLES).format(count=count)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
