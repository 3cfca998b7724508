"""What kind of file an image lies in, by its content; the name decides only where the content cannot."""

from __future__ import annotations

from pathlib import Path

from clipmed.scans.config import Source
from dataset_builders.readers.bytesources import TIFF_MAGIC, first_bytes
from dataset_builders.readers.config import FileKind, ReaderConfig
from dataset_builders.readers.nifti import is_nifti
from dataset_builders.readers.slide_files import is_slide

_ARRAYS = (b"\x89HDF\r\n\x1a\n", b"\x93NUMPY")
_DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
_SLIDE_SUFFIXES = frozenset({".mrxs", ".vms", ".vmu", ".svslide", ".bif"})


def kind_of(source: Source, config: ReaderConfig) -> FileKind:
    """Return what kind of file it is: the config's, or what its content says.

    Raises:
        ItemRejectedError: the file cannot be read.
    """
    start = first_bytes(source, 4096)
    if config.kind != "auto":
        return config.kind
    name = source.name.lower() if isinstance(source, Path) else ""
    if start[128:132] == b"DICM" or any(name.endswith(suffix) for suffix in _DICOM_SUFFIXES):
        return "dicom"
    if start.startswith(_ARRAYS) or (start.startswith(b"PK\x03\x04") and name.endswith(".npz")):
        return "arrays"
    if is_nifti(start):
        return "nifti"
    if any(name.endswith(suffix) for suffix in _SLIDE_SUFFIXES):
        return "slide"
    return "slide" if start.startswith(TIFF_MAGIC) and is_slide(source) else "image"
