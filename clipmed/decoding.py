"""Decoders of images made strict and quiet while one of them runs, whatever else the process does with them.

What decoders warn of is either an error, and raised, or of no interest to who gave the image. Python's filters of
warnings and Pillow's leniency are settings of the process, so threads that decode at once share one change of them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_OWN_WARNINGS = r"(PIL|pydicom|imagecodecs|clipmed)(\.|$)"  # modules whose warnings are not shown


class _Change:
    """The change of settings that the first thread makes and the last one undoes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._undo = ExitStack()

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                self._undo.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=_OWN_WARNINGS)
                self._undo.enter_context(_no_truncated_images())
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._undo.close()


_CHANGE = _Change()


@contextmanager
def strict_decoders() -> Iterator[None]:
    """Within it, decoders' warnings are not shown, and Pillow does not fill up files that are cut short."""
    _CHANGE.enter()
    try:
        yield
    finally:
        _CHANGE.leave()


@contextmanager
def _no_truncated_images() -> Iterator[None]:
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
