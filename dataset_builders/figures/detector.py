"""Panels by a learned object detector: any ONNX file of one class, run by OpenCV on the CPU; letters are read as ever.

The contract: one input, float32 (1, 3, 640, 640), RGB from 0 to 1, the figure scaled to fit at the upper left and the
rest grey. The outputs are either

- two: boxes (N, 4), left, top, right, bottom from 0 to 1 of the input, and scores (N,), each also with a leading 1; or
- one: (1, 4 + C, N) or (1, N, 4 + C), rows of centre x, centre y, width, height in pixels of the input and a score for
  each of C classes, as the YOLO detectors since version 8 give. Classes are not told apart.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipmed.errors import ConfigError
from clipmed.images import ArrayHWC
from dataset_builders.figures.gutters import working_copy
from dataset_builders.figures.letters import distinct_letters, find_letters
from dataset_builders.figures.panel_boxes import Box, Panel, area, reading_order, scaled
from dataset_builders.figures.panel_layout import label_pieces, letter_pieces

Floats = npt.NDArray[np.float32]

INPUT_SIDE = 640
MIN_SCORE = 0.4  # boxes below this score are dropped
MAX_OVERLAP = 0.45  # of two boxes that overlap by more than this (IoU), the surer stays
PADDING = 114  # grey of the padding, as in the YOLO detectors


class ModelDetector:
    """Panels by an ONNX object detector. Calls from several threads wait for each other."""

    def __init__(self, path: Path) -> None:
        import cv2

        try:
            self._network = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise ConfigError(
                f"panels.model: got {path}, which OpenCV cannot read as ONNX ({str(error).splitlines()[0][:200]}); "
                "give an ONNX file of an object detector"
            ) from None
        self._outputs = self._network.getUnconnectedOutLayersNames()
        self._lock = threading.Lock()
        self.name = f"model {path.stem}"

    def detect(self, image: ArrayHWC, expected: Sequence[str] = ()) -> list[Panel]:
        """Return the panels of a figure in reading order, boxes in pixels of `image`, shape (H, W, 3), RGB."""
        height, width = image.shape[:2]
        factor = INPUT_SIDE / max(height, width)
        boxes, scores = _boxes_and_scores(self._run(image, factor))
        kept = _suppressed(boxes, scores)
        found = [Panel(box=_pixels(boxes[one], factor, image), score=float(scores[one])) for one in kept]
        found = [panel for panel in found if area(panel.box)]
        if len(found) < 2:
            return [Panel(box=(0, 0, width, height))]
        return _lettered(found, image, distinct_letters(expected))

    def _run(self, image: ArrayHWC, factor: float) -> list[Floats]:
        import cv2

        size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
        page = np.full((INPUT_SIDE, INPUT_SIDE, 3), PADDING, np.uint8)
        page[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        with self._lock:
            self._network.setInput(cv2.dnn.blobFromImage(page, 1 / 255))
            outputs = self._network.forward(self._outputs)
        return [np.asarray(output, dtype=np.float32) for output in outputs]


def _lettered(found: Sequence[Panel], image: ArrayHWC, expected: Sequence[str]) -> list[Panel]:
    """Return panels in reading order with their letters."""
    order = reading_order([panel.box for panel in found])
    found = [found[index] for index in order]
    grey = working_copy(image)
    factors = grey.shape[1] / image.shape[1], grey.shape[0] / image.shape[0]
    pieces = [scaled(panel.box, factors, (grey.shape[1], grey.shape[0])) for panel in found]
    letters = find_letters(grey, expected, compound=True)
    lettered = label_pieces(pieces, letters, expected) or letter_pieces(pieces, letters)
    by_box = {panel.box: panel.letter for panel in lettered}
    return [replace(panel, letter=by_box[piece]) for panel, piece in zip(found, pieces, strict=True)]


def _boxes_and_scores(outputs: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return boxes (N, 4), left, top, right, bottom in pixels of the input, and scores (N,)."""
    shapes = [output.shape for output in outputs]
    if len(outputs) == 2:
        first, second = (output.reshape(-1, output.shape[-1]) for output in outputs)
        boxes, scores = (first, second.ravel()) if first.shape[1] == 4 else (second, first.ravel())
        if boxes.shape == (scores.size, 4):
            return boxes * INPUT_SIDE, scores
    if len(outputs) == 1 and outputs[0].ndim == 3 and outputs[0].shape[0] == 1:
        table = outputs[0][0] if outputs[0].shape[2] < outputs[0].shape[1] else outputs[0][0].T
        if table.shape[1] > 4:
            middle, half = table[:, :2], table[:, 2:4] / 2
            return np.hstack((middle - half, middle + half)), table[:, 4:].max(axis=1)
    raise ConfigError(
        f"panels.model: got outputs of shapes {shapes}; allowed: boxes (N, 4) and scores (N,), or one (1, 4 + C, N)"
    )


def _suppressed(boxes: Floats, scores: Floats) -> list[int]:
    """Return the indices of the boxes that stay, the surest first."""
    import cv2

    if not len(boxes):
        return []
    sized = np.hstack((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]))
    kept = cv2.dnn.NMSBoxes(sized.tolist(), scores.tolist(), MIN_SCORE, MAX_OVERLAP)
    return [int(index) for index in np.asarray(kept).ravel()]


def _pixels(box: Floats, factor: float, image: ArrayHWC) -> Box:
    left, top, right, bottom = (round(float(edge)) for edge in box)
    return scaled((left, top, right, bottom), (1 / factor, 1 / factor), (image.shape[1], image.shape[0]))
