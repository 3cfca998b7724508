"""DICOM files to the pixels that a viewer shows: range, windows, inversion, padding, frames, codecs, colours, facts."""

from __future__ import annotations

import io
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from clipmed.errors import ItemRejectedError
from clipmed.images import ImageConfig, decode_rgb
from clipmed.scans.dicom_codecs import check_size
from dataset_builders.readers.config import ReaderConfig
from dataset_builders.readers.parts import ingest_part, list_parts, read_part

RAMP = np.linspace(0, 4095, 96 * 128).reshape(96, 128)
ONE = ReaderConfig(min_foreground=0.0)


def grey_file(values: np.ndarray, **tags) -> FileDataset:
    """A grey image of 16-bit values, (H, W) or (frames, H, W), with 12 bits stored unless the tags say otherwise."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a test"])
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    signed = values.dtype.kind == "i"
    given = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "BitsStored": 16 if signed else 12,
        "HighBit": 15 if signed else 11,
        "PixelRepresentation": int(signed),
        **tags,
    }
    for name, value in given.items():
        setattr(dataset, name, value)
    dataset.Rows, dataset.Columns = values.shape[-2:]
    if values.ndim == 3:
        dataset.NumberOfFrames = len(values)
    dataset.PixelData = values.astype("<i2" if signed else "<u2").tobytes()
    return dataset


def saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def shown(dataset: Dataset, config: ReaderConfig = ONE, part: str = "") -> np.ndarray:
    return read_part(saved(dataset), part, config).pixels


def monotone(values: np.ndarray, levels: np.ndarray) -> bool:
    order = np.argsort(values, axis=None, kind="stable")
    return bool((np.diff(levels.reshape(-1)[order].astype(int)) >= 0).all())


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("window", ["stored", "range", "percentile"])
def test_deep_values_keep_their_dynamic_range(bits, window):
    texture = np.random.default_rng(0).normal(0, 0.01, RAMP.shape)
    values = ((0.1 + 0.8 * RAMP / 4095 + texture) * (2**bits - 1)).astype(np.uint16)
    dataset = grey_file(values, BitsStored=bits, HighBit=bits - 1)
    levels = shown(dataset, ReaderConfig(windows=(window,)))
    naive = np.minimum(values, 255)
    assert len(np.unique(levels)) >= 200
    assert monotone(values, levels)
    assert np.mean(levels == 255) < 0.01
    assert np.mean(levels == 0) < 0.01
    assert np.mean(naive == 255) > 0.7


def test_the_stored_jpeg_keeps_the_range_too():
    stored, _ = ingest_part(saved(grey_file(RAMP.astype(np.uint16))), "", ONE, ImageConfig())
    levels = decode_rgb(stored.jpeg)[..., 0]
    assert len(np.unique(levels)) >= 200
    assert np.mean(levels == 255) < 0.01


def test_rescale_comes_before_a_window_in_hounsfield_units():
    stored = np.array([[0, 24, 824, 1024, 1064, 1224, 2000]] * 40, np.uint16).repeat(8, 1)
    dataset = grey_file(stored, RescaleSlope=1, RescaleIntercept=-1024)
    levels = shown(dataset, ReaderConfig(windows=("soft_tissue",)))[0, ::8]
    # soft tissue: centre 40, width 400, so -160 HU is black and 240 HU is white
    assert levels.tolist() == pytest.approx([0, 0, 0, 102, 127.5, 229.5, 255], abs=0.5)


def test_several_windows_are_several_images():
    raw = saved(grey_file(RAMP.astype(np.uint16), RescaleSlope=1, RescaleIntercept=-1024))
    config = ReaderConfig(windows=("lung", "bone", "custom"), center=0.0, width=100.0)
    assert list_parts(raw, config) == ["lung", "bone", "custom"]
    lung, bone, custom = (read_part(raw, part, config).pixels for part in list_parts(raw, config))
    assert lung.mean() > bone.mean()
    hounsfield = RAMP.astype(np.uint16).astype(float) - 1024
    assert (custom[hounsfield <= -50] == 0).all()
    assert (custom[hounsfield >= 50] == 255).all()
    with pytest.raises(ItemRejectedError, match="media_missing"):
        read_part(raw, "brain", config)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_the_first_window_of_the_file_is_used_with_its_function(function):
    values = RAMP.astype(np.uint16)
    center, width = 2000.0, 1000.0
    dataset = grey_file(values, WindowCenter=[center, 40], WindowWidth=[width, 400], VOILUTFunction=function)
    x = values.astype(float)
    expected = {
        "LINEAR": np.clip((x - (center - 0.5)) / (width - 1) + 0.5, 0, 1),
        "LINEAR_EXACT": np.clip((x - center) / width + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (x - center) / width)),
    }[function]
    assert np.abs(shown(dataset) - 255 * expected).max() <= 1


def test_a_lookup_table_of_the_file_is_used():
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = (np.arange(4096)[::-1] * 16).astype(np.uint16).tolist()
    dataset = grey_file(RAMP.astype(np.uint16), VOILUTSequence=[table])
    dataset["VOILUTSequence"].value[0]["LUTDescriptor"].VR = "US"
    dataset["VOILUTSequence"].value[0]["LUTData"].VR = "US"
    levels = shown(dataset)
    assert np.abs(levels - (255 - RAMP.astype(int) / 4095 * 255)).max() <= 1


def test_eight_bits_without_a_window_are_levels_already():
    values = (RAMP // 16 // 2 + 20).astype(np.uint16)
    assert (shown(grey_file(values, BitsStored=8, HighBit=7)) == values).all()


def test_monochrome1_is_the_negative_of_monochrome2():
    values = RAMP.astype(np.uint16)
    one, two = (shown(grey_file(values, PhotometricInterpretation=kind)) for kind in ("MONOCHROME1", "MONOCHROME2"))
    assert (one == 255 - two).all()


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_take_part_in_the_range(kind):
    values = (RAMP / 4095 * 500 + 1000).astype(np.int16)
    values[:, :20] = -2000
    levels = shown(grey_file(values, PhotometricInterpretation=kind, PixelPaddingValue=-2000))
    assert (levels[:, :20] == 0).all()
    assert len(np.unique(levels[:, 20:])) >= 200


def test_signed_values_are_signed():
    values = (RAMP - 2000).astype(np.int16)
    levels = shown(grey_file(values), ReaderConfig(windows=("range",)))
    assert monotone(values, levels)
    assert levels[0, 0] == 0
    assert levels[-1, -1] == 255


def test_frames_are_listed_from_headers_and_read_one_by_one(tmp_path):
    frames = np.stack([np.roll(RAMP, 10 * number, 1) for number in range(12)]).astype(np.uint16)
    path = tmp_path / "cine.dcm"
    path.write_bytes(saved(grey_file(frames)))
    assert list_parts(path, ReaderConfig(every=4)) == ["frame-000", "frame-004", "frame-008"]
    assert list_parts(path, ReaderConfig(skip_border=0.25, max_parts=2)) == ["frame-004", "frame-007"]
    range_of = ReaderConfig(windows=("range",))
    assert (read_part(path, "frame-003", range_of).pixels == shown(grey_file(frames[3]), range_of)).all()
    with pytest.raises(ItemRejectedError, match="media_missing"):
        read_part(path, "frame-012", ONE)


def test_frames_have_their_own_rescale_and_window():
    frames = np.stack([RAMP, RAMP]).astype(np.uint16)
    groups = []
    for center in (1000, 3000):
        group, window, rescale = Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center - 1024, 500
        rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
        group.FrameVOILUTSequence, group.PixelValueTransformationSequence = [window], [rescale]
        groups.append(group)
    dataset = grey_file(frames, PerFrameFunctionalGroupsSequence=groups)
    first, second = shown(dataset, part="frame-000"), shown(dataset, part="frame-001")
    assert abs(int(first[frames[0] == 1000][0]) - 127) <= 2
    assert abs(int(second[frames[0] == 3000][0]) - 127) <= 2


def test_pixels_that_are_not_square_are_stretched():
    dataset = grey_file(RAMP.astype(np.uint16), PixelSpacing=[2.0, 1.0])
    assert shown(dataset).shape == (192, 128)
    assert shown(dataset, ReaderConfig(square_pixels=False)).shape == (96, 128)


@pytest.mark.parametrize(
    ("uid", "encode"),
    [
        ("1.2.840.10008.1.2.4.57", lambda values: imagecodecs.ljpeg_encode(values, bitspersample=12)),
        ("1.2.840.10008.1.2.4.70", lambda values: imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=12)),
        ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
        ("1.2.840.10008.1.2.4.90", lambda values: imagecodecs.jpeg2k_encode(values, codecformat="j2k", level=0)),
    ],
    ids=["lossless", "lossless-sv1", "jpeg-ls", "jpeg-2000"],
)
def test_lossless_codes_give_the_values_that_were_coded(uid, encode):
    values = RAMP.astype(np.uint16)
    coded = grey_file(values)
    coded.file_meta.TransferSyntaxUID = uid
    coded.PixelData = encapsulate([bytes(encode(values))])
    coded["PixelData"].VR = "OB"
    assert (shown(coded) == shown(grey_file(values))).all()
    check_size(bytes(encode(values)), 128, 96)
    for size in ((96, 128), (128, 95), (30000, 30000)):
        with pytest.raises(ValueError, match="another size"):
            check_size(bytes(encode(values)), *size)
    coded.Rows = 48
    with pytest.raises(ItemRejectedError, match="image_corrupt"):
        shown(coded)


@pytest.mark.parametrize(
    ("name", "shape", "colours"),
    [
        ("JPGExtended.dcm", (1024, 256), 1),
        ("693_J2KI.dcm", (512, 512), 1),
        ("MR_small_RLE.dcm", (64, 64), 1),
        ("MR_small_bigendian.dcm", (64, 64), 1),
        ("examples_palette.dcm", (350, 800), 3),
        ("examples_ybr_color.dcm", (240, 320), 3),
        ("SC_ybr_full_422_uncompressed.dcm", (100, 100), 3),
        ("SC_rgb_rle_16bit.dcm", (100, 100), 3),
        ("ExplVR_BigEnd.dcm", (60, 80), 3),
    ],
)
def test_files_of_many_makers_are_read(name, shape, colours):
    path = Path(get_testdata_file(name, download=False))
    pixels = read_part(path, list_parts(path, ONE)[0], ONE).pixels
    assert pixels.shape == (shape if colours == 1 else (*shape, 3))
    assert len(np.unique(pixels)) >= 5


def test_ybr_palette_and_planes_give_the_same_rgb():
    truth = np.zeros((100, 100, 3), np.uint8)
    ours = read_part(Path(get_testdata_file("SC_rgb_rle.dcm", download=False)), "", ONE).pixels
    truth[:] = pydicom.dcmread(get_testdata_file("SC_rgb_rle.dcm", download=False)).pixel_array
    ybr = read_part(Path(get_testdata_file("SC_ybr_full_422_uncompressed.dcm", download=False)), "", ONE).pixels
    deep = read_part(Path(get_testdata_file("SC_rgb_rle_16bit.dcm", download=False)), "", ONE).pixels
    assert (ours == truth).all()
    assert np.abs(ybr.astype(int) - truth).mean() < 3
    assert np.abs(deep.astype(int) - truth).mean() < 3


@pytest.mark.parametrize(
    ("tags", "facts"),
    [
        (
            {"Modality": "DX", "ViewPosition": "PA", "BodyPartExamined": "CHEST"},
            {"modality": "xray", "view": "PA", "body_part": "chest"},
        ),
        ({"Modality": "CR", "ViewPosition": "LL"}, {"modality": "xray", "view": "lateral"}),
        ({"Modality": "MR", "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, {"modality": "mri", "view": "coronal"}),
        ({"Modality": "CT", "ImageOrientationPatient": [1, 0, 0, 0, 0.7, 0.7]}, {"modality": "ct"}),
        ({"Modality": "OT", "BodyPartExamined": "JOHN DOE", "ViewPosition": "SEE LETTER"}, {"modality": "ct"}),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"}, {}),
    ],
)
def test_facts_come_from_closed_vocabularies(tags, facts):
    assert read_part(saved(grey_file(RAMP.astype(np.uint16), **tags)), "", ONE).facts == facts


def test_images_with_annotations_burned_in_are_refused_unless_asked_for():
    raw = saved(grey_file(RAMP.astype(np.uint16), BurnedInAnnotation="YES"))
    with pytest.raises(ItemRejectedError, match="burned into the pixels"):
        read_part(raw, "", ONE)
    assert read_part(raw, "", ReaderConfig(burned_in="keep")).pixels.shape == RAMP.shape


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Rows": 30000, "Columns": 30000}, "image_too_large"),
        ({"NumberOfFrames": 10**7}, "image_too_large"),
        ({"PixelData": b"\0" * 100}, "image_corrupt"),
        ({"WindowCenter": 40, "WindowWidth": 0}, "image_corrupt"),
        ({"Modality": "SEG"}, "image_unsupported"),
    ],
    ids=["pixels", "frames", "short", "window", "mask"],
)
def test_files_that_cannot_be_shown_are_rejected_with_a_reason(change, reason):
    dataset = grey_file(RAMP.astype(np.uint16))
    for name, value in change.items():
        setattr(dataset, name, value)
    raw = saved(dataset)
    with pytest.raises(ItemRejectedError) as error:
        read_part(raw, list_parts(raw, ONE)[0], ONE)
    assert (str(error.value.stage), str(error.value.reason)) == ("image", reason)


@pytest.mark.parametrize("name", ["image_dfl.dcm", "rtplan.dcm", "test-SR.dcm", "MR_truncated.dcm", "badVR.dcm"])
def test_files_without_a_whole_image_are_rejected(name):
    path = Path(get_testdata_file(name, download=False))
    with pytest.raises(ItemRejectedError, match=r"image_(unsupported|corrupt)"):
        read_part(path, list_parts(path, ONE)[0], ONE)
