"""Atomic writes."""

import pytest

from clipmed.files import atomic_file, atomic_folder, sha256_file, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="disk"), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "unit"
    with pytest.raises(RuntimeError, match="killed"), atomic_folder(target) as folder:
        (folder / "one").write_text("1")
        raise RuntimeError("killed")
    assert not target.exists()
    with atomic_folder(target) as folder:
        (folder / "one").write_text("1")
        assert not target.exists()
    with atomic_folder(target) as folder:
        assert not list(folder.iterdir())
        (folder / "two").write_text("2")
    assert [entry.name for entry in target.iterdir()] == ["two"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["unit"]


def test_json_refuses_nan_and_digests_are_sha256(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())
    write_text(tmp_path / "abc", "abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea")
