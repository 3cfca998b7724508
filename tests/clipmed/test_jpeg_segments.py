"""JPEG files lose what names people, and nothing of their picture."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from clipmed.images import ImageConfig, decode_rgb, ingest_image
from clipmed.jpeg_segments import without_metadata

NAME = "Planted^Patient"


def photo(mode: str = "RGB") -> Image.Image:
    coarse = Image.fromarray(np.random.default_rng(5).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return coarse.resize((240, 180), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_segment(jpeg: bytes, marker: int, body: bytes, place: int = 2) -> bytes:
    return jpeg[:place] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + jpeg[place:]


def planted() -> dict[str, bytes]:
    """One JPEG for every place where software writes names."""
    plain = encoded(photo())
    exif = Image.Exif()
    exif[0x013B] = exif[0x010E] = exif[0x8298] = NAME  # artist, description, copyright
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + NAME.encode("utf-16-le")  # user comment
    exif.get_ifd(0x8825)[0x001B] = NAME.encode()  # GPS processing method
    jfif_end = plain.index(b"JFIF\0") + 14
    thumbnail = plain[: jfif_end - 2] + bytes((2, 3)) + (NAME + "..").encode().ljust(18) + plain[jfif_end:]
    thumbnail = thumbnail[:4] + struct.pack(">H", 16 + 18) + thumbnail[6:]
    adobe = b"Adobe\0\x64\0\0\0\0\x01" + NAME.encode()
    last = plain.rindex(b"\xff\xd9")
    return {
        "exif": encoded(photo(), exif=exif),
        "comment": encoded(photo(), comment=NAME.encode()),
        "xmp": with_segment(plain, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>" + NAME.encode() + b"</x>"),
        "iptc": with_segment(
            plain, 0xED, b"Photoshop 3.0\x008BIM\x04\x04" + bytes(6) + b"\x1c\x02\x50" + NAME.encode()
        ),
        "unknown": with_segment(plain, 0xE9, NAME.encode()),
        "flashpix": with_segment(plain, 0xE2, b"FPXR\0" + NAME.encode()),
        "jfxx": with_segment(plain, 0xE0, b"JFXX\0\x10" + NAME.encode(), jfif_end),
        "thumbnail": thumbnail,
        "adobe": with_segment(plain, 0xEE, adobe, jfif_end),
        "late comment": with_segment(plain, 0xFE, NAME.encode(), last),
        "behind the end": plain + NAME.encode(),
        "progressive": with_segment(encoded(photo(), progressive=True), 0xFE, NAME.encode()),
        "grey": with_segment(encoded(photo("L")), 0xFE, NAME.encode()),
    }


@pytest.mark.parametrize("where", list(planted()))
def test_names_are_left_out_and_every_pixel_stays(where):
    raw = planted()[where]
    stored = ingest_image(raw, ImageConfig())
    assert NAME.encode() in raw or NAME.encode("utf-16-le") in raw
    assert NAME.encode() not in stored.jpeg
    assert NAME.encode("utf-16-le") not in stored.jpeg
    assert (decode_rgb(stored.jpeg) == decode_rgb(raw)).all()
    assert without_metadata(stored.jpeg) is stored.jpeg


def test_copies_that_differ_in_their_metadata_alone_are_stored_alike():
    plain = encoded(photo())
    forms = {ingest_image(raw, ImageConfig()).sha256 for name, raw in planted().items() if name in ("comment", "xmp")}
    assert forms == {ingest_image(plain, ImageConfig()).sha256}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
def test_a_clean_jpeg_is_the_same_object(options):
    raw = encoded(photo(), **options)
    assert without_metadata(raw) is raw


def test_what_decides_colours_is_kept():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    raw = encoded(photo(), icc_profile=profile, comment=b"x")
    clean = without_metadata(raw)
    assert clean is not None
    assert len(clean) == len(raw) - 5
    with Image.open(io.BytesIO(clean)) as image:
        assert image.info["icc_profile"] == profile
    inks = with_segment(encoded(photo("CMYK")), 0xFE, NAME.encode())
    with Image.open(io.BytesIO(without_metadata(inks) or b"")) as image:
        assert (np.asarray(image) == np.asarray(Image.open(io.BytesIO(inks)))).all()


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\xd8", b"\x89PNG", b"\xff\xd8\xff\xe0\x00", b"\xff\xd8\xff\xe0\x00\x00", encoded(photo())[:-2]]
)
def test_files_that_do_not_end_are_not_followed(raw):
    assert without_metadata(raw) is None
