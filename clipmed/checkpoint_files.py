"""The files of a checkpoint folder, and the checksums that travel with them.

open_clip_config.json        {"model_cfg": …, "preprocess_cfg": …}
open_clip_model.safetensors  weights
tokenizer.json …             of a Hugging Face text tower, with its config.json
SHA256SUMS                   of all files above, as `sha256sum -c SHA256SUMS` reads it
README.md                    model card
calibration.json             temperature, where one was fitted

The sums are checked at every load: a file that was cut short, swapped or edited fits its architecture and would give
wrong answers. It costs 0.4 s for 600 MB on a quiet core with SHA instructions, and nothing the
second time that a process loads the same files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from clipmed.errors import CheckpointError
from clipmed.files import sha256_file, write_text

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
SUMS_FILE = "SHA256SUMS"
CARD_FILE = "README.md"
CALIBRATION_FILE = "calibration.json"
MERGE_FILE = "merge.json"
SMALL_FILES = ("*.json", "*.txt", "*.model", CARD_FILE, SUMS_FILE)  # configs, tokenizer, card
TOKENIZER_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# What may change without changing an embedding.
NOT_SUMMED = frozenset({CARD_FILE, CALIBRATION_FILE, MERGE_FILE, SUMS_FILE})

_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")
_SUMS_BYTES_MAX = 1 << 20


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over the folder's config, weights and tokenizer files."""
    write_text(folder / SUMS_FILE, sums_text(folder))


def sums_text(folder: Path) -> str:
    """Return the content of SHA256SUMS for a folder's config, weights and tokenizer files."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and _is_summed(path.name))
    return "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names)


def read_sums(folder: Path) -> dict[str, str] | None:
    """Return {file: hex SHA-256} as SHA256SUMS lists them; None where there is none.

    Raises:
        CheckpointError: a line that is not one of `sha256sum`, or a file that is listed twice.
    """
    path = folder / SUMS_FILE
    try:
        if path.stat().st_size > _SUMS_BYTES_MAX:
            raise CheckpointError(f"{path} has more than {_SUMS_BYTES_MAX} bytes; fetch or save the checkpoint again")
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not readable: {error}; fetch or save the checkpoint again") from error
    return _parsed(lines, path)


def check_sums(folder: Path) -> dict[str, str]:
    """Check every file that SHA256SUMS lists; return {file: hex SHA-256}, empty where a folder has no SHA256SUMS.

    Raises:
        CheckpointError: a file differs, is missing, or would be read without being listed.
    """
    sums = read_sums(folder)
    if sums is None:
        return {}
    remedy = f"fetch or save the checkpoint again; {SUMS_FILE} may be removed only if the change was meant"
    present = {path.name for path in folder.iterdir() if path.is_file()}
    unlisted = sorted(({CONFIG_FILE, WEIGHTS_FILE} | (present & {*TOKENIZER_FILES})) - sums.keys())
    if unlisted:
        raise CheckpointError(f"{folder / SUMS_FILE} does not list {', '.join(unlisted)}; {remedy}")
    for name, expected in sums.items():
        check_sum(folder / name, expected, remedy)
    return sums


def check_sum(path: Path, expected: str, remedy: str) -> None:
    """Check one file against a hex SHA-256.

    Raises:
        CheckpointError: it differs or is missing; says both hashes and the remedy.
    """
    try:
        got = file_sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path} is not readable ({error.strerror}); {remedy}") from error
    if got != expected:
        raise CheckpointError(f"{path} is not the file that it should be: sha256 {got}, expected {expected}; {remedy}")


def file_sha256(path: Path) -> str:
    """Return a file's hex SHA-256, from memory where this process has read it and it has not changed since."""
    status = path.stat()
    return _sha256_as_of(path.resolve(), (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))


def checkpoint_digest(folder: Path, file_digest: Callable[[Path], str] = file_sha256) -> str:
    """Return a hex SHA-256 over the checkpoint's config and weights: the same digest means the same embeddings.

    Args:
        folder: the checkpoint's.
        file_digest: returns a file's hex SHA-256, perhaps from memory.
    """
    parts = [file_digest(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)]
    return digest_of_sums({CONFIG_FILE: parts[0], WEIGHTS_FILE: parts[1]})


def digest_of_sums(sums: Mapping[str, str]) -> str:
    """Return what `checkpoint_digest` does from the files' own hex SHA-256."""
    return hashlib.sha256((sums[CONFIG_FILE] + sums[WEIGHTS_FILE]).encode()).hexdigest()


@lru_cache(maxsize=256)
def _sha256_as_of(path: Path, _status: tuple[int, ...]) -> str:
    return sha256_file(path)


def _is_summed(name: str) -> bool:
    wanted = (WEIGHTS_FILE, *SMALL_FILES)
    return name not in NOT_SUMMED and not name.startswith(".") and any(fnmatch(name, pattern) for pattern in wanted)


def _parsed(lines: list[str], path: Path) -> dict[str, str]:
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _SUM_LINE.fullmatch(line)
        if match is None or match[2] in {".", ".."} or match[2] in sums:
            raise CheckpointError(
                f"{path}, line {number}: got {line[:120]!r}; allowed: 64 hex digits, two spaces and the name of a file "
                "of this folder, each file once"
            )
        sums[match[2]] = match[1]
    return sums
