"""Zero-shot use of a checkpoint in three lines: load it, classify images, embed images and texts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmed.checkpoints import checkpoint_digest, load_checkpoint
from clipmed.class_cache import ClassCache
from clipmed.deferral import import_open_clip
from clipmed.devices import AUTO, DType, check_dtype, compiler_errors, resolve_device
from clipmed.errors import CheckpointError, ClipmedError
from clipmed.hub import fetch
from clipmed.inputs import SkippedImage, image_list, open_image
from clipmed.inputs.batches import batches
from clipmed.inputs.requests import check_batch_size, one_query, text_list
from clipmed.labels import DEFAULT_TEMPLATES, label_prompts
from clipmed.pixels import image_pixels
from clipmed.towers import check_is_no_bare_name

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from clipmed.calibration import Calibration, TemperatureSource
    from clipmed.inputs import ImageLike
    from clipmed.search import Hit, SearchIndex
    from clipmed.towers import TwoTower

TEXT_BATCH = 256
_UNIT_ERROR = 1e-3  # of the length of an embedding

__all__ = ["DEFAULT_TEMPLATES", "Classification", "ClipModel", "load"]


@dataclass(frozen=True, slots=True)
class Classification:
    """Probabilities of one image over the labels given: softmax of scaled cosines. They sum to 1."""

    probabilities: dict[str, float]
    """of each label, in the order given"""
    cosines: dict[str, float]
    """of the image with each label's prompts, before scale and softmax"""
    temperature: TemperatureSource
    """whether the scale is the one that training left, or one that `clipmed calibrate` fitted, on which labels"""

    @property
    def calibrated(self) -> bool:
        """Whether the scale was fitted on images of these labels, with these prompts."""
        return self.temperature == "fitted"

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
        calibration: Calibration | None = None,
    ) -> None:
        model: Any = two_tower.model
        self.two_tower = two_tower
        """OpenCLIP's model, its tokenizer and how it wants pixels"""
        self.location = location
        """where it was loaded from, as given"""
        self.dtype = dtype
        """what embeddings are computed in; they are returned in float32"""
        self.calibration = calibration
        """what its probabilities are scaled by; None: by the scale that training left"""
        self._folder = folder
        self._classes = ClassCache()
        self._encode_image, self._encode_text = model.encode_image, model.encode_text
        self.compiled = compiled
        """whether the towers run through torch.compile"""
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
        frame: int | None = None,
    ) -> torch.Tensor:
        """Return unit-length embeddings of images, float32 on the CPU of shape (N, D).

        Args:
            images: one image, several, or a tensor (N, 3, H, W); each as `clipmed.open_image` takes it.
            batch_size: images at a time; without effect on the result.
            progress: show a bar on standard error.
            skipped: a list to which images that cannot be used are added, in order. They have no embedding: N is the
                number of the others. Without it, the first one is an error.
            frame: which frame, page or slice of files of several, from 0, the same of all; files of one have frame 0.
                For others of each, give `clipmed.open_image(file, frame=…)`.

        Raises:
            ClipmedError: no images, or one that cannot be used.
        """
        import torch
        from tqdm import tqdm

        many = image_list(images)
        bar = tqdm(total=len(many), unit=" images", delay=2, disable=not progress, desc="embedding")
        parts = [torch.empty((0, self.embed_dim))]
        with bar:
            for positions, rows in self.embed_batches(many, batch_size, skipped=skipped, frame=frame):
                parts.append(rows)
                bar.update(positions[-1] + 1 - bar.n)
        return torch.cat(parts)

    def embed_batches(
        self,
        images: Iterable[ImageLike],
        batch_size: int = 64,
        *,
        skipped: list[SkippedImage] | None = None,
        frame: int | None = None,
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield embeddings batch by batch: the places of its images in `images`, and their rows, as `embed_images`.

        While the model runs on one batch, the next one is decoded.
        """
        import torch

        check_batch_size(batch_size)
        for positions, pixels in batches(images, partial(self.pixels, frame=frame), batch_size, skipped):
            yield positions, self.embed_pixels(torch.stack(pixels))

    def pixels(self, image: ImageLike, *, frame: int | None = None) -> torch.Tensor:
        """Return what the image tower takes of an image, float32 of shape (3, H, W); safe in several threads.

        Raises:
            ClipmedError: an image that cannot be used.
        """
        return image_pixels(open_image(image, frame=frame), self.two_tower.pixels)

    def embed_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return unit-length embeddings, float32 on the CPU of shape (N, D), of N stacked `pixels`, (N, 3, H, W)."""
        return self._unit(self._encode_image, pixels)

    def embed_texts(self, texts: str | Iterable[str], batch_size: int = TEXT_BATCH) -> torch.Tensor:
        """Return unit-length embeddings of texts, float32 on the CPU of shape (N, D).

        Raises:
            ClipmedError: no texts, or one that is empty or no text.
        """
        import torch

        check_batch_size(batch_size)
        many = text_list(texts)
        tokenizer = self.two_tower.tokenizer
        starts = range(0, len(many), batch_size)
        tokens = (tokenizer(many[start : start + batch_size]) for start in starts)
        return torch.cat([self._unit(self._encode_text, batch) for batch in tokens])

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
        prompts = label_prompts(labels, templates)
        return self.classify_embeddings(self.embed_images(images), prompts)

    def classify_embeddings(
        self,
        embeddings: torch.Tensor,
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        templates: Sequence[str] = DEFAULT_TEMPLATES,
    ) -> list[Classification]:
        """Return the same as `classify` for images that are embedded already, shape (N, D)."""
        prompts = label_prompts(labels, templates)
        cosines = embeddings @ self.class_embeddings(prompts).T
        probabilities = (cosines * self.logit_scale).softmax(dim=-1).tolist()
        temperature: TemperatureSource = "learned"
        if self.calibration:
            temperature = "fitted" if self.calibration.is_for(prompts) else "fitted on other labels"
        return [
            Classification(dict(zip(prompts, row, strict=True)), dict(zip(prompts, own, strict=True)), temperature)
            for row, own in zip(probabilities, cosines.tolist(), strict=True)
        ]

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by before the softmax: the fitted scale, or the one that training left."""
        model: Any = self.two_tower.model
        return self.calibration.logit_scale if self.calibration else float(model.logit_scale.detach().exp())

    def calibrate(
        self,
        images: ImageLike | Iterable[ImageLike],
        truths: Sequence[str],
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        templates: Sequence[str] = DEFAULT_TEMPLATES,
        *,
        groups: Sequence[str] | None = None,
    ) -> Calibration:
        """Fit the temperature of this model on images with known labels; see `clipmed.calibration`.

        `calibration.save(folder)` keeps it for `clipmed.load`; `model.calibration = calibration` uses it at once.

        Args:
            images: 20 or more, as for `embed_images`; not those that a score is computed on.
            truths: the label of each image.
            labels: all labels, as for `classify`.
            templates: as for `classify`.
            groups: the patient or study of each image, if several images share one.

        Raises:
            ClipmedError: too few images, a truth that is no label, or what `classify` raises.
        """
        many = image_list(images)
        if len(truths) != len(many) or (groups is not None and len(groups) != len(many)):
            raise ClipmedError(
                f"calibrate: got {len(many)} images, {len(truths)} truths"
                f"{'' if groups is None else f' and {len(groups)} groups'}; allowed: one for each image"
            )
        return self.calibrate_embeddings(
            self.embed_images(many), truths, label_prompts(labels, templates), groups=groups
        )

    def calibrate_embeddings(
        self,
        embeddings: torch.Tensor,
        truths: Sequence[str],
        prompts: Mapping[str, Sequence[str]],
        *,
        groups: Sequence[str] | None = None,
    ) -> Calibration:
        """Return the same as `calibrate` for images that are embedded already, shape (N, D)."""
        import numpy as np

        from clipmed.calibration import Answers, calibrate

        unknown = sorted({repr(truth) for truth in truths if truth not in prompts})
        if unknown:
            raise ClipmedError(f"calibrate: got the truth {unknown[0]}; allowed: {', '.join(map(repr, prompts))}")
        names = list(prompts)
        answers = Answers(
            cosines=(embeddings @ self.class_embeddings(prompts).T).numpy(),
            targets=np.array([names.index(truth) for truth in truths], dtype=np.int64),
            groups=list(groups) if groups is not None else [str(number) for number in range(len(truths))],
        )
        model: Any = self.two_tower.model
        return calibrate(answers, prompts, float(model.logit_scale.detach().exp()), self.digest)

    def class_embeddings(self, prompts: Mapping[str, Sequence[str]]) -> torch.Tensor:
        """Return one unit-length row a label, shape (C, D): the mean of its prompts; see `zeroshot.class_rows`.

        Rows are kept for labels that are asked for again, so weights are not to be changed in place.

        Raises:
            ClipmedError: two labels whose prompts are the same tokens to this model.
        """
        return self._classes.rows(prompts, self.two_tower.tokenizer, self._text_rows)

    def search(self, query: ImageLike, index: SearchIndex, k: int = 10, *, frame: int | None = None) -> list[Hit]:
        """Return the images of an index that are nearest to a query; `index.search` takes several embedded ones.

        Args:
            query: a text, where it is a str; an image, where it is a Path or anything else.
            index: one that `clipmed index` made with this checkpoint.
            k: how many, the nearest first.
            frame: of an image, as for `embed_images`.

        Raises:
            ClipmedError: several queries, a str that is the path of a file, or what embedding and `index.search` raise.
            ConfigError: an index that another checkpoint built.
        """
        index.require_checkpoint(self.digest)
        one = one_query(query)
        rows = self.embed_texts(one) if isinstance(one, str) else self.embed_images(one, frame=frame)
        return index.search(rows, k)[0]

    def _text_rows(self, tokens: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.cat([self._unit(self._encode_text, part) for part in torch.split(tokens, TEXT_BATCH)])

    def _unit(self, encode: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
        """Return unit-length features of a batch, float32 on the CPU. Weights stay as they were saved."""
        import torch

        device = self.device
        narrow = self.dtype != "float32"
        mixed = torch.autocast(device.type, getattr(torch, self.dtype)) if narrow else contextlib.nullcontext()
        with torch.no_grad(), mixed, compiler_errors(self.compiled):  # in inference mode, autocast forgets its casts
            features = encode(batch.to(device))
        rows = torch.nn.functional.normalize(features.float(), dim=-1).cpu()
        if not ((rows.norm(dim=-1) - 1).abs() < _UNIT_ERROR).all():
            raise CheckpointError(
                f"{self.location or 'the model'} gives an embedding that is not finite, or is zero, in {self.dtype}; "
                + ("its weights are unusable" if self.dtype == "float32" else "try bfloat16, or float32")
            )
        return rows


def load(  # noqa: PLR0913 (what a user may want to say of a model, in one call)
    location: str | Path,
    device: str | torch.device = AUTO,
    *,
    dtype: DType = "float32",
    compile: bool = False,  # noqa: A002 (the name that PyTorch gives it)
    revision: str | None = None,
    sha256: str | None = None,
    offline: bool | None = None,
    calibrated: bool = True,
) -> ClipModel:
    """Load a checkpoint for zero-shot use.

    Args:
        location: a checkpoint folder; `hf-hub:org/name[@revision]`; OpenCLIP's MODEL:TAG; or the URL of a folder.
        device: where to run: auto (a GPU where there is one), cpu, cuda, cuda:1, mps.
        dtype: numbers to compute in. Embeddings are float32 in any case, and with bfloat16 or float16 close to it.
            float16 is for GPUs: on a CPU it takes several times as long as float32.
        compile: compile both towers with torch.compile: the first batch takes a minute, and so may the first ones of
            another size, as the last of many images often is. It pays for thousands of images.
        revision: branch, tag or commit of a hub repository.
        sha256: what the weights must hash to, in hex.
        offline: use only what is on this machine.
        calibrated: use the temperature that `clipmed calibrate` left in the folder, if it did.

    Raises:
        ConfigError: a device, a dtype or a name that is not there.
        CheckpointError: nothing there, or weights that are damaged or of another model.
    """
    from clipmed.calibration import check_belongs, read_calibration

    check_dtype(dtype)
    place = resolve_device(device)
    check_is_no_bare_name(location)
    folder = fetch(location, revision=revision, sha256=sha256, offline=offline)
    calibration = read_calibration(folder) if calibrated else None
    import_open_clip()
    two_tower = load_checkpoint(folder, str(place), offline=offline)
    model = ClipModel(
        two_tower, location=str(location), folder=folder, dtype=dtype, compiled=compile, calibration=calibration
    )
    if calibration:
        check_belongs(calibration, model.digest, folder)
    return model
