"""Classifier rows of labels, the last ones kept: labels mostly stay the same while images change."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from clipmed.errors import ClipmedError
from clipmed.zeroshot import class_rows

if TYPE_CHECKING:
    import torch

MOST_LABELS = 1024
_Prompts: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Label:
    row: torch.Tensor
    """shape (D,)"""
    tokens: frozenset[bytes]
    """of each prompt"""
    context_length: int


class ClassCache:
    """Rows of one model, by prompts, as long as its weights stay as they are; safe in several threads."""

    def __init__(self, most: int = MOST_LABELS) -> None:
        """Keep up to `most` labels: those used last."""
        self._most = most
        self._kept: OrderedDict[_Prompts, _Label] = OrderedDict()
        self._lock = threading.Lock()

    def rows(
        self,
        prompts: Mapping[str, Sequence[str]],
        tokenize: Callable[[list[str]], torch.Tensor],
        encode: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Return one unit-length row a label, shape (C, D), in the mapping's order; see `zeroshot.class_rows`.

        Args:
            prompts: one or more texts a label.
            tokenize: maps P texts to tokens, (P, L).
            encode: maps tokens to unit-length embeddings, (P, D).

        Raises:
            ClipmedError: two labels whose prompts are the same tokens, or a label without prompts.
        """
        import torch

        wanted = {name: tuple(texts) for name, texts in prompts.items()}
        with self._lock:
            found = {texts: self._kept[texts] for texts in wanted.values() if texts in self._kept}
        absent = {texts: name for name, texts in wanted.items() if texts not in found}
        if absent:
            found |= _labels(absent, tokenize, encode)
        _check_differ({name: found[texts] for name, texts in wanted.items()})
        with self._lock:
            for texts, label in found.items():
                self._kept[texts] = label
                self._kept.move_to_end(texts)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return torch.stack([found[texts].row for texts in wanted.values()])


def _labels(
    absent: Mapping[_Prompts, str],
    tokenize: Callable[[list[str]], torch.Tensor],
    encode: Callable[[torch.Tensor], torch.Tensor],
) -> dict[_Prompts, _Label]:
    import torch

    tokens = tokenize([text for texts in absent for text in texts])
    parts = torch.split(tokens, [len(texts) for texts in absent])
    rows = class_rows({name: texts for texts, name in absent.items()}, lambda _texts: encode(tokens))
    return {
        texts: _Label(row, frozenset(line.tobytes() for line in part.numpy()), tokens.shape[1])
        for texts, row, part in zip(absent, rows, parts, strict=True)
    }


def _check_differ(labels: Mapping[str, _Label]) -> None:
    seen: dict[frozenset[bytes], str] = {}
    for name, label in labels.items():
        other = seen.setdefault(label.tokens, name)
        if other != name:
            raise ClipmedError(
                f"labels {other!r} and {name!r} are the same to this model, which reads the first "
                f"{label.context_length} tokens of words that it knows; say them in other words"
            )
