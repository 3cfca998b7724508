"""Embeddings and zero-shot classifiers: the arithmetic that training's validation, the suite and the API share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipmed.errors import ClipmedError

if TYPE_CHECKING:
    import torch

    from clipmed.towers import TwoTower

TEXT_BATCH = 256


def embed_images(two_tower: TwoTower, pixels: torch.Tensor) -> torch.Tensor:
    """Return unit-length image embeddings, float32 of shape (N, D), for pixels of shape (N, 3, H, W)."""
    import torch

    model: Any = two_tower.model
    with torch.no_grad():
        features = model.encode_image(pixels.to(_device(two_tower)))
        return torch.nn.functional.normalize(features.float(), dim=-1)


def embed_texts(two_tower: TwoTower, texts: Sequence[str]) -> torch.Tensor:
    """Return unit-length text embeddings, float32 of shape (N, D)."""
    import torch

    model: Any = two_tower.model
    parts = []
    with torch.no_grad():
        for start in range(0, len(texts), TEXT_BATCH):
            tokens = two_tower.tokenizer(list(texts[start : start + TEXT_BATCH])).to(_device(two_tower))
            parts.append(torch.nn.functional.normalize(model.encode_text(tokens).float(), dim=-1))
    if not parts:
        raise ClipmedError("no texts to embed: got an empty list; give one or more")
    return torch.cat(parts)


def class_embeddings(two_tower: TwoTower, prompts: Mapping[str, Sequence[str]]) -> torch.Tensor:
    """Return `class_rows` of a model's own text embeddings."""
    return class_rows(prompts, lambda texts: embed_texts(two_tower, texts))


def class_rows(prompts: Mapping[str, Sequence[str]], embed: Callable[[Sequence[str]], torch.Tensor]) -> torch.Tensor:
    """Return one unit-length classifier row a class, shape (C, D), in the mapping's order.

    The prompt ensemble of Radford et al. 2021 (arXiv 2103.00020, section 3.1.4): each prompt's embedding is normalised,
    the class mean is taken, and normalised again. Classes may have different numbers of prompts.

    Args:
        prompts: one or more texts a class.
        embed: maps P texts to unit-length embeddings (P, D).
    """
    import torch

    empty = [name for name, texts in prompts.items() if not texts or not all(text.strip() for text in texts)]
    if empty:
        raise ClipmedError(f"every class needs prompts that are not empty: got none for {', '.join(empty)}")
    embedded = embed([text for texts in prompts.values() for text in texts])
    split = torch.split(embedded, [len(texts) for texts in prompts.values()])
    return torch.nn.functional.normalize(torch.stack([part.mean(dim=0) for part in split]), dim=-1)


def _device(two_tower: TwoTower) -> torch.device:
    return next(two_tower.model.parameters()).device
