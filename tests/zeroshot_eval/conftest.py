"""A tiny shard set of coloured squares, a random model and a suite over them."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from clipmed.checkpoints import save_checkpoint
from clipmed.images import ImageConfig, ingest_image
from clipmed.jobs import JobsConfig
from clipmed.records import Caption, Modality, Sample, Split, sample_key
from clipmed.rejects import RejectReason, Stage
from clipmed.towers import ModelConfig, build_two_tower
from shards.pack import PackConfig, pack
from shards.spool import SpoolInfo, open_spool, write_unit

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (128, 128, 128)}
NUM_EACH = 12
GROUP_SIZE = 2


def coloured_square(colour: tuple[int, int, int], rng: np.random.Generator) -> bytes:
    noise = rng.integers(-25, 26, (40, 40, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_spool(path: Path, source: str, modality: Modality) -> None:
    rng = np.random.default_rng(len(source))
    task = f"{source}_colour"
    info = SpoolInfo(
        source=source,
        num_units=1,
        tasks={task: {"modality": str(modality), "classes": {name: name for name in COLOURS}}},
    )
    open_spool(path, info)
    with write_unit(path, 0, source) as writer:
        for name, colour in COLOURS.items():
            for number in range(NUM_EACH):
                stored = ingest_image(coloured_square(colour, rng), ImageConfig())
                item = f"{name}-{number}"
                writer.add(
                    Sample(
                        key=sample_key(source, item),
                        source=source,
                        image=stored.jpeg,
                        captions=(Caption(text=f"{modality} of something {name}", origin="template"),),
                        modality=modality,
                        group=f"{name}-{number // GROUP_SIZE}",
                        license="CC0-1.0",
                        width=stored.width,
                        height=stored.height,
                        sha256=stored.sha256,
                        phash=stored.phash,
                        labels={task: [name]},
                        split=Split.TRAIN if number < 4 else Split.TEST,
                    )
                )
        writer.reject("broken", Stage.IMAGE, RejectReason.IMAGE_CORRUPT, "cut short")


@pytest.fixture(scope="session")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    spools = [folder / "squares", folder / "tiles"]
    write_spool(spools[0], "squares", Modality.CT)
    write_spool(spools[1], "tiles", Modality.MRI)
    pack(spools, folder / "set", PackConfig(), JobsConfig(executor="inline"), progress=False)
    return folder / "set"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run") / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_checkpoint(folder, build_two_tower(ModelConfig()), "# tiny")
    return folder


@pytest.fixture(scope="session")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedding cache that tests share which do not look at it."""
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture
def suite_data() -> dict:
    classes = {name: [name, f"something {name}"] for name in COLOURS}
    common = {"templates": ["a picture of {}", "an image that is {}"], "classes": classes}
    seen = ["red", "green", "blue"]
    return {
        "name": "colours",
        "title": "Colours <of> squares",
        "phantom": True,
        "tasks": [
            {"name": "squares", "task": "squares_colour", "modality": "ct", "only_classes": seen, **common},
            {"name": "tiles", "task": "tiles_colour", "modality": "mri", "note": "Tiles are easy.", **common},
            {"name": "squares_grey", "task": "squares_colour", "modality": "ct", "held_out": True}
            | {"only_classes": ["grey"], **common},
        ],
        "retrieval": [{"name": "captions"}, {"name": "ct_captions", "modality": "ct"}],
    }


@pytest.fixture
def suite_file(tmp_path: Path, suite_data: dict) -> Path:
    path = tmp_path / "colours.yaml"
    path.write_text(yaml.safe_dump(suite_data), encoding="utf-8")
    return path
