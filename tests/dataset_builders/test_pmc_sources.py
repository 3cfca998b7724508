"""Articles of a folder: which file a reference means, and that hostile packages write and read nothing."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from clipmed.errors import ItemRejectedError
from clipmed.rejects import RejectReason
from dataset_builders.pmc.archive import open_archive
from dataset_builders.pmc.config import MediaLimits, PmcConfig
from dataset_builders.pmc.media import find_media
from dataset_builders.pmc.metadata import md5_hex, parse_citation, parse_metadata, read_metadata
from dataset_builders.pmc.packages import is_safe_name, read_package
from dataset_builders.pmc.sources import Article, ArticleRef, open_article

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


def opened(root: Path, path: str, **settings: object) -> Article:
    """Open PMC1, in a package where the path is one."""
    is_package = path.endswith(".tar.gz")
    ref = ArticleRef(
        number=1, version=None if is_package else 1, path=path, layout="packages" if is_package else "bucket"
    )
    config = PmcConfig(root=str(root), **settings)  # type: ignore[arg-type]
    return open_article(ref, open_archive(config), config)


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
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 40]) + whole[middle + 40 :]
    for number, data in enumerate(
        (
            b"",
            b"<html>404</html>",
            whole[:middle],
            flipped,
            gzip.compress(b"junk" * 300),
            b"\x1f\x8b\x08" + b"\xff" * 99,
        )
    ):
        path = tmp_path / f"bad{number}.tar.gz"
        path.write_bytes(data)
        assert reason(path) == RejectReason.PACKAGE_UNREADABLE, number


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path):
    whole = package(tmp_path / "PMC1.tar.gz", {f"PMC1/{name}.jpg": b"x" * 700 for name in "abc"})
    plain = bytearray(gzip.decompress(whole.read_bytes()))
    plain[1536 + 100] ^= 0xFF  # the second member's header
    whole.write_bytes(gzip.compress(bytes(plain)))
    assert reason(whole) == RejectReason.PACKAGE_UNREADABLE


@pytest.mark.parametrize("kept", [300, 1400])
def test_a_tar_that_ends_inside_a_member_is_unreadable_though_its_compression_is_whole(tmp_path: Path, kept: int):
    path = package(tmp_path / "PMC1.tar.gz", {"PMC1/a.pdf": b"x" * 400, "PMC1/b.jpg": b"x" * 700})
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[: 512 + kept]))
    assert reason(path) == RejectReason.PACKAGE_UNREADABLE


def test_a_header_that_points_back_is_unreadable(tmp_path: Path):
    path = tmp_path / "PMC1.tar.gz"
    header = tarfile.TarInfo("PMC1/a.pdf")
    header.size = -2048
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
    assert reason(path) == RejectReason.PACKAGE_UNREADABLE


def test_package_bombs_stop_at_the_limit(tmp_path: Path):
    path = package(tmp_path / "PMC1.tar.gz", {"PMC1/big.pdf": bytes(5_000_000)})
    assert reason(path, MediaLimits(max_package_mb=1)) == RejectReason.FILE_TOO_LARGE


def test_media_above_the_limit_are_known_but_not_read(tmp_path: Path):
    package(tmp_path / "PMC1.tar.gz", {"PMC1/f.jpg": bytes(2000), "PMC1/a.nxml": b"x"})
    files = opened(tmp_path, "PMC1.tar.gz", media=MediaLimits(max_media_mb=0.001))
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


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"media_urls": 3}', "{" * 100_000])
def test_metadata_that_is_no_such_json_makes_the_package_unreadable(tmp_path: Path, text: str):
    with pytest.raises(ItemRejectedError, match="package_unreadable"):
        read_metadata("PMC1.1.json", text.encode())
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "PMC1.1.json").write_text(text)
    with pytest.raises(ItemRejectedError, match="package_unreadable"):
        opened(tmp_path, "PMC1.1")


@pytest.mark.parametrize(
    ("citation", "journal", "published"),
    [
        ("Breast Cancer Res. 2001 Nov 2; 3(1):55-60", "Breast Cancer Res", "2001-11-02"),
        ("Nucleic Acids Res. 2020 Sep 18;48(16):e95. doi: 10.1093/nar/gkaa1", "Nucleic Acids Res", "2020-09-18"),
        ("J Foo (Lond). 2020 Jan-Feb; 1", "J Foo (Lond)", "2020-01"),
        ("J. Am. Chem. Soc. 1999 Dec 31", "J. Am. Chem. Soc", "1999-12-31"),
        ("Science 2000. 2021 May; 3", "Science 2000", "2021-05"),
        ("PLoS One. 2013; 8(1):e1", "PLoS One", "2013"),
        ("Zhongguo. 2019 Spring; 1", "Zhongguo", "2019"),
        ("BMJ 2000 Nov 31;2", "BMJ", "2000-11"),
        ("in press", "", ""),
        ("", "", ""),
    ],
)
def test_citations_give_journal_and_date(citation: str, journal: str, published: str):
    assert parse_citation(citation) == (journal, published)


def test_metadata_say_what_filters_ask():
    found = parse_metadata(
        {"version": 2, "citation": "Gut. 2001 Nov 2; 3", "is_manuscript": True, "is_historical_ocr": True}
    )
    assert (found.version, found.journal, found.published) == (2, "Gut", "2001-11-02")
    assert (found.is_manuscript, found.is_historical_ocr, found.is_retracted) == (True, True, False)
    assert (found.license_code, found.title) == (None, "")


def test_names_with_a_question_mark_stay_whole():
    urls = ["s3://b/PMC1.1/who?.jpg?md5=ab", "s3://b/PMC1.1/why?/f#1.jpg", "s3://b/PMC1.1/a%20b.jpg?x=1&md5=cd"]
    assert parse_metadata({"media_urls": urls}).md5 == {"who?.jpg": "ab", "f#1.jpg": "", "a%20b.jpg": "cd"}


def test_links_in_an_article_folder_are_not_followed(tmp_path: Path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    folder = tmp_path / "root" / "PMC1.1"
    folder.mkdir(parents=True)
    (folder / "f1.jpg").symlink_to(secret)
    files = opened(tmp_path / "root", "PMC1.1")
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
    files = opened(tmp_path, "PMC1.1")
    assert set(files.media_names) == {"f1.jpg", "f2.jpg", "f3.jpg"}
    assert (files.xml(), files.media("f1.jpg")) == (b"<article/>", b"good")
    with pytest.raises(ItemRejectedError, match="checksum_mismatch"):
        files.media("f2.jpg")
    with pytest.raises(ItemRejectedError, match="media_missing"):
        files.media("f3.jpg")


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>", b"<Error><Code>SlowDown</Code></Error>"])
def test_an_error_page_that_was_saved_as_xml_is_no_article(tmp_path: Path, page: bytes):
    (tmp_path / "PMC1.1").mkdir()
    (tmp_path / "PMC1.1" / "PMC1.1.xml").write_bytes(page)
    with pytest.raises(ItemRejectedError, match=r"package_unreadable: .* a page in the place of the file"):
        opened(tmp_path, "PMC1.1").xml()


def test_a_folder_that_lacks_a_listed_article_is_told_from_one_without_metadata(tmp_path: Path):
    config = PmcConfig(root=str(tmp_path))
    ref = ArticleRef(number=1, version=1, path="PMC1.1", layout="bucket")
    with pytest.raises(ItemRejectedError, match="package_unreadable"):
        open_article(ref, open_archive(config), config)
    (tmp_path / "PMC1.1").mkdir()
    assert open_article(ref, open_archive(config), config).metadata is None
    listed = replace(ref, etag=md5_hex(b"{}"))
    with pytest.raises(ItemRejectedError, match=r"article_changed: PMC1\.1 is listed, and its metadata are missing"):
        open_article(listed, open_archive(config), config)
    (tmp_path / "PMC1.1" / "PMC1.1.json").write_bytes(b"{}")
    assert open_article(listed, open_archive(config), config).metadata is not None
