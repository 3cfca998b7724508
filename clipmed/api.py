"""Zero-shot use of a checkpoint in three lines: load it, classify images, embed images and texts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.checkpoints import checkpoint_digest, load_checkpoint
from clipmed.devices import AUTO, DType, check_dtype, resolve_device
from clipmed.errors import ClipmedError, ImageError
from clipmed.hub import fetch
from clipmed.inputs import SkippedImage, image_list, open_image, shown
from clipmed.pixels import image_pixels
from clipmed.zeroshot import class_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from clipmed.inputs import ImageLike
    from clipmed.search import Hit, SearchIndex
    from clipmed.towers import TwoTower

DEFAULT_TEMPLATES = ("{}", "a medical image showing {}", "an image of {}")
TEXT_BATCH = 256


@dataclass(frozen=True, slots=True)
class Classification:
    """Probabilities of one image over the labels given: softmax of scaled cosines. They sum to 1."""

    probabilities: dict[str, float]
    cosines: dict[str, float]
    """of the image with each label's prompts, before scale and softmax"""
    calibrated: bool
    """whether the scale is one fitted by `clipmed calibrate`, and not the one that training left"""

    @property
    def label(self) -> str:
        """The most probable label; the first of equals."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


class ClipModel:
    """A loaded checkpoint; made by `clipmed.load`."""

    def __init__(
        self,
        two_tower: TwoTower,
        *,
        location: str = "",
        folder: Path | None = None,
        dtype: DType = "float32",
        compiled: bool = False,
    ) -> None:
        model: Any = two_tower.model
        self.two_tower = two_tower
        self.location = location
        """where it was loaded from, as given"""
        self.dtype = dtype
        self.calibration = None
        self._folder = folder
        self._encode_image, self._encode_text = model.encode_image, model.encode_text
        if compiled:
            import torch

            self._encode_image = torch.compile(model.encode_image)
            self._encode_text = torch.compile(model.encode_text)

    @property
    def device(self) -> torch.device:
        """Where the model runs; embeddings come back to the CPU."""
        return next(self.two_tower.model.parameters()).device

    @property
    def embed_dim(self) -> int:
        """Numbers of an embedding."""
        return int(self.two_tower.model_cfg["embed_dim"])

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over config and weights of the folder that it was loaded from; the same means the same model.

        Raises:
            ClipmedError: the model was not loaded from a folder.
        """
        if self._folder is None:
            raise ClipmedError("digest: this model was not loaded from a checkpoint folder; save it, and load that")
        return checkpoint_digest(self._folder)

    def embed_images(
        self,
        images: ImageLike | Iterable[ImageLike],
        batch_size: int = 64,
        progress: bool = False,
        *,
        skipped: list[SkippedImage] | None = None,
    ) -> torch.Tensor:
        """Return unit-length embeddings of images, float32 on the CPU of shape (N, D).

        Args:
            images: one image, several, or a tensor (N, 3, H, W); each as `clipmed.open_image` takes it.
            batch_size: images at a time; without effect on the result.
            progress: show a bar on standard error.
            skipped: a list to which images that cannot be used are added, in order. They have no embedding: N is the
                number of the others. Without it, the first one is an error.

        Raises:
            ClipmedError: no images, or one that cannot be used.
        """
        import torch
        from tqdm import tqdm

        many = image_list(images)
        bar = tqdm(total=len(many), unit=" images", delay=2, disable=not progress, desc="embedding")
        parts = [torch.empty((0, self.embed_dim))]
        with bar:
            for positions, rows in self.embed_batches(many, batch_size, skipped=skipped):
                parts.append(rows)
                bar.update(positions[-1] + 1 - bar.n)
        return torch.cat(parts)

    def embed_batches(
        self,
        images: Sequence[ImageLike],
        batch_size: int = 64,
        *,
        skipped: list[SkippedImage] | None = None,
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield embeddings batch by batch: the places of its images in `images`, and their rows, as `embed_images`.

        While the model runs on one batch, the next one is decoded.
        """
        import torch

        if batch_size < 1:
            raise ClipmedError(f"batch_size: got {batch_size}; allowed: 1 or more")
        for start in range(0, len(images), batch_size):
            positions, pixels = [], []
            for position, image in enumerate(images[start : start + batch_size], start):
                try:
                    pixels.append(self._pixels(image))
                    positions.append(position)
                except ImageError as error:
                    if skipped is None:
                        raise
                    skipped.append(SkippedImage(position, shown(image), str(error)))
            if positions:
                yield positions, self._unit(self._encode_image, torch.stack(pixels))

    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return unit-length embeddings, float32 on the CPU of shape (N, D), of stacked `pixels` (N, 3, H, W)."""
        return self._unit(self._encode_image, pixels)

    def pixels(self, image: ImageLike) -> torch.Tensor:
        """Return an image as the image tower takes it, float32 of shape (3, H, W); many threads may do so at once."""
        return self._pixels(image)

    def embed_texts(self, texts: str | Iterable[str], batch_size: int = TEXT_BATCH) -> torch.Tensor:
        """Return unit-length embeddings of texts, float32 on the CPU of shape (N, D).

        Raises:
            ClipmedError: no texts, or what is none.
        """
        import torch

        many = [texts] if isinstance(texts, str) else list(texts)
        if not many or not all(isinstance(text, str) for text in many):
            raise ClipmedError(f"texts: got {many[:3]!r}; allowed: one text or a list of one or more")
        tokenizer = self.two_tower.tokenizer
        starts = range(0, len(many), batch_size)
        batches = (tokenizer(many[start : start + batch_size]) for start in starts)
        return torch.cat([self._unit(self._encode_text, tokens) for tokens in batches])

    def classify(
        self,
        images: ImageLike | Iterable[ImageLike],
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        templates: Sequence[str] = DEFAULT_TEMPLATES,
    ) -> list[Classification]:
        """Return the probabilities of each image over the labels.

        Args:
            images: one image or several, as for `embed_images`.
            labels: label names, put into `templates`; or {label: prompts}, used as they are.
            templates: sentences with one `{}` for the label.

        Raises:
            ClipmedError: fewer than two labels, a label twice, an empty prompt, a template without `{}`, or an image
                that cannot be used.
        """
        prompts = _prompts(labels, templates)
        return self.classify_embeddings(self.embed_images(images), prompts)

    def classify_embeddings(
        self,
        embeddings: torch.Tensor,
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        templates: Sequence[str] = DEFAULT_TEMPLATES,
    ) -> list[Classification]:
        """Return the same as `classify` for images that are embedded already, shape (N, D)."""
        prompts = _prompts(labels, templates)
        cosines = embeddings @ self.class_embeddings(prompts).T
        model: Any = self.two_tower.model
        scale = float(model.logit_scale.detach().exp())
        probabilities = (cosines * scale).softmax(dim=-1).tolist()
        return [
            Classification(dict(zip(prompts, row, strict=True)), dict(zip(prompts, own, strict=True)), False)
            for row, own in zip(probabilities, cosines.tolist(), strict=True)
        ]

    def class_embeddings(self, prompts: Mapping[str, Sequence[str]]) -> torch.Tensor:
        """Return one unit-length row a label, shape (C, D): the mean of its prompts; see `zeroshot.class_rows`."""
        return class_rows(prompts, self.embed_texts)

    def search(self, query: ImageLike, index: SearchIndex, k: int = 10) -> list[Hit]:
        """Return the images of an index that are nearest to a query.

        Args:
            query: a text, where it is a str; an image, where it is a Path or anything else.
            index: one that `clipmed index` made with this checkpoint.
            k: how many, the nearest first.
        """
        index.require_checkpoint(self.digest)
        rows = self.embed_texts(query) if isinstance(query, str) else self.embed_images(query)
        return index.search(rows, k)[0]

    def _pixels(self, image: ImageLike) -> torch.Tensor:
        return image_pixels(open_image(image), self.two_tower.pixels)

    def _unit(self, encode: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
        """Return unit-length features of a batch, float32 on the CPU. Weights stay as they were saved."""
        import torch

        device = self.device
        narrow = self.dtype != "float32"
        mixed = torch.autocast(device.type, getattr(torch, self.dtype)) if narrow else contextlib.nullcontext()
        with torch.no_grad(), mixed:  # inference mode would cast the weights anew for every use
            features = encode(batch.to(device))
        return torch.nn.functional.normalize(features.float(), dim=-1).cpu()


def load(  # noqa: PLR0913 (what a user may want to say of a model, in one call)
    location: str | Path,
    device: str | torch.device = AUTO,
    *,
    dtype: DType = "float32",
    compile: bool = False,  # noqa: A002 (the name that PyTorch gives it)
    revision: str | None = None,
    sha256: str | None = None,
    offline: bool | None = None,
) -> ClipModel:
    """Load a checkpoint for zero-shot use.

    Args:
        location: a checkpoint folder; `hf-hub:org/name[@revision]`; OpenCLIP's MODEL:TAG; or the URL of a folder.
        device: where to run: auto (a GPU where there is one), cpu, cuda, cuda:1, mps.
        dtype: numbers to compute in. Embeddings are float32 in any case, and with bfloat16 or float16 close to it.
        compile: compile both towers with torch.compile: the first batch takes a minute, later ones less.
        revision: branch, tag or commit of a hub repository.
        sha256: what the weights must hash to, in hex.
        offline: use only what is on this machine.

    Raises:
        ConfigError: a device, a dtype or a name that is not there.
        CheckpointError: nothing there, or weights that are damaged or of another model.
    """
    check_dtype(dtype)
    place = resolve_device(device)
    folder = fetch(location, revision=revision, sha256=sha256, offline=offline)
    two_tower = load_checkpoint(folder, str(place), offline=offline)
    return ClipModel(two_tower, location=str(location), folder=folder, dtype=dtype, compiled=compile)


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
