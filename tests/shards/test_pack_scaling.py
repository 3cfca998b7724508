"""Images scaled while a set is packed: as a builder would have stored them, and only those that are larger."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from clipmed.errors import ConfigError, DataError
from clipmed.images import ImageConfig, ingest_image
from clipmed.jobs import JobsConfig
from clipmed.records import Sample
from shards.caption_store import Attempt, CaptionStore, Outcome, Request, subject_of_image
from shards.config import PackConfig
from shards.pack import pack
from shards.reader import ShardSet
from shards.verify import verify
from tests.shards.conftest import INLINE, jpeg_of, make_sample, make_scan, write_spool

SIDES = (90, 120, 121, 200, 250, 300)


@pytest.fixture
def samples() -> list[Sample]:
    """Scans of 90 to 300 pixels."""
    return [make_sample("a", side, image=jpeg_of(make_scan(side, side))) for side in SIDES]


@pytest.fixture
def spool(samples: list[Sample], tmp_path: Path) -> Path:
    return write_spool(tmp_path / "a", "a", samples)


def packed_images(out: Path) -> dict[str, bytes]:
    """The images of a set by the sample's key, after everything in the set was checked."""
    assert verify(out, progress=False) == []
    found = ShardSet(out)
    return {key: found.image_bytes(row) for row, key in enumerate(found.column("key"))}


def test_larger_images_are_scaled_as_a_builder_scales_them_and_others_are_copied(
    spool: Path, samples: list[Sample], tmp_path: Path
):
    out = tmp_path / "set"
    manifest = pack([spool], out, PackConfig(max_side=120), INLINE, progress=False)
    stored = {sample.key: ingest_image(sample.image, ImageConfig(max_side=120)) for sample in samples}
    assert packed_images(out) == {key: image.jpeg for key, image in stored.items()}
    copied = [sample for sample in samples if stored[sample.key].jpeg == sample.image]
    assert [sample.width for sample in copied] == [90, 120]
    for row in ShardSet(out).table.to_pylist():
        image = stored[row["key"]]
        told = (row["width"], row["height"], row["sha256"], row["phash"])
        assert told == (image.width, image.height, image.sha256, image.phash)
        assert max(image.width, image.height) <= 120
    assert sum(shard["scaled"] for shard in manifest["shards"]) == 4
    assert "4 of them were scaled down to 120 pixels" in (out / "README.md").read_text()


def test_without_a_limit_all_images_are_as_the_spool_has_them(spool: Path, samples: list[Sample], tmp_path: Path):
    manifest = pack([spool], tmp_path / "set", PackConfig(max_side=0), INLINE, progress=False)
    assert packed_images(tmp_path / "set") == {sample.key: sample.image for sample in samples}
    assert sum(shard["scaled"] for shard in manifest["shards"]) == 0
    assert "scaled" not in (tmp_path / "set" / "README.md").read_text()


def test_scaled_sets_are_the_same_to_the_byte_in_any_executor(spool: Path, tmp_path: Path):
    config = PackConfig(max_side=100, jpeg_quality=80, samples_per_shard=2)
    pack([spool], tmp_path / "one", config, INLINE, progress=False)
    pack([spool], tmp_path / "two", config, JobsConfig(executor="processes", workers=2), progress=False)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_captions_made_from_an_image_join_it_at_any_size(spool: Path, samples: list[Sample], tmp_path: Path):
    largest = samples[-1]
    with CaptionStore.open(tmp_path / "s.sqlite", "write") as store:
        request = Request(subject=subject_of_image(largest.sha256), captioner="model", prompt="v1")
        made = Attempt(attempt=1, text="A large scan.")
        store.record(Outcome(request=request, state="done", texts=(made,), tokens_in=1, tokens_out=1, error=""), "")
    config = PackConfig(max_side=120, captions=(tmp_path / "s.sqlite",))
    pack([spool], tmp_path / "set", config, INLINE, progress=False)
    found = ShardSet(tmp_path / "set").table.to_pylist()
    assert [json.loads(row["provenance"])["path"] for row in found if "A large scan." in str(row["captions"])] == [
        f"a/{SIDES[-1]}.jpg"
    ]


def test_an_image_that_cannot_be_scaled_is_named(samples: list[Sample], tmp_path: Path):
    cut = samples[-1].image[:-900]
    damaged = replace(make_sample("a", "cut"), image=cut, width=300, height=300, sha256=hashlib.sha256(cut).hexdigest())
    spool = write_spool(tmp_path / "a", "a", [damaged])
    with pytest.raises(DataError, match=f"{damaged.key} of a cannot be scaled: .*image_corrupt.*build its spool again"):
        pack([spool], tmp_path / "set", PackConfig(max_side=120), INLINE, progress=False)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max_side": -1}, "max_side: got -1; allowed: 0 to 65535"),
        ({"jpeg_quality": 0}, "jpeg_quality: got 0; allowed: 1 to 100"),
    ],
)
def test_sides_and_qualities_out_of_range_are_refused(config: dict[str, int], message: str):
    with pytest.raises(ConfigError, match=message):
        PackConfig(**config)  # type: ignore[arg-type]
