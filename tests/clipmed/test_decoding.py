"""Settings of the process are changed while a decoder runs, shared by threads, and given back."""

import threading
import warnings

import pytest
from PIL import ImageFile

from clipmed.decoding import strict_decoders


def warn_as(module: str) -> None:
    warnings.warn_explicit("of no interest", UserWarning, "file.py", 1, module=module)


def test_decoders_are_quiet_and_others_are_not():
    with strict_decoders():
        for module in ("PIL.Image", "pydicom.values", "clipmed.scans.dicom"):
            warn_as(module)
        with pytest.raises(UserWarning, match="of no interest"):
            warn_as("users_own")
    with pytest.raises(UserWarning, match="of no interest"):
        warn_as("PIL.Image")


def test_pillow_is_strict_within_and_as_before_afterwards(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(KeyError), strict_decoders():
        assert not ImageFile.LOAD_TRUNCATED_IMAGES
        raise KeyError
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_threads_that_overlap_share_one_change(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    before = list(warnings.filters)
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with strict_decoders():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with strict_decoders():
        thread.start()
        assert entered.wait(10)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES  # the other thread is not done
    leave.set()
    thread.join(10)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert list(warnings.filters) == before
