"""Figures of a page stay as they came, and packing scales them as a build with that side would have."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipmed.configuration import from_dict
from dataset_builders.pmc import PmcConfig, build_pmc
from dataset_builders.pmc.config import FigureImageConfig
from shards.config import PackConfig
from shards.pack import pack as pack_set
from shards.reader import ShardSet
from shards.spool import unit_path
from tests.dataset_builders.test_pmc_build import INLINE, figure, pack, xml

SIDES = {"small": 300, "page": 1400, "poster": 3200}


def picture(side: int) -> bytes:
    """A JPEG of smooth colours, four by three."""
    coarse = Image.fromarray(np.random.default_rng(side).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    media = {f"{name}.jpg": picture(side) for name, side in SIDES.items()}
    pack(root, 7, xml(7, "".join(figure(name, "Axial CT of a lung before treatment.") for name in SIDES)), media)
    return root


def build(archive: Path, out: Path, **settings: object) -> Path:
    build_pmc(PmcConfig(root=str(archive), num_units=1, **settings), out, INLINE)  # type: ignore[arg-type]
    return out


def test_figures_up_to_a_page_stay_as_they_came(archive: Path, tmp_path: Path):
    out = build(archive, tmp_path / "spool")
    rows = pq.read_table(unit_path(out, 0) / "samples.parquet").to_pylist()
    sides = {json.loads(row["provenance"])["media"]: (row["width"], row["height"]) for row in rows}
    assert sides == {"small.jpg": (300, 225), "page.jpg": (1400, 1050), "poster.jpg": (3000, 2250)}
    kept = {json.loads(row["provenance"])["media"] for row in rows if row["sha256"] in row["provenance"]}
    assert kept == {"small.jpg", "page.jpg"}  # the bytes as they came are those stored


def test_packing_scales_figures_as_a_build_with_that_side_stores_them(archive: Path, tmp_path: Path):
    large = build(archive, tmp_path / "large")
    small = build(archive, tmp_path / "small", image=FigureImageConfig(max_side=512))
    packed = {}
    for name, spool in (("large", large), ("small", small)):
        pack_set([spool], tmp_path / f"{name}.set", PackConfig(max_side=512), INLINE, progress=False)
        found = ShardSet(tmp_path / f"{name}.set")
        packed[name] = {key: found.image_bytes(row) for row, key in enumerate(found.column("key"))}
    rows = pq.read_table(unit_path(large, 0) / "samples.parquet").to_pylist()
    untouched = [row["key"] for row in rows if row["width"] < 3000]
    assert len(untouched) == 2
    assert [packed["large"][key] == packed["small"][key] for key in untouched] == [True, True]


def test_settings_of_images_that_are_not_given_are_those_of_figures():
    config = from_dict(PmcConfig, {"root": "a", "image": {"min_side": 40}}, "here")
    assert (config.image.min_side, config.image.max_side) == (40, 3000)
