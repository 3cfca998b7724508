"""Small files of choices in their published formats, and embeddings of chosen cosines."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from zeroshot_eval.choices import QuestionSet, image_refs, text_style, texts


def png(value: int = 120, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side), value).save(buffer, "PNG")
    return buffer.getvalue()


def write_image(path: Path, value: int = 120) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(value))


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def embedded(question_set: QuestionSet, cosines: Mapping[tuple[str, str], float], prompt: str = ""):
    """Image and text embeddings whose cosines are those given, zero elsewhere: one axis a text, and spare ones."""
    names, refs = texts(question_set, text_style(prompt)), image_refs(question_set)
    text_vectors = dict(zip(names, np.eye(len(names) + len(refs)), strict=False))
    image_vectors = {}
    for place, ref in enumerate(refs):
        row = np.array([cosines.get((ref, name), 0.0) for name in names] + [0.0] * len(refs))
        row[len(names) + place] = np.sqrt(1 - row @ row)
        image_vectors[ref] = row
    as_singles = lambda found: {name: row.astype(np.float32) for name, row in found.items()}  # noqa: E731
    return as_singles(image_vectors), as_singles(text_vectors)


def values(scored, weights: np.ndarray | None = None) -> dict[str, float]:
    rows = len(scored.groups)
    found = scored.statistic(np.ones((1, rows)) if weights is None else weights)
    return {name: float(value[0]) for name, value in found.items()}


def reasons(question_set: QuestionSet) -> dict[str, str]:
    return {skip.item: skip.reason for skip in question_set.skipped}
