"""A spool's tar: the bytes that Python's own library would write, and read by it."""

import io
import tarfile

import pytest

from shards.spool import add_member
from shards.tars import header_of, list_members

MEMBERS = {
    "pmc-0123456789abcdef.jpg": b"\xff\xd8" + bytes(range(256)) * 5,
    "pmc-0123456789abcdef.json": b"{}",
    "empty.txt": b"",
    "block.bin": b"x" * 512,
    "n" * 100: b"a name that fills its field",
    "folder/" + "n" * 97: b"a name that needs two fields",
    "bild-ä.jpg": b"letters beyond ASCII",
}


def with_the_library(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    header.mode = 0o644
    tar.addfile(header, io.BytesIO(data))


def test_members_are_written_as_the_library_writes_them(tmp_path):
    for path, add in ((tmp_path / "ours.tar", add_member), (tmp_path / "theirs.tar", with_the_library)):
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in MEMBERS.items():
                add(tar, name, data)
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()
    assert [(member.name, member.size) for member in list_members(tmp_path / "ours.tar")] == [
        (name, len(data)) for name, data in MEMBERS.items()
    ]
    with tarfile.open(tmp_path / "ours.tar") as tar:
        assert {name: tar.extractfile(name).read() for name in tar.getnames()} == MEMBERS


@pytest.mark.parametrize(("name", "size"), [("n" * 300, 1), ("x.jpg", 1 << 33)])
def test_what_a_header_cannot_hold_is_refused(name: str, size: int):
    with pytest.raises(ValueError, match=r"too long|overflow"):
        header_of(name, size)
