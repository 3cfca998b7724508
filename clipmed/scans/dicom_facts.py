"""What DICOM tags may tell of an image: three facts in closed vocabularies. Free text never passes.

Codes are those of DICOM PS3.3: C.7.3.1.1.1 (Modality), C.8.11.1 and C.8.3.1 (View Position), annex L of PS3.16
(Body Part Examined). What is not in a table here is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from clipmed.records import Modality

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MODALITIES = {
    **dict.fromkeys(("CR", "DX", "RG", "XA", "RF", "MG", "PX", "IO", "XRAY"), Modality.XRAY),
    "CT": Modality.CT,
    "MR": Modality.MRI,
    **dict.fromkeys(("US", "IVUS"), Modality.ULTRASOUND),
    **dict.fromkeys(("NM", "PT"), Modality.NUCLEAR),
    "SM": Modality.HISTOPATHOLOGY,
    "GM": Modality.MICROSCOPY,
    "OP": Modality.FUNDUS,
    **dict.fromkeys(("OPT", "OCT", "IVOCT"), Modality.OCT),
    "DMS": Modality.DERMATOLOGY,
    "ES": Modality.ENDOSCOPY,
}
# Where the Modality tag is missing: the storage class, by its number below 1.2.840.10008.5.1.4.1.1.
_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
_STORAGE = {
    **dict.fromkeys(("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "12.1", "12.2"), Modality.XRAY),
    **dict.fromkeys(("2", "2.1"), Modality.CT),
    **dict.fromkeys(("4", "4.1"), Modality.MRI),
    **dict.fromkeys(("3.1", "6.1", "6.2"), Modality.ULTRASOUND),
    **dict.fromkeys(("20", "128", "130"), Modality.NUCLEAR),
    "77.1.6": Modality.HISTOPATHOLOGY,
    **dict.fromkeys(("77.1.5.1", "77.1.5.2"), Modality.FUNDUS),
    "77.1.5.4": Modality.OCT,
    "77.1.1": Modality.ENDOSCOPY,
}
_VIEWS = {
    "PA": "PA",
    "AP": "AP",
    **dict.fromkeys(("LL", "RL", "LAT", "LATERAL", "LLD", "RLD"), "lateral"),
    **dict.fromkeys(("RAO", "LAO", "RPO", "LPO", "OBL", "OBLIQUE"), "oblique"),
    "CC": "craniocaudal",
    "MLO": "mediolateral oblique",
    "ML": "mediolateral",
    "LM": "lateromedial",
}
_BODY_PARTS = {
    **dict.fromkeys(("CHEST", "THORAX"), "chest"),
    **{part: part.lower() for part in ("ABDOMEN", "PELVIS", "HEAD", "BRAIN", "NECK", "SKULL", "BREAST", "HEART")},
    **{part: part.lower() for part in ("LIVER", "KIDNEY", "PANCREAS", "SPLEEN", "BLADDER", "PROSTATE", "UTERUS")},
    **{part: part.lower() for part in ("SHOULDER", "CLAVICLE", "HUMERUS", "ELBOW", "FOREARM", "WRIST", "HAND")},
    **{part: part.lower() for part in ("FINGER", "HIP", "FEMUR", "KNEE", "PATELLA", "ANKLE", "FOOT", "SPINE")},
    **{part: part.lower() for part in ("EYE", "JAW", "LUNG", "COLON", "ESOPHAGUS", "STOMACH", "RIB", "STERNUM")},
    **dict.fromkeys(("TSPINE", "T SPINE"), "thoracic spine"),
    **dict.fromkeys(("CSPINE", "C SPINE"), "cervical spine"),
    **dict.fromkeys(("LSPINE", "L SPINE"), "lumbar spine"),
    **dict.fromkeys(("SSPINE", "SACRUM"), "sacrum"),
    "THYROID": "thyroid gland",
    "RETINA": "retina",
    "UPPERARM": "upper arm",
    "EXTREMITY": "extremity",
    "LEG": "lower leg",
    "ARM": "arm",
    "TOE": "toe",
}
_PLANES = ("sagittal", "coronal", "axial")
_STRAIGHT = 0.95  # cosine between a plane's normal and the body's axis


def facts_of(dataset: Dataset, frame: Dataset) -> dict[str, str]:
    """Return modality, view and body part, each where its code is in a table.

    Args:
        dataset: the file's tags.
        frame: tags of the frame, with ImageOrientationPatient where it is known.
    """
    modality = _MODALITIES.get(_code(dataset, "Modality"))
    if modality is None:
        modality = _STORAGE.get(_code(dataset, "SOPClassUID").removeprefix(_STORAGE_ROOT))
    plane = _plane(frame) if modality in {Modality.CT, Modality.MRI, Modality.NUCLEAR} else None
    found = {
        "modality": None if modality is None else str(modality),
        "view": plane or _VIEWS.get(_code(dataset, "ViewPosition")),
        "body_part": _BODY_PARTS.get(_code(dataset, "BodyPartExamined")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _code(dataset: Dataset, keyword: str) -> str:
    value: Any = _quiet(dataset, keyword)
    return str(value).strip().upper() if isinstance(value, str) else ""


def _plane(frame: Dataset) -> str | None:
    """Return the anatomical plane that the image lies in, if it lies nearly straight in one."""
    try:
        rows, columns = np.asarray(_quiet(frame, "ImageOrientationPatient"), np.float64).reshape(2, 3)
    except (TypeError, ValueError):
        return None
    normal = np.abs(np.cross(rows, columns))
    place = int(normal.argmax())
    return _PLANES[place] if normal[place] >= _STRAIGHT else None


def _quiet(dataset: Dataset, keyword: str) -> Any:
    """Return a tag's value; None where it is missing or cannot be read."""
    try:
        return dataset.get(keyword)
    except Exception:  # noqa: BLE001 (pydicom converts values when they are asked for, and raises what it meets)
        return None
