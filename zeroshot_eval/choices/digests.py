"""The digest of the files that a question set was read from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from clipmed.files import sha256_file


def files_digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 over the files' own SHA-256s, in their order."""
    return hashlib.sha256("\n".join(sha256_file(path) for path in files).encode()).hexdigest()
