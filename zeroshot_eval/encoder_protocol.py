"""What the suite asks of a model, whatever library it comes from: pixels, unit-length embeddings, and its facts."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from clipmed.devices import DType
from clipmed.errors import ClipmedError, DataError

if TYPE_CHECKING:
    import torch
    from PIL import Image

TEXT_BATCH = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFacts:
    """What is known of an encoder without loading it.

    `preprocessing` and `tokenization` name all that decides an image's and a text's embedding beside the weights, so
    that they can be part of a cache's key.
    """

    name: str
    """short name for tables: a flag, org/name, or the last parts of a folder's path"""
    digest: str
    """hex SHA-256 over weights and configs: the same digest means the same model"""
    preprocessing: str
    """size, resize mode, interpolation, crop or padding, mean and standard deviation of images"""
    tokenization: str
    """tokens of a text at most, and how shorter ones are padded"""
    logit_scale: float
    """factor on cosines before softmax or sigmoid: the exponential of the learned parameter"""
    logit_bias: float | None
    """added to scaled cosines before the sigmoid; None for models trained with softmax"""


class Encoder(Protocol):
    """A loaded model in evaluation mode."""

    @property
    def facts(self) -> EncoderFacts:
        """Name, digest, preprocessing, temperature."""

    def pixels(self, data: bytes) -> torch.Tensor:
        """Return what the image tower takes of an encoded image, float32 of shape (3, H, W).

        Grey images deeper than 8 bits keep their range. SigLIP 2's towers of any aspect ratio take patches instead,
        (P, patch values + 3); either kind is stacked to a batch. Safe to call from several threads.

        Raises:
            DataError: the bytes do not decode.
        """

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return unit-length embeddings, float32 of shape (N, D), on the encoder's device, for N stacked `pixels`."""

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return unit-length embeddings, float32 of shape (P, D), on the encoder's device, of P texts, 1 or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEncoder:
    """An encoder made of a library's own parts; an `Encoder`.

    Features are computed under autocast where `dtype` is not float32: weights stay as they were saved.
    """

    facts: EncoderFacts
    device: str
    dtype: DType
    transform: Callable[[Image.Image], torch.Tensor]
    """RGB image to what `pixels` returns"""
    image_features: Callable[[torch.Tensor], torch.Tensor]
    """(N, …) on the device to (N, D) of any length"""
    text_features: Callable[[list[str]], torch.Tensor]
    """P texts to (P, D) of any length"""

    def pixels(self, data: bytes) -> torch.Tensor:
        """See `Encoder.pixels`."""
        from PIL import Image

        from clipmed.images import to_rgb8

        try:
            with Image.open(io.BytesIO(data)) as image:
                rgb = image.convert("RGB") if image.mode == "RGB" else to_rgb8(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{len(data)} bytes do not decode as an image: {error}") from error
        return self.transform(rgb)

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `Encoder.embed_images`."""
        return self._unit(self.image_features, pixels.to(self.device))

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """See `Encoder.embed_texts`."""
        import torch

        if not texts:
            raise ClipmedError("no texts to embed: got an empty list; give one or more")
        batches = [list(texts[start : start + TEXT_BATCH]) for start in range(0, len(texts), TEXT_BATCH)]
        return torch.cat([self._unit(self.text_features, batch) for batch in batches])

    def _unit(self, features: Callable[[T], torch.Tensor], batch: T) -> torch.Tensor:
        import torch

        narrow = self.dtype != "float32"
        kind = torch.device(self.device).type
        mixed = torch.autocast(kind, getattr(torch, self.dtype)) if narrow else contextlib.nullcontext()
        with torch.no_grad(), mixed:
            return torch.nn.functional.normalize(features(batch).float(), dim=-1)
