"""The exceptions of clipmed.

ClipmedError(ValueError)      something a user gave is wrong; the message says what, got, allowed, remedy
├── ConfigError               a setting is unknown, of the wrong type or out of range
├── DataError                 bytes on disk are not what their format says
│   └── ImageError            one image cannot be used; stops the work, or is skipped where that is asked for
│       └── FramesError       a file of several frames, of which none was chosen
├── CheckpointError           a checkpoint is missing, incomplete or not what its config says
└── ItemRejectedError         one item of a source cannot become a sample; becomes a row of rejects.parquet
"""

from __future__ import annotations

from clipmed.rejects import RejectReason, Stage


class ClipmedError(ValueError):
    """Base of all errors that are the input's fault and not a bug."""


class ConfigError(ClipmedError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(ClipmedError):
    """Bytes on disk are not what their format says."""


class ImageError(DataError):
    """One image cannot be used: the work stops, or leaves it out and lists it where that is asked for."""


class FramesError(ImageError):
    """A file has several frames, pages or slices, and none was chosen."""

    def __init__(self, num_frames: int) -> None:
        super().__init__(f"it has {num_frames} frames or pages; choose one: clipmed.open_image(image, frame=0)")
        self.num_frames = num_frames


class CheckpointError(ClipmedError):
    """A checkpoint is missing, incomplete or not what its config says."""


class ItemRejectedError(ClipmedError):
    """One item of a source cannot become a sample; caught by the builder and written as a reject row."""

    def __init__(self, stage: Stage, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{stage}/{reason}: {detail}")
        self.stage = stage
        """where it fell out"""
        self.reason = reason
        """the code that is counted"""
        self.detail = detail
        """what was there, and what is allowed"""
