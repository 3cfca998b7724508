"""A shard set of drawn images with captions as long as PubMed Central's, which trainers and loaders run on.

PubMed Central's captions have 166 tokens on average, and 19 % have more than 256 (Open-PMC's figures). A gamma
distribution of shape 1.9 and scale 87.4 has both; each word here is one token of OpenAI's vocabulary.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipmed.images import ImageConfig, ingest_image
from clipmed.jobs import JobsConfig
from clipmed.records import Caption, Modality, Sample, Split, sample_key
from shards.config import PackConfig
from shards.pack import pack
from shards.spool import SpoolInfo, open_spool, write_unit

SOURCE = "drawn_pairs"
SHAPE, SCALE = 1.9, 87.4
TEXT = """image chest left right lung heart brain liver bone view scan patient arrow white black region area shows with
and of the in small large normal tissue cell stain red blue green section after before year old man woman"""
WORDS = TEXT.split()


def make_set(folder: Path, count: int, side: int, samples_per_shard: int = 250) -> Path:
    """Draw and pack the set, if it is not there; return its folder."""
    target = folder / f"set_{count}_{side}"
    if not (target / "manifest.json").exists():
        spool = folder / f"spool_{count}_{side}"
        open_spool(spool, SpoolInfo(source=SOURCE, num_units=1, tasks={}))
        with write_unit(spool, 0, SOURCE) as unit:
            for number in range(count):
                unit.add(_sample(number, side))
        pack(
            [spool],
            target,
            PackConfig(samples_per_shard=samples_per_shard),
            JobsConfig(executor="inline"),
            progress=False,
        )
    return target


def caption(generator: np.random.Generator) -> str:
    """Return a caption of a random number of one-token words, with start and end not counted."""
    count = max(6, round(generator.gamma(SHAPE, SCALE)) - 2)
    return " ".join(generator.choice(WORDS, count))


def draw(generator: np.random.Generator, side: int) -> bytes:
    """Return a JPEG of smooth shapes under noise: 512 pixels make about 60 KB, as figures do."""
    coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    smooth: npt.NDArray[np.int16] = np.asarray(
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.int16
    )
    noisy = np.clip(smooth + generator.normal(0, 9, smooth.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _sample(number: int, side: int) -> Sample:
    generator = np.random.default_rng([17, number])
    stored = ingest_image(draw(generator, side), ImageConfig())
    return Sample(
        key=sample_key(SOURCE, str(number)),
        source=SOURCE,
        image=stored.jpeg,
        captions=(Caption(text=caption(generator), origin="figure"),),
        modality=Modality.OTHER,
        group=str(number),
        license="CC0-1.0",
        width=stored.width,
        height=stored.height,
        sha256=stored.sha256,
        phash=stored.phash,
        split=Split.TRAIN,
    )
