"""NIfTI slices, slide tiles and rows of arrays: which images a file gives, and what they show."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import cv2
import h5py
import nibabel
import numpy as np
import pytest
import tifffile

from clipmed.configuration import from_dict
from clipmed.errors import ConfigError, ItemRejectedError
from clipmed.scans.config import chosen
from dataset_builders.readers.arrays import open_arrays
from dataset_builders.readers.config import ReaderConfig
from dataset_builders.readers.detection import kind_of
from dataset_builders.readers.parts import list_parts, read_part
from dataset_builders.readers.slide_files import ForeignSlide, TiffSlide

ANY = ReaderConfig(min_foreground=0.0, min_tissue=0.0)


def reason_of(source, part: str, config: ReaderConfig) -> str:
    with pytest.raises(ItemRejectedError) as error:
        read_part(source, part, config)
    assert str(error.value.stage) == "image"
    return str(error.value.reason)


# --- NIfTI


def marked_volume() -> np.ndarray:
    """A volume with axes to the right, to the front and up, (40, 50, 60): bright to the right, front and top."""
    x, y, z = np.meshgrid(np.arange(40) * 4, np.arange(50) * 10, np.arange(60) * 40, indexing="ij")
    return (x + y + z + 100).astype(np.int16)


def nifti(path: Path, axes: str, **header) -> Path:
    """Write the marked volume with its axes stored in the order and sense that the letters give."""
    image = nibabel.Nifti1Image(marked_volume(), np.eye(4))
    stored = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
        )
    )
    for name, value in header.items():
        stored.header[name] = value
    nibabel.save(stored, path)
    return path


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SRA"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slices_lie_as_radiologists_look_at_them_however_they_are_stored(tmp_path, axes, suffix):
    path = nifti(tmp_path / f"brain{suffix}", axes)
    for axis, count, shape in (("axial", 60, (50, 40)), ("coronal", 50, (60, 40)), ("sagittal", 40, (60, 50))):
        config = ReaderConfig(axis=axis, windows=("range",), min_foreground=0.0)
        parts = list_parts(path, config)
        assert parts == [f"{axis}-{number:03d}" for number in range(count)]
        found = read_part(path, parts[-5], config)
        assert found.pixels.shape == shape
        assert found.facts == {"view": axis}
        levels = found.pixels.astype(int)
        assert levels[0].mean() > levels[-1].mean()  # front or head at the top
        assert levels[:, 0].mean() > levels[:, -1].mean()  # the patient's right, or front, at the left
        assert levels.mean() > read_part(path, parts[3], config).pixels.mean()  # counted from below, behind, the left


def test_slices_share_the_window_of_the_volume_and_keep_its_range(tmp_path):
    path = nifti(tmp_path / "brain.nii.gz", "RAS")
    config = ReaderConfig(windows=("range",), min_foreground=0.0)
    volume = np.stack([read_part(path, part, config).pixels for part in list_parts(path, config)])
    truth = marked_volume()[::-1, ::-1].transpose(2, 1, 0).astype(float)
    expected = (truth - truth.min()) / (truth.max() - truth.min()) * 255
    assert np.abs(volume - expected).max() <= 0.5 + 1e-6
    assert len(np.unique(volume)) >= 200


def test_slope_intercept_and_the_stated_window_count(tmp_path):
    path = tmp_path / "ct.nii"
    image = nibabel.Nifti1Image(marked_volume(), np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    image.header["cal_min"], image.header["cal_max"] = -160, 240
    nibabel.save(image, path)
    hounsfield = np.asarray(nibabel.load(path).dataobj)[::-1, ::-1, 10].T
    expected = np.clip((hounsfield + 160) / 400, 0, 1) * 255
    for window in ("stored", "soft_tissue"):
        levels = read_part(path, "axial-010", ReaderConfig(windows=(window,), min_foreground=0.0)).pixels
        assert np.abs(levels - expected).max() <= 0.5 + 1e-6


def test_slices_without_content_are_rejected_with_a_reason_and_none_is_hidden(tmp_path):
    values = np.zeros((64, 64, 10), np.int16)
    values[16:48, 16:48, 3:7] = np.random.default_rng(0).integers(100, 1000, (32, 32, 4))
    path = tmp_path / "brain.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    parts = list_parts(path, ReaderConfig())
    assert parts == [f"axial-{number:03d}" for number in range(10)]
    assert all(read_part(path, part, ReaderConfig()).pixels.any() for part in parts[3:7])
    assert {reason_of(path, part, ReaderConfig()) for part in (*parts[:3], *parts[7:])} == {"image_blank"}


def test_a_channel_of_four_dimensions_and_an_axis_as_stored(tmp_path):
    values = np.stack([marked_volume(), marked_volume() * 2], axis=-1)
    path = tmp_path / "sequences.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1])), path)
    config = ReaderConfig(axis=0, channel=1, windows=("custom",), center=1000, width=2000, min_foreground=0.0)
    assert len(list_parts(path, config)) == 40
    levels = read_part(path, "axis0-005", config).pixels
    assert levels.shape == (180, 50)  # three times as far from slice to slice
    flat = ReaderConfig(
        axis=0, channel=1, windows=("custom",), center=1000, width=2000, min_foreground=0.0, square_pixels=False
    )
    assert (
        np.abs(read_part(path, "axis0-005", flat).pixels - np.clip(values[5, :, :, 1].T / 2000, 0, 1) * 255).max() <= 1
    )
    assert reason_of(path, "axis0-005", ReaderConfig(axis=0, channel=2)) == "media_missing"


def test_colours_of_a_volume_are_colours(tmp_path):
    values = np.zeros((40, 50, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    values["R"], values["B"] = 200, np.arange(50)[:, None]
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "colour.nii")
    pixels = read_part(tmp_path / "colour.nii", "axial-001", ReaderConfig()).pixels
    assert pixels.shape == (50, 40, 3)
    assert pixels[0, 0].tolist() == [200, 0, 49]


def test_a_header_that_promises_a_bomb_is_refused_before_anything_is_read(tmp_path):
    path = nifti(tmp_path / "brain.nii", "RAS")
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    assert reason_of(gzip.compress(raw), "axial-000", ANY) == "image_too_large"
    short = path.read_bytes()[:5000]
    assert reason_of(short, "axial-000", ANY) == "image_corrupt"
    assert reason_of(gzip.compress(short)[:-20], "axial-000", ANY) == "image_corrupt"


# --- whole slides


def slide(path: Path, microns: float | None = 0.25, **options) -> np.ndarray:
    """Write a pyramid of three levels: coloured tissue in the left half, glass in the right; return the finest."""
    generator = np.random.default_rng(0)
    pixels = np.full((2048, 4096, 3), 243, np.uint8)
    tissue = cv2.resize(generator.integers(0, 90, (64, 64, 3), dtype=np.uint8), (2048, 2048))
    pixels[:, :2048] = np.array([200, 90, 160], np.uint8) + tissue // 3
    resolution = (1e4 / microns, 1e4 / microns) if microns else None
    with tifffile.TiffWriter(path) as writer:
        for level in range(3):
            step = 4**level
            scaled = cv2.resize(pixels, (4096 // step, 2048 // step), interpolation=cv2.INTER_AREA)
            kwargs = {"subifds": 2} if level == 0 else {"subfiletype": 1}
            writer.write(
                scaled,
                tile=(256, 256),
                photometric="rgb",
                resolution=resolution and (resolution[0] / step, resolution[1] / step),
                resolutionunit="CENTIMETER" if microns else None,
                **kwargs,
                **options,
            )
    return pixels


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw"}], ids=["plain", "zlib", "lzw"])
def test_tiles_lie_on_tissue_and_are_the_slides_own_pixels(tmp_path, options):
    path = tmp_path / "slide.tif"
    pixels = slide(path, **options)
    config = ReaderConfig(tile_size=300)
    assert kind_of(path, config) == "slide"
    parts = list_parts(path, config)
    assert parts == [f"x{column * 300}-y{row * 300}-l0" for row in range(6) for column in range(7)]
    tile = read_part(path, "x600-y900-l0", config)
    assert (tile.pixels == pixels[900:1200, 600:900]).all()
    assert reason_of(path, "x3000-y0-l0", config) == "image_blank"
    assert reason_of(path, "x3900-y0-l0", config) == "media_missing"


def test_tiles_of_a_scale_come_from_the_level_that_is_fine_enough(tmp_path):
    path = tmp_path / "slide.tif"
    pixels = slide(path, compression="jpeg")
    config = ReaderConfig(tile_size=128, microns_per_pixel=2.0)  # 8 finest pixels for one, from the level of 4
    parts = list_parts(path, config)
    assert parts[:2] == ["x0-y0-l1", "x1024-y0-l1"]
    tile = read_part(path, "x1024-y0-l1", config).pixels
    expected = cv2.resize(pixels[:1024, 1024:2048], (128, 128), interpolation=cv2.INTER_AREA)
    assert tile.shape == (128, 128, 3)
    assert np.abs(tile.astype(int) - expected).mean() < 6


def test_tiles_are_drawn_by_their_place_alone(tmp_path):
    for name in ("one.tif", "other.tif"):
        slide(tmp_path / name)
    few = [list_parts(tmp_path / name, ReaderConfig(tile_size=256, max_tiles=9)) for name in ("one.tif", "other.tif")]
    every = list_parts(tmp_path / "one.tif", ReaderConfig(tile_size=256, max_tiles=None))
    assert few[0] == few[1]
    assert len(few[0]) == 9
    assert [part for part in every if part in few[0]] == few[0]
    assert min(len({part.split("-")[place] for part in few[0]}) for place in (0, 1)) >= 4  # spread over both sides


def test_a_scale_that_the_slide_does_not_state_is_a_reason(tmp_path):
    slide(tmp_path / "slide.tif", microns=None)
    with pytest.raises(ItemRejectedError, match="does not state its scale"):
        list_parts(tmp_path / "slide.tif", ReaderConfig(microns_per_pixel=0.5))


def test_openslide_gives_the_same_pixels_where_it_is_installed(tmp_path):
    pytest.importorskip("openslide", reason="openslide-python is not installed")
    with tifffile.TiffWriter(tmp_path / "slide.tif") as writer:
        for level, pixels in enumerate((slide(tmp_path / "finest.tif"), slide(tmp_path / "finest.tif")[::4, ::4])):
            kind = {"subfiletype": int(level > 0), "photometric": "rgb", "compression": "jpeg"}
            writer.write(np.ascontiguousarray(pixels), tile=(256, 256), **kind)
    ours, other = (made(tmp_path / "slide.tif", ReaderConfig()) for made in (TiffSlide, ForeignSlide))
    assert ours.levels == other.levels
    for level in (0, 1):
        for place in ((100, 50), (900, 400)):
            assert (ours.region(level, *place, 300, 200) == other.region(level, *place, 300, 200)).all()


# --- arrays


@pytest.fixture
def arrays(tmp_path: Path) -> dict[str, Path]:
    """The same arrays as npz, HDF5, and one of them as npy."""
    generator = np.random.default_rng(0)
    content = {
        "grey": generator.integers(0, 256, (5, 40, 48), dtype=np.uint8),
        "colour": generator.integers(0, 256, (5, 40, 48, 3), dtype=np.uint8),
        "deep": generator.integers(0, 4096, (5, 40, 48), dtype=np.uint16),
        "volumes": generator.integers(0, 256, (2, 6, 40, 48), dtype=np.uint8),
        "labels": np.arange(5),
    }
    np.savez_compressed(tmp_path / "set.npz", **content)
    np.save(tmp_path / "set.npy", content["grey"])
    with h5py.File(tmp_path / "set.h5", "w") as file:
        for name, values in content.items():
            file.create_dataset(f"train/{name}", data=values, compression="gzip")
    return {suffix: tmp_path / f"set.{suffix}" for suffix in ("npz", "h5", "npy")}


@pytest.mark.parametrize(("suffix", "prefix"), [("npz", ""), ("h5", "train/")])
def test_rows_of_arrays_are_images(arrays, suffix, prefix):
    path = arrays[suffix]
    with np.load(arrays["npz"]) as content:
        truth = dict(content)
    for name in ("grey", "colour"):
        config = ReaderConfig(array=prefix + name)
        assert list_parts(path, config) == ["0", "1", "2", "3", "4"]
        assert (read_part(path, "3", config).pixels == truth[name][3]).all()
    deep = read_part(path, "2", ReaderConfig(array=f"{prefix}deep")).pixels
    assert len(np.unique(deep)) >= 200
    volumes = ReaderConfig(array=f"{prefix}volumes", every=3)
    assert list_parts(path, volumes) == ["0-000", "0-003", "1-000", "1-003"]
    assert (read_part(path, "1-003", volumes).pixels == truth["volumes"][1, 3]).all()
    labels = open_arrays(path, volumes)
    assert labels.array(f"{prefix}labels").tolist() == [0, 1, 2, 3, 4]
    assert labels.row(f"{prefix}labels", 4) == 4
    assert reason_of(path, "5", ReaderConfig(array=f"{prefix}grey")) == "media_missing"
    assert reason_of(path, "0", ReaderConfig(array=f"{prefix}none")) == "media_missing"


def test_an_npy_file_is_one_array(arrays):
    assert (read_part(arrays["npy"], "4", ReaderConfig()).pixels == np.load(arrays["npy"])[4]).all()


def test_arrays_that_are_pickled_linked_or_too_large_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "bad.npz", objects=np.array([{"a": 1}], object), large=np.zeros((2, 40, 40)))
    assert reason_of(tmp_path / "bad.npz", "0", ReaderConfig(array="objects")) == "image_unsupported"
    small = ReaderConfig(array="large", max_volume_mb=0.001)
    assert reason_of(tmp_path / "bad.npz", "0", small) == "image_too_large"
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["outside"] = h5py.ExternalLink(str(arrays["h5"]), "/train/grey")
        layout = h5py.VirtualLayout((5, 40, 48), np.uint8)
        layout[:] = h5py.VirtualSource(str(arrays["h5"]), "train/grey", (5, 40, 48))
        file.create_virtual_dataset("virtual", layout)
    for name in ("outside", "virtual"):
        assert reason_of(tmp_path / "bad.h5", "0", ReaderConfig(array=name)) == "media_missing"


# --- kinds and settings


def test_the_kind_is_found_by_content_under_any_name(tmp_path, arrays):
    nifti(tmp_path / "volume.nii.gz", "RAS").rename(tmp_path / "volume.bin")
    slide(tmp_path / "slide.tif")
    (tmp_path / "image.dcm.txt").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 300)
    tifffile.imwrite(tmp_path / "flat.tif", np.zeros((64, 64), np.uint8))
    found = {name: kind_of(tmp_path / name, ReaderConfig()) for name in ("volume.bin", "slide.tif", "flat.tif")}
    assert found == {"volume.bin": "nifti", "slide.tif": "slide", "flat.tif": "image"}
    assert kind_of(tmp_path / "image.dcm.txt", ReaderConfig()) == "dicom"
    assert {kind_of(path, ReaderConfig()) for path in arrays.values()} == {"arrays"}
    assert kind_of(tmp_path / "slide.tif", ReaderConfig(kind="image")) == "image"
    for kind in ("auto", "image", "dicom", "nifti", "slide", "arrays"):
        assert reason_of(tmp_path / "gone.png", "", ReaderConfig(kind=kind)) == "media_missing"


@pytest.mark.parametrize("kind", ["dicom", "nifti", "slide", "arrays", "image"])
def test_bytes_of_no_kind_are_rejected_whatever_was_asked_for(tmp_path, kind):
    path = tmp_path / "noise.bin"
    path.write_bytes(hashlib.sha512(kind.encode()).digest() * 50)
    assert reason_of(path, "0", ReaderConfig(kind=kind)) in {"image_unsupported", "image_corrupt", "media_missing"}


def test_slices_are_chosen_evenly():
    assert chosen(10, ReaderConfig()) == list(range(10))
    assert chosen(10, ReaderConfig(every=3)) == [0, 3, 6, 9]
    assert chosen(20, ReaderConfig(skip_border=0.25)) == list(range(5, 15))
    assert chosen(100, ReaderConfig(max_parts=4)) == [12, 37, 62, 87]


@pytest.mark.parametrize(
    "settings",
    [
        {"windows": []},
        {"windows": ["lung", "lung"]},
        {"windows": ["liver"]},
        {"windows": ["custom"]},
        {"percentiles": [99, 1]},
        {"skip_border": 0.5},
        {"axis": "oblique"},
        {"axis": 3},
        {"every": 0},
        {"min_tissue": 2},
        {"microns_per_pixel": 0},
        {"kind": "pdf"},
        {"tile": 3},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError):
        from_dict(ReaderConfig, settings, "a test")


def test_settings_come_from_an_entry():
    config = from_dict(ReaderConfig, {"windows": ["lung", "bone"], "axis": 2, "percentiles": [1, 99]}, "a test")
    assert config == ReaderConfig(windows=("lung", "bone"), axis=2, percentiles=(1.0, 99.0))
