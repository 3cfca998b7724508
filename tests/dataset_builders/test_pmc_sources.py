"""Archives: what is listed, which file a reference means, and that hostile packages write and read nothing."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from clipmed.errors import ConfigError, ItemRejectedError
from clipmed.rejects import RejectReason
from dataset_builders.pmc.config import MediaLimits, PmcConfig
from dataset_builders.pmc.media import find_media
from dataset_builders.pmc.metadata import md5_hex, parse_metadata, read_metadata
from dataset_builders.pmc.packages import is_safe_name, read_package
from dataset_builders.pmc.sources import list_articles, open_article

LIMITS = MediaLimits()


def package(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def reason(path: Path, limits: MediaLimits = LIMITS) -> RejectReason:
    with pytest.raises(ItemRejectedError) as caught:
        read_package(path, limits)
    return caught.value.reason


def test_articles_are_listed_by_number_newest_version_first(tmp_path: Path):
    for name in ("PMC10.1", "PMC9.2", "PMC9.10", "metadata", "inventory-reports", "PMC7"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.txt").write_text("x")
    refs = list_articles(tmp_path, "auto")
    assert [(ref.pmcid, ref.version, ref.superseded_by) for ref in refs] == [
        ("PMC9", 10, ""),
        ("PMC9", 2, "PMC9.10"),
        ("PMC10", 1, ""),
    ]


def test_packages_are_listed_in_any_folder_and_give_way_to_versions(tmp_path: Path):
    package(tmp_path / "aa" / "PMC8.tar.gz", {})
    package(tmp_path / "bb" / "PMC8.tar.gz", {})
    package(tmp_path / "PMC9.tar.gz", {})
    package(tmp_path / "unnamed.tar.gz", {"PMC6/a.nxml": b"x"})
    (tmp_path / "PMC9.1").mkdir()
    listed = {ref.path: (ref.pmcid, ref.version, ref.superseded_by) for ref in list_articles(tmp_path, "auto")}
    assert listed == {
        "unnamed.tar.gz": ("PMC6", None, ""),
        "aa/PMC8.tar.gz": ("PMC8", None, ""),
        "bb/PMC8.tar.gz": ("PMC8", None, "aa/PMC8.tar.gz"),
        "PMC9.1": ("PMC9", 1, ""),
        "PMC9.tar.gz": ("PMC9", None, "PMC9.1"),
    }
    assert {ref.layout for ref in list_articles(tmp_path, "packages")} == {"packages"}
    assert [ref.path for ref in list_articles(tmp_path, "bucket")] == ["PMC9.1"]


def test_folders_without_articles_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"holds no article in the layout 'bucket'; allowed: PMC<id>"):
        list_articles(tmp_path, "bucket")
    with pytest.raises(ConfigError, match="no such folder"):
        list_articles(tmp_path / "absent", "auto")


@pytest.mark.parametrize(
    ("href", "names", "found"),
    [
        ("f1", ["f1.jpg", "f1.gif"], "f1.jpg"),
        ("f1.gif", ["f1.gif", "f1.jpg"], "f1.jpg"),
        ("f1", ["f1.gif"], "f1.gif"),
        ("f1.tif", ["f1.jpg", "f10.jpg"], "f1.jpg"),
        ("f1.png", ["f1.jpg", "f1.png"], "f1.png"),
        ("f1.jpg", ["f1.thumb.jpg", "f1.jpg"], "f1.jpg"),
        ("f1", ["f1-thumb.jpg"], "f1-thumb.jpg"),
        ("pone.0000217.g001", ["pone.0000217.g001.jpg", "pone.0000217.g0011.jpg"], "pone.0000217.g001.jpg"),
        ("images/sub/F1.JPG", ["f1.jpg"], "f1.jpg"),
        ("F1", ["f1.JPEG"], "f1.JPEG"),
        ("f1.eps", ["f1.jpg", "f1.eps"], "f1.jpg"),
        ("f1.webp", ["f1.webp"], "f1.webp"),
        ("a b.jpg", ["a b.jpg"], "a b.jpg"),
    ],
)
def test_references_find_their_file(href: str, names: list[str], found: str):
    assert find_media(href, names) == found
    assert find_media(href, names[::-1]) == found


@pytest.mark.parametrize(
    ("href", "names", "expected"),
    [
        ("f2", ["f1.jpg", "f22.jpg"], RejectReason.MEDIA_MISSING),
        ("", ["f1.jpg"], RejectReason.MEDIA_MISSING),
        ("../..", ["f1.jpg"], RejectReason.MEDIA_MISSING),
        ("../../etc/passwd", [], RejectReason.MEDIA_MISSING),
        ("f1", ["f1.pdf"], RejectReason.IMAGE_UNSUPPORTED),
        ("film.mp4", ["film.mp4"], RejectReason.IMAGE_UNSUPPORTED),
    ],
)
def test_references_without_an_image_are_rejected(href: str, names: list[str], expected: RejectReason):
    with pytest.raises(ItemRejectedError) as caught:
        find_media(href, names)
    assert caught.value.reason == expected


def test_package_gives_xml_and_media_and_ignores_the_rest(tmp_path: Path):
    path = package(
        tmp_path / "PMC1.tar.gz",
        {"PMC1/a.nxml": b"<article/>", "PMC1/f1.JPG": b"jpg", "PMC1/a.pdf": b"pdf", "PMC1/s.doc": b"doc"},
    )
    found = read_package(path, LIMITS)
    assert (found.xml, found.media, found.unsafe_members) == (b"<article/>", {"f1.JPG": b"jpg"}, ())


def test_unsafe_members_are_named_and_not_read(tmp_path: Path):
    path = tmp_path / "PMC1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("PMC1/f1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        hard = tarfile.TarInfo("PMC1/f2.jpg")
        hard.type, hard.linkname = tarfile.LNKTYPE, "../../secret"
        for member in (link, hard, tarfile.TarInfo("../f3.jpg"), tarfile.TarInfo("/tmp/f4.jpg")):
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("PMC1/a.nxml"))
    found = read_package(path, LIMITS)
    assert found.unsafe_members == ("PMC1/f1.jpg", "PMC1/f2.jpg", "../f3.jpg", "/tmp/f4.jpg")
    assert found.media == {}
    assert found.xml == b""


@pytest.mark.parametrize("name", ["/a", "a/../b", "..", "C:\\a", "\\a", "a\\..\\b"])
def test_names_that_leave_the_folder_are_unsafe(name: str):
    assert not is_safe_name(name)


@pytest.mark.parametrize("name", ["a", "PMC1/a..b.jpg", "./PMC1/a"])
def test_names_inside_the_folder_are_safe(name: str):
    assert is_safe_name(name)


def test_broken_packages_are_unreadable(tmp_path: Path):
    whole = package(tmp_path / "PMC1.tar.gz", {"PMC1/f.jpg": bytes(range(256)) * 400}).read_bytes()
    for number, data in enumerate((b"", b"<html>404</html>", whole[: len(whole) // 2], gzip.compress(b"junk" * 300))):
        path = tmp_path / f"bad{number}.tar.gz"
        path.write_bytes(data)
        assert reason(path) == RejectReason.PACKAGE_UNREADABLE, number


def test_package_bombs_stop_at_the_limit(tmp_path: Path):
    path = package(tmp_path / "PMC1.tar.gz", {"PMC1/big.pdf": bytes(5_000_000)})
    assert reason(path, MediaLimits(max_package_mb=1)) == RejectReason.FILE_TOO_LARGE


def test_media_above_the_limit_are_known_but_not_read(tmp_path: Path):
    package(tmp_path / "PMC1.tar.gz", {"PMC1/f.jpg": bytes(2000), "PMC1/a.nxml": b"x"})
    config = PmcConfig(root=tmp_path, media=MediaLimits(max_media_mb=0.001))
    files = open_article(list_articles(tmp_path, "auto")[0], config)
    assert set(files.media_names) == {"f.jpg"}
    with pytest.raises(ItemRejectedError, match="file_too_large"):
        files.media("f.jpg")


def test_metadata_gives_licence_retraction_and_checksums():
    found = parse_metadata(
        {
            "license_code": "CC BY",
            "is_retracted": True,
            "pmid": 12,
            "xml_url": "s3://pmc-oa-opendata/PMC1.1/PMC1.1.xml?md5=AB",
            "media_urls": ["s3://pmc-oa-opendata/PMC1.1/f1.jpg?md5=cd", "s3://pmc-oa-opendata/PMC1.1/f2.jpg"],
        }
    )
    assert (found.license_code, found.is_retracted, found.pmid) == ("CC BY", True, "12")
    assert found.md5 == {"PMC1.1.xml": "ab", "f1.jpg": "cd", "f2.jpg": ""}


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"media_urls": 3}', '{"xml_url": "s3://[x"}'])
def test_metadata_that_is_no_such_json_makes_the_package_unreadable(tmp_path: Path, text: str):
    path = tmp_path / "PMC1.1.json"
    path.write_text(text)
    with pytest.raises(ItemRejectedError, match="package_unreadable"):
        read_metadata(path)


def test_links_in_an_article_folder_are_not_followed(tmp_path: Path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    folder = tmp_path / "root" / "PMC1.1"
    folder.mkdir(parents=True)
    (folder / "f1.jpg").symlink_to(secret)
    files = open_article(list_articles(tmp_path / "root", "auto")[0], PmcConfig(root=tmp_path / "root"))
    with pytest.raises(ItemRejectedError, match="path_unsafe"):
        files.media("f1.jpg")


def test_bucket_files_are_checked_against_their_checksums(tmp_path: Path):
    folder = tmp_path / "PMC1.1"
    folder.mkdir()
    (folder / "PMC1.1.xml").write_bytes(b"<article/>")
    (folder / "f1.jpg").write_bytes(b"good")
    (folder / "f2.jpg").write_bytes(b"bad")
    urls = [f"s3://b/PMC1.1/{name}.jpg?md5={md5_hex(b'good')}" for name in ("f1", "f2", "f3")]
    (folder / "PMC1.1.json").write_text(json.dumps({"media_urls": urls}))
    files = open_article(list_articles(tmp_path, "auto")[0], PmcConfig(root=tmp_path))
    assert set(files.media_names) == {"f1.jpg", "f2.jpg", "f3.jpg"}
    assert (files.xml(), files.media("f1.jpg")) == (b"<article/>", b"good")
    with pytest.raises(ItemRejectedError, match="checksum_mismatch"):
        files.media("f2.jpg")
    with pytest.raises(ItemRejectedError, match="media_missing"):
        files.media("f3.jpg")
