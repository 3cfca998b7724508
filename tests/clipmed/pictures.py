"""Pictures to encode, and files that are not one whole still image."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def picture(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """A smooth picture with a little noise, (H, W, 3) uint8."""
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 5, columns * 4, (rows + columns) * 2], axis=-1)
    return (smooth + np.random.default_rng(seed).integers(0, 30, smooth.shape)).clip(0, 255).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, form: str, mode: str | None = None, **options) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
    (opened.convert(mode) if mode else opened).save(buffer, form, **options)
    return buffer.getvalue()


def several(form: str, count: int = 3) -> bytes:
    """A file of several frames or pages that differ."""
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(count)]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def png(
    width: int, height: int, channels: int = 3, depth: int = 8, content: bytes = b"", transparent: bytes = b""
) -> bytes:
    """A PNG whose header states a size, whatever its content is; `transparent` is a colour."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name: bytes, value: bytes) -> bytes:
        return struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    key = chunk(b"tRNS", transparent) if transparent else b""
    parts = (chunk(b"IHDR", header), key, chunk(b"IDAT", zlib.compress(content)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_png(values: np.ndarray, transparent: np.ndarray | None = None) -> bytes:
    """A 16-bit PNG of values (H, W, 2), (H, W, 3) or (H, W, 4)."""
    height, width, channels = values.shape
    rows = values.astype(">u2").reshape(height, -1)
    content = b"".join(b"\0" + row.tobytes() for row in rows)
    return png(
        width, height, channels, 16, content, b"" if transparent is None else transparent.astype(">u2").tobytes()
    )
