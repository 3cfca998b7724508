"""Bounds of what the server takes, and how a request outside them is refused."""

from __future__ import annotations

from dataclasses import dataclass

from clipmed.errors import ClipmedError, ConfigError

MEGABYTE = 1_000_000


class RefusedError(ClipmedError):
    """A request that is not answered, with its HTTP status; the message goes to the client."""

    def __init__(
        self, status: int, message: str, *, retry_after_s: int | None = None, num_frames: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.num_frames = num_frames
        """of the image, where the request must choose one of them"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds of one server."""

    upload_bytes: int = 20 * MEGABYTE
    """of one image, as encoded"""
    pixels: int = 50_000_000
    """of one image, decoded"""
    upload_s: float = 60.0
    """a request's body must have arrived after so long"""
    field_bytes: int = 256 * 1024
    """of all fields of a form but the image, together"""
    parts: int = 256
    """of a form"""
    labels: int = 100
    letters: int = 300
    """of one label, and of one prompt"""
    prompts: int = 20
    """of one label"""
    frames: int = 1_000_000
    """of one file; the last one that can be asked for is before it"""
    hits: int = 48
    """similar images of one answer"""
    working: int = 1
    """requests that the models work on at once"""
    waiting: int = 8
    """requests admitted besides; a further one is refused with status 503"""

    def __post_init__(self) -> None:
        for name in ("upload_bytes", "pixels", "upload_s", "working"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be more than 0: got {getattr(self, name)}")
        if self.waiting < 0:
            raise ConfigError(f"waiting must be 0 or more: got {self.waiting}")
