"""Digests of weights: kept in a folder, read again when a file or its record changes."""

import hashlib
import os
from pathlib import Path

import pytest

from zeroshot_eval import weight_files
from zeroshot_eval.weight_files import file_digest, remembered_digests


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, by a process that knows none of them yet whenever `cache_clear` is called."""
    files: list[Path] = []
    honest = weight_files.sha256_file
    monkeypatch.setattr(weight_files, "sha256_file", lambda path: files.append(path) or honest(path))
    return files


def digest_in_a_new_process(path: Path, records: Path) -> str:
    weight_files._digest_as_of.cache_clear()
    with remembered_digests(records):
        return file_digest(path)


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, read: list[Path]):
    weights, records = tmp_path / "weights.safetensors", tmp_path / "records"
    weights.write_bytes(b"first")
    for _ in range(2):
        assert digest_in_a_new_process(weights, records) == hashlib.sha256(b"first").hexdigest()
    assert read == [weights]
    weights.write_bytes(b"other")  # as long as the first
    os.utime(weights, ns=(1, 1))
    assert digest_in_a_new_process(weights, records) == hashlib.sha256(b"other").hexdigest()
    assert read == [weights, weights]


def test_a_damaged_record_is_not_believed(tmp_path: Path, read: list[Path]):
    weights, records = tmp_path / "weights.safetensors", tmp_path / "records"
    weights.write_bytes(b"first")
    digest_in_a_new_process(weights, records)
    (record,) = records.iterdir()
    for content in ("", "[1]", record.read_text().replace('"sha256": "', '"sha256": "0')):
        record.write_text(content)
        assert digest_in_a_new_process(weights, records) == hashlib.sha256(b"first").hexdigest()
    assert len(read) == 4


def test_nothing_is_kept_without_a_folder(tmp_path: Path, read: list[Path]):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"first")
    weight_files._digest_as_of.cache_clear()
    assert file_digest(weights) == file_digest(weights) == hashlib.sha256(b"first").hexdigest()
    assert read == [weights]
    assert list(tmp_path.iterdir()) == [weights]
