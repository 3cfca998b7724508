"""Zero-shot use of a checkpoint in three lines: load it, classify images, embed images and texts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from clipmed.checkpoints import load_checkpoint
from clipmed.errors import ClipmedError
from clipmed.zeroshot import class_embeddings, embed_images, embed_texts, image_pixels

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from clipmed.towers import TwoTower

    ImageLike = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]

DEFAULT_TEMPLATES = ("{}", "a medical image showing {}", "an image of {}")


@dataclass(frozen=True, slots=True)
class Classification:
    """Probabilities of one image over the labels given: softmax of scaled cosines. They sum to 1."""

    probabilities: dict[str, float]

    @property
    def label(self) -> str:
        """The most probable label; the first of equals."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


class ClipModel:
    """A loaded checkpoint; made by `clipmed.load`."""

    def __init__(self, two_tower: TwoTower) -> None:
        self.two_tower = two_tower

    def embed_images(self, images: ImageLike | Sequence[ImageLike], batch_size: int = 64) -> torch.Tensor:
        """Return unit-length embeddings, shape (N, D), of paths, bytes, PIL images or (H, W[, 3]) uint8 arrays."""
        import torch

        many = _as_list(images)
        if not many:
            raise ClipmedError("no images to embed: got an empty list; give one or more")
        parts = []
        for start in range(0, len(many), batch_size):
            batch = [self._pixels(image) for image in many[start : start + batch_size]]
            parts.append(embed_images(self.two_tower, torch.stack(batch)))
        return torch.cat(parts)

    def embed_texts(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Return unit-length embeddings, shape (N, D)."""
        return embed_texts(self.two_tower, [texts] if isinstance(texts, str) else list(texts))

    def classify(
        self,
        images: ImageLike | Sequence[ImageLike],
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        templates: Sequence[str] = DEFAULT_TEMPLATES,
    ) -> list[Classification]:
        """Return the probabilities of each image over the labels.

        Args:
            images: one image or several.
            labels: label names, put into `templates`; or {label: prompts}, used as they are.
            templates: sentences with one `{}` for the label.

        Raises:
            ClipmedError: fewer than two labels, a label twice, an empty prompt, a template without `{}`, or an image
                that does not decode.
        """
        prompts = _prompts(labels, templates)
        cosines = self.embed_images(images) @ class_embeddings(self.two_tower, prompts).T
        model: Any = self.two_tower.model
        probabilities = (cosines * model.logit_scale.exp().detach()).softmax(dim=-1).tolist()
        return [Classification(dict(zip(prompts, row, strict=True))) for row in probabilities]

    def _pixels(self, image: ImageLike) -> torch.Tensor:
        with _open(image) as opened:
            tower = self.two_tower
            return image_pixels(opened, tower.image_size, tower.mean, tower.std)


def load(location: str | Path, device: str = "cpu") -> ClipModel:
    """Load a checkpoint for zero-shot use.

    Args:
        location: a checkpoint folder, or `hf-hub:org/name[@revision]`.
        device: where to run, such as `cpu` or `cuda`.
    """
    return ClipModel(load_checkpoint(location, device))


def _prompts(labels: Sequence[str] | Mapping[str, Sequence[str]], templates: Sequence[str]) -> dict[str, list[str]]:
    if isinstance(labels, str):
        raise ClipmedError(f"labels must be a list: got the text {labels!r}; write [{labels!r}, …]")
    names = list(labels)
    twice = sorted({name for name in names if names.count(name) > 1})
    if len(names) < 2 or twice:
        given = f"{twice[0]!r} twice" if twice else f"{len(names)} of them"
        raise ClipmedError(f"classification needs two or more different labels: got {given}")
    if isinstance(labels, Mapping):
        return {name: list(prompts) for name, prompts in labels.items()}
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise ClipmedError(f"a template needs one '{{}}' for the label: got {wrong[0] if wrong else 'no template'!r}")
    return {name: [template.replace("{}", name) for template in templates] for name in names}


def _as_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    import numpy as np

    if isinstance(images, str | Path | bytes | Image.Image | np.ndarray):
        return [images]
    return list(images)


def _open(image: ImageLike) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.copy()
    try:
        if isinstance(image, str | Path):
            opened: Image.Image = Image.open(image)
        elif isinstance(image, bytes):
            opened = Image.open(io.BytesIO(image))
        else:
            opened = Image.fromarray(image)
        opened.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, TypeError, ValueError) as error:
        shown = image if isinstance(image, str | Path) else type(image).__name__
        raise ClipmedError(f"cannot read image {shown}: {error}; give a whole PNG, JPEG, TIFF, BMP or WebP") from error
    return opened
