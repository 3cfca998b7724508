"""Data and models of `benchmarks.eval`: five datasets in CLIP_benchmark's layout, two checkpoints of a tiny model.

usage: python -m benchmarks.eval_data FOLDER

    FOLDER/tinymed-ViT.json                        OpenCLIP's config: two layers of 64, images of 32 x 32
    FOLDER/random.safetensors, trained.safetensors random weights, and the same after a few steps on other drawings
    FOLDER/data/wds_<dataset>/                     modality6 (140 images, 6 classes), finding4 (120, 4 classes),
                                                   multilabel10 (100), retrieval90 (90 images, 1 to 3 captions, many of
                                                   which repeat), retrieval48_1to1 (48, one caption each)

Images are drawings of a background (the modality) and a mark (the finding) on one of two sides. All from fixed seeds.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from clipmed.files import atomic_folder, write_json, write_text

CONFIG = "tinymed-ViT"
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
MODALITIES = ("chest radiograph", "CT slice", "brain MRI", "fundus photograph", "histology tile", "ultrasound frame")
FINDINGS = ("no finding", "a mass", "an effusion", "calcifications")
SIDES = ("left", "right")
SENTENCES = ("{m} with {f} on the {s}", "A {m} that shows {f}, {s} side.", "{s}: {f}. {m}.")
COLOURS = ((90, 90, 90), (30, 30, 40), (140, 140, 150), (190, 80, 20), (210, 140, 190), (60, 70, 60))
MODALITY_COUNTS = (50, 35, 25, 15, 10, 5)
SHARD_SAMPLES = 60
TRAIN_STEPS, TRAIN_BATCH = 60, 48

Facts = tuple[int, int, int]
Sample = Mapping[str, bytes]


def make_bench(folder: Path) -> Path:
    """Make datasets and checkpoints, unless they are there; return the folder."""
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            write_json(temporary / f"{CONFIG}.json", MODEL)
            for name, samples in _datasets().items():
                _write_dataset(temporary / "data" / f"wds_{name}", samples)
            _write_models(temporary)
    return folder


def draw(facts: Facts, rng: np.random.Generator) -> Image.Image:
    """Return the drawing of a modality, a finding and a side, 48 x 40 pixels."""
    modality, finding, side = facts
    rows = np.arange(40)[:, None, None]
    pixels = np.array(COLOURS[modality]) + 25 * np.sin(rows / (1.5 + modality)) + rng.normal(0, 12, (40, 48, 3))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    pen, x, y = ImageDraw.Draw(image), 8 + 24 * side + int(rng.integers(4)), 12 + int(rng.integers(6))
    if finding == 1:
        pen.ellipse([x, y, x + 13, y + 13], fill=(255, 255, 255))
    elif finding == 2:
        pen.rectangle([x - 4, y + 12, x + 18, y + 20], fill=(240, 240, 120))
    elif finding == 3:
        for _ in range(8):
            left, top = x + int(rng.integers(12)), y + int(rng.integers(12))
            pen.rectangle([left, top, left + 1, top + 1], fill=(255, 255, 255))
    return image


def captions(facts: Facts, rng: np.random.Generator) -> list[str]:
    """Return one to three sentences about a drawing."""
    words = dict(zip("mfs", (MODALITIES[facts[0]], FINDINGS[facts[1]], SIDES[facts[2]]), strict=True))
    chosen = sorted(rng.choice(len(SENTENCES), int(rng.integers(1, 4)), replace=False).tolist())
    return [SENTENCES[number].format(**words) for number in chosen]


def _datasets() -> dict[str, tuple[dict[str, Sequence[str]], list[Sample]]]:
    """Return the small text files and the samples of every dataset."""
    rng = np.random.default_rng(7)
    of_modality = rng.permutation(np.repeat(np.arange(len(MODALITIES)), MODALITY_COUNTS)).tolist()
    modality6 = [_labelled(*_seen(rng, modality=number), label=number) for number in of_modality]
    finding4 = [_labelled(*_seen(rng, finding=number % 4), label=number % 4) for number in range(120)]
    multilabel10, retrieval90, one_to_one = list[Sample](), list[Sample](), list[Sample]()
    for _ in range(100):
        image, facts = _seen(rng)
        targets = np.zeros(len(MODALITIES) + len(FINDINGS), dtype=np.int64)
        targets[[facts[0], len(MODALITIES) + facts[1]]] = 1
        multilabel10.append({"png": image, "npy": _npy(targets)})
    for _ in range(90):
        image, facts = _seen(rng)
        retrieval90.append({"png": image, "txt": "\n".join(captions(facts, rng)).encode()})
    for number in range(48):
        image, facts = _seen(rng, number % 6, number // 6 % 4, number // 24)
        words = f"Image {number}. {MODALITIES[facts[0]]}, {FINDINGS[facts[1]]}, {SIDES[facts[2]]}."
        one_to_one.append({"png": image, "txt": words.encode()})
    retrieval: dict[str, Sequence[str]] = {"dataset_type.txt": ["retrieval"]}
    templates = "zeroshot_classification_templates.txt"
    return {
        "modality6": ({"classnames.txt": MODALITIES, templates: ["{c}", "A {c} of a patient.", "a {c}"]}, modality6),
        "finding4": ({"classnames.txt": FINDINGS, templates: ["a scan with {c}", "It shows {c}."]}, finding4),
        "multilabel10": (
            {
                "classnames.txt": [*MODALITIES, *FINDINGS],
                templates: ["{c}", "{c} is seen"],
                "dataset_type.txt": ["multilabel"],
            },
            multilabel10,
        ),
        "retrieval90": (retrieval, retrieval90),
        "retrieval48_1to1": (retrieval, one_to_one),
    }


def _seen(
    rng: np.random.Generator, modality: int | None = None, finding: int | None = None, side: int | None = None
) -> tuple[bytes, Facts]:
    """Return a drawing as PNG, and its facts; those that are not given are drawn."""
    drawn = [int(rng.integers(count)) for count in (len(MODALITIES), len(FINDINGS), len(SIDES))]
    m, f, s = (one if given is None else given for given, one in zip((modality, finding, side), drawn, strict=True))
    buffer = io.BytesIO()
    draw((m, f, s), rng).save(buffer, format="png")
    return buffer.getvalue(), (m, f, s)


def _labelled(image: bytes, _facts: Facts, label: int) -> Sample:
    return {"png": image, "cls": str(label).encode()}


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _write_dataset(root: Path, content: tuple[Mapping[str, Sequence[str]], Sequence[Sample]]) -> None:
    texts, samples = content
    shards = [samples[start : start + SHARD_SAMPLES] for start in range(0, len(samples), SHARD_SAMPLES)]
    for name, lines in texts.items():
        write_text(root / name, "\n".join(lines) + "\n")
    write_text(root / "test" / "nshards.txt", f"{len(shards)}\n")
    for number, shard in enumerate(shards):
        with tarfile.open(root / "test" / f"{number}.tar", "w") as archive:
            for place, sample in enumerate(shard):
                for kind, data in sample.items():
                    member = tarfile.TarInfo(f"s{number * SHARD_SAMPLES + place:06d}.{kind}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def _write_models(folder: Path) -> None:
    """Save random weights, and those after a short training on drawings that no dataset holds."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    open_clip.add_model_config(folder / f"{CONFIG}.json")
    model, _, transform = open_clip.create_model_and_transforms(CONFIG)
    save_file(dict(model.state_dict()), folder / "random.safetensors")
    tokenizer = open_clip.get_tokenizer(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for drawings, sentences in _batches():
        images, texts, scale = model(torch.stack([transform(one) for one in drawings]), tokenizer(sentences))[:3]
        logits, right = scale * images @ texts.T, torch.arange(len(drawings))
        loss = torch.nn.functional.cross_entropy(logits, right) + torch.nn.functional.cross_entropy(logits.T, right)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    save_file(dict(model.state_dict()), folder / "trained.safetensors")


def _batches() -> Iterator[tuple[list[Image.Image], list[str]]]:
    rng = np.random.default_rng(8)
    for _ in range(TRAIN_STEPS):
        many = [(int(rng.integers(6)), int(rng.integers(4)), int(rng.integers(2))) for _ in range(TRAIN_BATCH)]
        yield [draw(facts, rng) for facts in many], [captions(facts, rng)[0] for facts in many]


if __name__ == "__main__":
    print(json.dumps({"bench": str(make_bench(Path(sys.argv[1])))}))
