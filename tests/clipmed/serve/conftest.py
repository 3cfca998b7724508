"""Two tiny checkpoints, an index by the first, and a server of them all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import clipmed
from clipmed.checkpoints import save_checkpoint
from clipmed.search import build_index
from clipmed.towers import ModelConfig, build_two_tower
from tests.clipmed.serve.serving import Server, noise, serving

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
INDEXED = 11
UPLOAD_MB = 6


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    found = {}
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        two_tower = build_two_tower(ModelConfig(config=str(folder / "tiny.json")))
        with torch.no_grad():
            two_tower.model.logit_scale.fill_(math.log(20))
        found[name] = folder / name / "model"
        save_checkpoint(found[name], two_tower, "card")
    return found


@pytest.fixture(scope="session")
def models(checkpoints: dict[str, Path]) -> dict[str, clipmed.ClipModel]:
    return {name: clipmed.load(folder, "cpu") for name, folder in checkpoints.items()}


@pytest.fixture(scope="session")
def index_folder(models: dict[str, clipmed.ClipModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    paths = [str(folder / f"{number}.png") for number in range(INDEXED)]
    for number, path in enumerate(paths):
        noise(seed=number).save(path)
    captions = {path: f"picture {number}" for number, path in enumerate(paths) if number}
    build_index(models["first"], paths, folder / "index", captions=captions)
    return folder / "index"


@pytest.fixture(scope="session")
def server(
    checkpoints: dict[str, Path], index_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    folders = map(str, checkpoints.values())
    arguments = ("--index", str(index_folder), "--max-upload-mb", str(UPLOAD_MB), "--queue", "1")
    with serving(log, *folders, *arguments) as running:
        yield running
        assert running.end() == 0
    assert log.read_text() == ""  # nothing written to disk, nothing logged, no matter what the tests sent
