"""What the words of a caption say of how the image was made."""

from __future__ import annotations

import re

from clipmed.records import Modality

# Abbreviations count only in capitals: "ct" is also a cycle threshold, "pet" an animal, "oct" a month.
_WORDS: dict[Modality, tuple[str, ...]] = {
    Modality.XRAY: (
        "x-?rays?",
        "radiographs?",
        "radiographic",
        "roentgenograms?",
        "mammogra(?:m|ms|phy|phic)",
        "fluoroscop(?:y|ic)",
        "angiograms?",
    ),
    Modality.CT: ("comput(?:ed|erized|erised) tomogra(?:phy|phic|m|ms)", "micro-?ct"),
    Modality.MRI: (
        "magnetic resonance imag(?:es?|ing)",
        "magnetic resonance (?:angiography|cholangiopancreatography)",
        "T[12][- ]?weighted",
        "diffusion[- ]weighted",
        "diffusion[- ]tensor",
    ),
    Modality.ULTRASOUND: (
        "ultraso(?:und|unds|nography|nographic|nogram|nograms)",
        "sonogra(?:m|ms|phy|phic)",
        "echocardiogra(?:m|ms|phy|phic)",
        "doppler",
    ),
    Modality.NUCLEAR: ("positron emission", "scintigra(?:m|ms|phy|phic)", "bone scans?", "single[- ]photon emission"),
    Modality.HISTOPATHOLOGY: (
        "ha?ematoxylin",
        "histopatholog(?:y|ic|ical)",
        "histolog(?:y|ic|ical)",
        "immunohistochemi(?:stry|cal)",
        "photomicrographs?",
        "biopsy specimens?",
    ),
    Modality.MICROSCOPY: (
        "electron micro(?:scopy|scope|scopic|graphs?)",
        "confocal",
        "two-photon",
        "micrographs?",
        "fluorescence micro(?:scopy|scope|scopic)",
        "immunofluorescen(?:ce|t)",
        "phase[- ]contrast micro(?:scopy|scope|graphs?)",
    ),
    Modality.FUNDUS: (
        "fund(?:us|oscopic) (?:photo(?:graph|graphs|graphy|s)|images?|examination)",
        "colou?r fundus",
        "fluorescein angiogra(?:phy|m|ms)",
        "retinal photographs?",
    ),
    Modality.OCT: ("optical coherence tomogra(?:phy|phic|m|ms)",),
    Modality.DERMATOLOGY: ("derm(?:at)?oscop(?:y|ic)", "skin lesions?"),
    Modality.ENDOSCOPY: ("(?:endo|colono|gastro|broncho|cysto|laryngo|sigmoido|duodeno)scop(?:y|ic)",),
}
_ABBREVIATIONS: dict[Modality, tuple[str, ...]] = {
    Modality.CT: ("(?<!Δ)CT(?! values?)", "CBCT", "HRCT", "CTA", "MDCT", "CECT"),
    Modality.MRI: ("f?MRI", "MRA", "MRCP", "FLAIR", "DWI"),
    Modality.ULTRASOUND: ("TTE", "TEE", "EUS"),
    Modality.XRAY: ("CXR",),
    Modality.NUCLEAR: ("PET", "SPECT", "FDG"),
    Modality.HISTOPATHOLOGY: ("H ?& ?E", "HE[- ]stain(?:ed|ing)", "IHC"),
    Modality.MICROSCOPY: ("[ST]EM (?:images?|micrographs?)",),
    Modality.OCT: ("SD-OCT", r"OCT(?![-/]?\d)"),
}
# What every match of a modality's words contains, in small letters: looking for it first spares most of the searching.
_STEMS: dict[Modality, tuple[str, ...]] = {
    Modality.XRAY: ("ray", "radiograph", "roentgeno", "mammogra", "fluoroscop", "angiogram"),
    Modality.CT: ("tomogra", "ct"),
    Modality.MRI: ("magnetic resonance", "weighted", "diffusion"),
    Modality.ULTRASOUND: ("ultraso", "sonogra", "echocardiogra", "doppler"),
    Modality.NUCLEAR: ("positron emission", "scintigra", "bone scan", "photon emission"),
    Modality.HISTOPATHOLOGY: ("ematoxylin", "histo", "photomicrograph", "biopsy specimen"),
    Modality.MICROSCOPY: ("micro", "confocal", "two-photon", "immunofluorescen"),
    Modality.FUNDUS: ("fund", "fluorescein angiogra", "retinal photograph"),
    Modality.OCT: ("optical coherence",),
    Modality.DERMATOLOGY: ("oscop", "skin lesion"),
    Modality.ENDOSCOPY: ("scop",),
}
# The same for abbreviations, as they are written.
_CAPITALS: dict[Modality, tuple[str, ...]] = {
    Modality.CT: ("CT",),
    Modality.MRI: ("MR", "FLAIR", "DWI"),
    Modality.ULTRASOUND: ("TTE", "TEE", "EUS"),
    Modality.XRAY: ("CXR",),
    Modality.NUCLEAR: ("PET", "SPECT", "FDG"),
    Modality.HISTOPATHOLOGY: ("H&", "H &", "HE", "IHC"),
    Modality.MICROSCOPY: ("EM ",),
    Modality.OCT: ("OCT",),
}
_RULES = [
    (
        modality,
        bool(flags),
        _STEMS[modality] if flags else _CAPITALS[modality],
        re.compile(rf"(?<![\w-])(?:{'|'.join(words)})(?!\w)", flags),
    )
    for table, flags in ((_WORDS, re.IGNORECASE), (_ABBREVIATIONS, 0))
    for modality, words in table.items()
]
# Wordings that name two modalities and mean the first: (meant, also named, wording).
_ABSORBS = (
    (Modality.NUCLEAR, Modality.CT, re.compile(r"(?:PET|SPECT)[ /-]?CT")),
    (Modality.NUCLEAR, Modality.MRI, re.compile(r"PET[ /-]MRI?")),
    (Modality.CT, Modality.XRAY, re.compile(r"x-?ray (?:micro-?)?comput(?:ed|erized) tomogra", re.IGNORECASE)),
    (Modality.FUNDUS, Modality.XRAY, re.compile(r"fluorescein angiogra", re.IGNORECASE)),
)


def caption_modality(text: str) -> Modality:
    """Return the one modality that a caption's words name; OTHER where they name none or several.

    >>> str(caption_modality("Axial CT of the chest")), str(caption_modality("CT and MRI of the brain"))
    ('ct', 'other')
    """
    lowered = text.lower()
    named = set()
    for modality, is_folded, stems, pattern in _RULES:
        if _holds_any(lowered if is_folded else text, stems) and pattern.search(text):
            named.add(modality)
    for winner, loser, together in _ABSORBS:
        if winner in named and loser in named and together.search(text):
            named.discard(loser)
    return named.pop() if len(named) == 1 else Modality.OTHER


def _holds_any(text: str, stems: tuple[str, ...]) -> bool:
    for stem in stems:  # noqa: SIM110 (a generator's frames cost more than the looking)
        if stem in text:
            return True
    return False
