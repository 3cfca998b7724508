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
import json
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from clipmed.errors import CheckpointError
from clipmed.files import sha256_file, write_text

CONFIG_FILE = "open_clip_config.json"
TEXT_CONFIG_FILE = "config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
HERE = "."  # the checkpoint's own folder, as the name of its text tower
SUMS_FILE = "SHA256SUMS"
CARD_FILE = "README.md"
CALIBRATION_FILE = "calibration.json"
MERGE_FILE = "merge.json"
SMALL_FILES = ("*.json", "*.txt", "*.model", CARD_FILE, SUMS_FILE)  # configs, tokenizer, card
VOCABULARY_FILES = (
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
TOKENIZER_FILES = (TEXT_CONFIG_FILE, *VOCABULARY_FILES)
# What may change without changing an embedding.
NOT_SUMMED = frozenset({CARD_FILE, CALIBRATION_FILE, MERGE_FILE, SUMS_FILE})

_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")
_SUMS_BYTES_MAX = 1 << 20


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over the folder's config, weights and tokenizer files."""
    write_text(folder / SUMS_FILE, sums_text(folder_sums(folder)))


def folder_sums(folder: Path) -> dict[str, str]:
    """Return {file: hex SHA-256} of a folder's config, weights and tokenizer files."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and _is_summed(path.name))
    return {name: file_sha256(folder / name) for name in names}


def sums_text(sums: Mapping[str, str]) -> str:
    """Return the content of SHA256SUMS for {file: hex SHA-256}."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


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

    What a text tower is called does not count where its files lie beside the config: they are what is used. So a
    published checkpoint, which is called as its repository, has the digest of the folder that was published.

    Args:
        folder: the checkpoint's.
        file_digest: returns a file's hex SHA-256, perhaps from memory.
    """
    config = renamed_config(folder, HERE)
    of_config = file_digest(folder / CONFIG_FILE) if config is None else hashlib.sha256(config.encode()).hexdigest()
    return hashlib.sha256((of_config + file_digest(folder / WEIGHTS_FILE)).encode()).hexdigest()


def renamed_config(folder: Path, name: str) -> str | None:
    """Return the text of a checkpoint's config in which its text tower is called `name`.

    Only where the text tower's files lie beside the config: None where they do not, or where it has no name.
    """
    config = _json(folder / CONFIG_FILE)
    text = _text_config(config)
    named = {key: name for key, is_beside in _text_files(folder).items() if is_beside and text.get(key)}
    if not named:
        return None
    text.update(named)
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def text_names_elsewhere(folder: Path) -> list[str]:
    """Return the names that a checkpoint's config has for a text tower, or its tokenizer, that is not in the folder."""
    text = _text_config(_json(folder / CONFIG_FILE))
    names = [text.get("hf_model_name"), text.get("hf_tokenizer_name") or text.get("hf_model_name")]
    elsewhere = [name for name, is_beside in zip(names, _text_files(folder).values(), strict=True) if not is_beside]
    return list(dict.fromkeys(name for name in elsewhere if isinstance(name, str) and name))


def _text_files(folder: Path) -> dict[str, bool]:
    """Return by a setting's name whether the files that it names lie beside the config."""
    return {
        "hf_model_name": (folder / TEXT_CONFIG_FILE).is_file(),
        "hf_tokenizer_name": any((folder / file).is_file() for file in VOCABULARY_FILES),
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # whoever needs the config says so


def _text_config(config: Any) -> dict[str, Any]:
    """Return the settings of the text tower; empty where a config is none."""
    for name in ("model_cfg", "text_cfg"):
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, dict) else {}


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
