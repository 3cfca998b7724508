"""Small spools: a few sources with groups, labels, licences, official splits and duplicates."""

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipmed.images import decode_rgb
from clipmed.jobs import JobsConfig
from clipmed.perceptual import perceptual_hash
from clipmed.records import Caption, Modality, Sample, Split, sample_key, unit_of_group
from clipmed.rejects import RejectReason, Stage
from shards.config import PackConfig
from shards.pack import pack
from shards.spool import SpoolInfo, open_spool, write_unit

INLINE = JobsConfig(executor="inline")


def make_jpeg(seed, size=(24, 20)):
    """A small JPEG of blurred noise, different for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize(size).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def make_scan(seed, side=160):
    """A grey picture of detail that is unlike any other seed's, as an RGB image."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=(side, side))
    layers = sum(gaussian_filter(noise, sigma) * sigma for sigma in (2, 4, 12))
    scaled = 255 * (layers - layers.min()) / np.ptp(layers)
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def jpeg_of(image, quality=92):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def make_sample(source, name, *, image_seed=None, image=None, spdx="CC-BY-4.0", **changes):
    finding = changes.pop("finding", "mass")
    number = int(hashlib.sha256(f"{source}/{name}".encode()).hexdigest()[:8], 16)
    image = image or make_jpeg(number if image_seed is None else image_seed)
    height, width = decode_rgb(image).shape[:2]
    told = {"path": f"{source}/{name}.jpg", "pmcid": "PMC123456", **changes.pop("provenance", {})}
    return Sample(
        key=sample_key(source, str(name)),
        source=source,
        image=image,
        captions=changes.pop("captions", None)
        or (
            Caption(text=f"Figure {name}: a {finding} – “{source}”.", origin="figure"),
            Caption(text=f"A scan showing a {finding}.", origin="template", model="bank", prompt="1"),
            Caption(text=f"Image of a {finding}.", origin="template", model="bank", prompt="1"),
        ),
        modality=Modality.CT if number % 2 else Modality.XRAY,
        license=spdx,
        width=width,
        height=height,
        sha256=hashlib.sha256(image).hexdigest(),
        phash=perceptual_hash(decode_rgb(image)),
        labels={"finding": [finding]},
        facts=changes.pop("facts", {"finding": finding}),
        provenance=told,
        **{"group": f"{source}/patient-{name}", **changes},
    )


def write_spool(path, source, samples, *, rejects=(), num_units=2, tasks=None):
    classes = {"mass": "a mass", "normal": "no finding"}
    tasks = {f"{source}_finding": {"modality": "ct", "classes": classes}} if tasks is None else tasks
    for unit in open_spool(path, SpoolInfo(source=source, num_units=num_units, tasks=tasks)):
        with write_unit(path, unit, source) as writer:
            for sample in samples:
                if unit_of_group(sample.group, num_units) == unit:
                    writer.add(sample)
            for item in rejects if unit == 0 else ():
                writer.reject(item, Stage.IMAGE, RejectReason.IMAGE_CORRUPT, "cut <short>")
            writer.count("articles", 3)
    return path


@dataclass
class Spools:
    """`ct`: patients of several images. `web`: licences and a copy of an image of `exam`. `exam`: official splits."""

    folder: Path
    paths: list[Path] = field(default_factory=list)
    num_seen: int = 0

    def write(self, num_patients=40):
        ct = [
            make_sample("ct", f"{p}-{i}", group=f"ct/patient-{p}")
            for p in range(num_patients)
            for i in range(1 + p % 3)
        ]
        web = [make_sample("web", n, spdx="CC-BY-NC-4.0" if n % 3 else "CC-BY-4.0") for n in range(20)]
        web += [make_sample("web", "tdm", spdx="LicenseRef-TDM"), make_sample("web", "copy", image_seed=7)]
        exam = [make_sample("exam", n, split=list(Split)[n % 3], finding="normal") for n in range(15)]
        exam += [make_sample("exam", "original", image_seed=7, split=Split.TEST)]
        for source, samples, rejects in (("ct", ct, ["bad.png"]), ("web", web, []), ("exam", exam, ["x", "y"])):
            self.paths.append(write_spool(self.folder / source, source, samples, rejects=rejects))
            self.num_seen += len(samples) + len(rejects)
        return self


@pytest.fixture(scope="session")
def spools(tmp_path_factory):
    return Spools(tmp_path_factory.mktemp("spools")).write()


@pytest.fixture(scope="session")
def config():
    return PackConfig(samples_per_shard=10, val_fraction=0.15, test_fraction=0.2)


@pytest.fixture(scope="session")
def packed(spools, config, tmp_path_factory):
    """A packed set; tests that change it take `own_set`."""
    out = tmp_path_factory.mktemp("packed") / "set"
    pack(spools.paths, out, config, INLINE, progress=False)
    return out


@pytest.fixture
def own_set(packed, tmp_path):
    import shutil

    return Path(shutil.copytree(packed, tmp_path / "set"))


@pytest.fixture
def make_spool(tmp_path):
    """A function that writes a spool of three samples, with the given vocabulary."""

    def make(source, tasks):
        return write_spool(tmp_path / source, source, [make_sample(source, n) for n in range(3)], tasks=tasks)

    return make
