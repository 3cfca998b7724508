"""Random numbers and permutations that are functions of their position: no state, no cache, seek anywhere.

Everything is built on the finaliser of SplitMix64 over unsigned 64-bit arithmetic, so that a set's order and a run's
sample sequence do not change with the version of NumPy.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROUNDS = 6


def stream_key(*parts: str | int) -> np.uint64:
    """Return the 64-bit key of a named stream of numbers, such as `stream_key("caption", seed)`."""
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return np.uint64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def mix(key: np.uint64 | U64, counter: npt.NDArray[Any]) -> U64:
    """Return one 64-bit hash a counter value; `key` is one key or one for each counter. Shapes broadcast."""
    value = key + (counter.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    mixed: U64 = value ^ (value >> np.uint64(31))
    return mixed


def hash_u64(name: str, seed: int, counter: npt.NDArray[Any]) -> U64:
    """Return the hashes of a named, seeded stream at the given counters."""
    return mix(np.atleast_1d(stream_key(name, seed)), counter)


def unit_floats(hashes: U64) -> npt.NDArray[np.float64]:
    """Return floats in [0, 1) from 64-bit hashes."""
    floats: npt.NDArray[np.float64] = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return floats


def permuted(position: Ints, size: int, keys: U64) -> Ints:
    """Return where a keyed permutation of 0 … size-1 sends each position.

    A Feistel network over a grid of a × b cells (a·b just above `size`), walked until it lands inside: a bijection for
    every key, in memory and time that do not depend on `size`.

    Args:
        position: (N,), each in 0 … size-1.
        size: how many there are to permute.
        keys: (N,), the permutation that each position is looked up in.
    """
    wide = int(np.ceil(np.sqrt(size)))
    narrow = -(-size // wide)
    result = _feistel(position, wide, narrow, keys)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        result[outside] = _feistel(result[outside], wide, narrow, keys[outside])
        outside = outside[result[outside] >= size]
    return result


def _feistel(position: Ints, wide: int, narrow: int, keys: U64) -> Ints:
    left, right = (part.astype(np.uint64) for part in np.divmod(position, narrow))
    for turn in range(_ROUNDS):
        left = (left + mix(keys + np.uint64(2 * turn), right) % np.uint64(wide)) % np.uint64(wide)
        right = (right + mix(keys + np.uint64(2 * turn + 1), left) % np.uint64(narrow)) % np.uint64(narrow)
    joined: Ints = (left * np.uint64(narrow) + right).astype(np.int64)
    return joined
