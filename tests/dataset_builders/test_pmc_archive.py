"""Archives on a server that fails: the right bytes or a coded reason, nothing asked for in vain, mirrors that hold."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipmed.errors import ClipmedError, DataError, ItemRejectedError
from clipmed.rejects import RejectReason
from dataset_builders.pmc.archive import Archive, FolderArchive, MirrorArchive, RateLimit, open_archive
from dataset_builders.pmc.config import NetworkConfig, PmcConfig
from dataset_builders.pmc.metadata import md5_hex
from dataset_builders.pmc.sources import ArticleRef, open_article
from shards.objects import Fault, ObjectClient, ObjectError, Patience
from tests.dataset_builders.bucket_articles import FIRST_NUMBER, INVENTORY, ArticleVersion, Bucket
from tests.dataset_builders.bucket_server import BucketServer, bucket_server
from tests.shards.servers import s3_server

REPOSITORY = Path(__file__).resolve().parents[2]
NETWORK = NetworkConfig(requests_per_s=20_000, max_backoff_s=0.02, timeout_s=5)
NUM_ARTICLES = 100
SOUND = ArticleVersion(20)
XML = f"{SOUND.name}/{SOUND.name}.xml"
FIGURE = f"{SOUND.name}/fig1.jpg"
METADATA = SOUND.metadata_keys[0]
FAULTS = {
    XML: ["500", "503", "cut", "hang_up", "wrong", "html"],
    FIGURE: ["html", "wrong", "slow"],
    METADATA: ["wrong", "html", "cut"],
}


@pytest.fixture(scope="module")
def running() -> Iterator[BucketServer]:
    with bucket_server(NUM_ARTICLES, faults=FAULTS) as server:  # type: ignore[arg-type]
        yield server


@pytest.fixture
def server(running: BucketServer, monkeypatch: pytest.MonkeyPatch) -> BucketServer:
    running.reset()
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running


def config_of(root: str | Path, **settings: object) -> PmcConfig:
    return PmcConfig(root=str(root), **({"network": NETWORK} | settings))  # type: ignore[arg-type]


def ref_of(version: ArticleVersion, etag: str | None = None) -> ArticleRef:
    number = FIRST_NUMBER + version.index
    etag = version.listed_etag() if etag is None else etag
    return ArticleRef(number=number, version=version.version, path=version.name, layout="bucket", etag=etag)


def planted(defect: str) -> ArticleVersion:
    return next(version for version in Bucket(NUM_ARTICLES).versions() if version.defect == defect)


def reason_of(archive: Archive, key: str, limit_mb: float = 1.0, md5: str = "") -> RejectReason:
    with pytest.raises(ItemRejectedError) as caught:
        archive.read(key, limit_mb=limit_mb, md5=md5)
    return caught.value.reason


def stored(version: ArticleVersion, key: str) -> bytes:
    data = version.file(key)
    assert data is not None
    return data


# Reading from a server


@pytest.mark.parametrize("address", ["url", "s3_url"])
def test_faults_pass_and_the_bytes_are_right(server: BucketServer, address: str) -> None:
    archive = open_archive(config_of(getattr(server, address)))
    for key in (XML, FIGURE):
        data = stored(SOUND, key)
        assert archive.read(key, limit_mb=1, md5=md5_hex(data)) == data
        assert server.given()[key] == 1
    assert (server.asked()[XML], server.asked()[FIGURE]) == (7, 3)  # the third answer for the figure is slow, and right


def test_an_error_page_is_not_taken_where_no_checksum_is_known(server: BucketServer) -> None:
    archive = open_archive(config_of(server.url))
    data = archive.read(FIGURE, limit_mb=1)
    assert server.asked()[FIGURE] == 2
    assert data[1:] == stored(SOUND, FIGURE)[1:]  # the second answer is wrong, and nothing could tell
    assert json.loads(archive.read(METADATA, limit_mb=1))["pmcid"] == SOUND.name.partition(".")[0]


@pytest.mark.parametrize(
    ("defect", "role", "reason"),
    [
        ("media_wrong_bytes", "media", RejectReason.CHECKSUM_MISMATCH),
        ("media_unreachable", "media", RejectReason.SOURCE_UNREACHABLE),
        ("media_absent", "media", RejectReason.MEDIA_MISSING),
        ("xml_page", "xml", RejectReason.CHECKSUM_MISMATCH),
        ("metadata_page", "json", RejectReason.CHECKSUM_MISMATCH),
    ],
)
def test_what_cannot_be_had_has_its_reason(server: BucketServer, defect: str, role: str, reason: RejectReason) -> None:
    version = planted(defect)
    key = version.keys_of(role)[0]
    archive = open_archive(config_of(server.url, network=NetworkConfig(retries=2, max_backoff_s=0.01)))
    md5 = md5_hex(version.file(key) or b"") if role != "json" else ""
    assert reason_of(archive, key, md5=md5) is reason
    assert server.asked()[key] == (1 if reason is RejectReason.MEDIA_MISSING else 3)


def test_a_server_that_keeps_other_bytes_is_asked_once_more(server: BucketServer) -> None:
    version = planted("metadata_changed")
    archive = open_archive(config_of(server.url))
    assert reason_of(archive, version.metadata_keys[0], md5=version.listed_etag()) is RejectReason.CHECKSUM_MISMATCH
    assert server.asked()[version.metadata_keys[0]] == 2


def test_the_etag_of_an_upload_in_parts_is_not_a_checksum(server: BucketServer) -> None:
    key = ArticleVersion(21).metadata_keys[0]
    etag = "0123456789abcdef0123456789abcdef-2"
    assert json.loads(open_archive(config_of(server.url)).read(key, limit_mb=1, md5=etag))["version"] == 1


def test_large_files_and_keys_that_lead_elsewhere_are_refused(server: BucketServer) -> None:
    archive = open_archive(config_of(server.url))
    key = f"{ArticleVersion(21).name}/fig1.jpg"
    assert reason_of(archive, key, limit_mb=0.0001) is RejectReason.FILE_TOO_LARGE
    before = server.asked()
    for key in ("../secret", "/etc/passwd", "PMC1.1/../../x", "PMC1.1//x", "", ".", "a\\..\\b", "a\0b", "PMC1.1/./x"):
        assert reason_of(archive, key) is RejectReason.PATH_UNSAFE, key
    assert server.asked() == before


def test_details_are_the_same_each_time(server: BucketServer) -> None:
    key = planted("media_unreachable").keys_of("media")[0]
    details = set()
    for address in (server.url, server.s3_url):
        for _ in range(2):
            with pytest.raises(ItemRejectedError) as caught:
                open_archive(config_of(address)).read(key, limit_mb=1)
            details.add(caught.value.detail.partition(": ")[0])
            assert "127.0.0.1" not in caught.value.detail
            assert "ms" not in caught.value.detail.split()
    assert details == {key}


def test_a_server_that_says_nothing_or_is_not_there_is_unreachable() -> None:
    network = NetworkConfig(retries=1, max_backoff_s=0.01, timeout_s=0.2)
    with bucket_server(21, lasting={XML: "silent"}) as server:
        archive = open_archive(config_of(server.url, network=network))
        assert reason_of(archive, XML) is RejectReason.SOURCE_UNREACHABLE
        assert server.asked()[XML] == 2
    assert reason_of(archive, XML) is RejectReason.SOURCE_UNREACHABLE


def test_requests_at_once_are_bounded() -> None:
    keys = [ArticleVersion(index).metadata_keys[0] for index in range(40, 60)]
    with bucket_server(60, lasting=dict.fromkeys(keys, "slow")) as server, ThreadPoolExecutor(20) as threads:
        archive = open_archive(config_of(server.url, network=NetworkConfig(concurrency=4, requests_per_s=1e4)))
        found = list(threads.map(lambda key: archive.read(key, limit_mb=1), keys))
        assert 1 < server.peak() <= 4
    assert [json.loads(data)["version"] for data in found] == [1] * len(keys)


def test_the_rate_is_bounded_in_the_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", sleep)
    rate = RateLimit(10, burst=5)
    for _ in range(100):
        rate.wait()
    assert clock[0] - 100 == pytest.approx((100 - 5) / 10)
    clock[0] += 60  # what was not used in a pause is not owed
    for _ in range(100):
        rate.wait()
    assert clock[0] - 160 == pytest.approx(2 * (100 - 5) / 10)


@pytest.mark.parametrize("root", ["ftp://host/pmc", "s3://key:word@bucket", "https://host/pmc?signature=word"])
def test_addresses_of_other_kinds_and_with_secrets_are_refused(root: str) -> None:
    with pytest.raises(DataError, match=r"unknown kind of address|give credentials in the environment") as caught:
        open_archive(config_of(root))
    assert "word" not in str(caught.value).replace("password", "")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClipmedError, match=r"no such folder: .*absent; give a folder of PMC<id>"):
        open_archive(config_of(tmp_path / "absent"))


def test_a_folder_has_an_address_too(tmp_path: Path) -> None:
    folder = tmp_path / "with space" / "metadata"
    folder.mkdir(parents=True)
    (folder / "x.json").write_bytes(b"{}")
    archive = open_archive(config_of((tmp_path / "with space").as_uri()))
    assert archive.read("metadata/x.json", limit_mb=1) == b"{}"


@pytest.mark.parametrize("data", [b"<html><body>404", b"\n<!DOCTYPE HTML>", b"<?xml version='1.0'?>\n<Error><Code>"])
def test_a_folder_gives_no_error_pages(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f1.jpg").write_bytes(data)
    archive = FolderArchive(tmp_path)
    assert reason_of(archive, "f1.jpg") is RejectReason.CHECKSUM_MISMATCH
    assert archive.read("f1.jpg", limit_mb=1, md5=md5_hex(data)) == data


# Objects: lists, and real S3


def test_lists_go_on_behind_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {"?list metadata/": ["500", "", "cut", "hang_up"], "?list ": ["503", "cut"]}
    with bucket_server(1500, faults=faults) as server:  # type: ignore[arg-type]
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        client = ObjectClient(server.s3_url, Patience(retries=4, last_pause_s=0.01), public=True)
        found = [listed.name for listed in client.list_objects("metadata/")]
        assert found == Bucket(1500).list_keys("metadata/")
        assert client.list_folders()[-2:] == ["inventory-reports", "metadata"]
        assert client.list_folders(INVENTORY) == ["2026-09-13T01-00Z", "2026-09-14T01-00Z", "data", "hive"]
        with pytest.raises(ObjectError) as caught:
            list(ObjectClient(server.url, Patience(retries=1)).list_objects())
        assert caught.value.fault is Fault.REFUSED


def test_a_mirror_on_s3_is_read_as_the_bucket_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    with s3_server(tmp_path) as url:
        for name, value in {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "key",
                            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="mine")
        for key in SOUND.objects():
            client.put_object(Bucket="mine", Key=f"pmc/{key}", Body=stored(SOUND, key))
        config = config_of("s3://mine/pmc")
        article = open_article(ref_of(SOUND), open_archive(config), config)
        assert article.xml() == stored(SOUND, XML)
        assert article.media("fig1.jpg") == stored(SOUND, FIGURE)
        listed = {found.name: found for found in ObjectClient("s3://mine/pmc").list_objects("metadata")}
        assert listed[METADATA].etag == SOUND.listed_etag()
        assert listed[METADATA].size == len(stored(SOUND, METADATA))
        assert reason_of(open_archive(config), "metadata/PMC1.1.json") is RejectReason.MEDIA_MISSING


# Articles on a server


def test_an_article_takes_one_request_a_file_and_no_more(server: BucketServer) -> None:
    version = planted("unused_media")
    config = config_of(server.url)
    article = open_article(ref_of(version), open_archive(config), config)
    assert {*version.media_names(), "supplement.pdf"} <= set(article.media_names)
    assert article.metadata is not None
    assert (article.metadata.version, article.metadata.journal) == (1, "J Synth Med")
    assert article.metadata.published == f"{2000 + version.index % 26}-11-02"
    assert article.xml() == stored(version, f"{version.name}/{version.name}.xml")
    for name in version.media_names():
        assert article.media(name) == stored(version, f"{version.name}/{name}")
    assert set(server.asked().values()) == {1}
    assert len(server.asked()) == 2 + version.num_figures


@pytest.mark.parametrize(
    ("defect", "reason"),
    [
        ("metadata_changed", RejectReason.ARTICLE_CHANGED),
        ("metadata_absent", RejectReason.ARTICLE_CHANGED),
        ("metadata_page", RejectReason.PACKAGE_UNREADABLE),
    ],
)
@pytest.mark.parametrize("etag", [None, ""])
def test_metadata_that_are_not_as_listed_reject_the_article(
    server: BucketServer, defect: str, reason: RejectReason, etag: str | None
) -> None:
    version = planted(defect)
    config = config_of(server.url, network=NetworkConfig(retries=2, max_backoff_s=0.01))
    archive = open_archive(config)
    if defect == "metadata_changed" and etag == "":
        assert open_article(ref_of(version, etag), archive, config).metadata is not None  # nothing to compare with
        return
    with pytest.raises(ItemRejectedError) as caught:
        open_article(ref_of(version, etag), archive, config)
    assert caught.value.reason is reason


def test_changed_metadata_may_be_taken(server: BucketServer) -> None:
    version = planted("metadata_changed")
    config = config_of(server.url, on_change="take")
    article = open_article(ref_of(version), open_archive(config), config)
    assert article.xml() == stored(version, f"{version.name}/{version.name}.xml")


@pytest.mark.parametrize(
    ("defect", "reason"),
    [("xml_page", RejectReason.CHECKSUM_MISMATCH), ("xml_absent", RejectReason.PACKAGE_UNREADABLE)],
)
def test_xml_that_cannot_be_had_rejects_the_article(server: BucketServer, defect: str, reason: RejectReason) -> None:
    version = planted(defect)
    config = config_of(server.url, network=NetworkConfig(retries=1, max_backoff_s=0.01))
    with pytest.raises(ItemRejectedError) as caught:
        open_article(ref_of(version), open_archive(config), config).xml()
    assert caught.value.reason is reason


def test_references_travel_to_other_processes() -> None:
    refs = [ref_of(ArticleVersion(3, 1)), ref_of(ArticleVersion(3, 2)), ref_of(ArticleVersion(2, 1))]
    assert pickle.loads(pickle.dumps(refs)) == refs
    assert [(ref.pmcid[-1], ref.version) for ref in sorted(refs)] == [("2", 1), ("3", 2), ("3", 1)]


# The mirror


def read_whole(config: PmcConfig, version: ArticleVersion) -> list[bytes]:
    article = open_article(ref_of(version), open_archive(config), config)
    return [article.xml(), *(article.media(name) for name in version.media_names())]


def test_the_mirror_is_asked_first_and_is_a_root_itself(server: BucketServer, tmp_path: Path) -> None:
    config = config_of(server.url, mirror=tmp_path / "mirror")
    first = read_whole(config, SOUND)
    before = server.asked()
    assert read_whole(config, SOUND) == first
    assert server.asked() == before
    assert read_whole(config_of(tmp_path / "mirror"), SOUND) == first


def test_damaged_and_stale_copies_are_fetched_again(server: BucketServer, tmp_path: Path) -> None:
    version = ArticleVersion(22)
    config = config_of(server.url, mirror=tmp_path)
    first = read_whole(config, version)
    (tmp_path / version.name / "fig1.jpg").write_bytes(b"damaged")
    stale = tmp_path / version.metadata_keys[0]
    stale.write_bytes(stale.read_bytes() + b"\n")
    server.reset()
    assert read_whole(config, version) == first
    assert set(server.asked()) == {f"{version.name}/fig1.jpg", version.metadata_keys[0]}
    assert stale.read_bytes() == stored(version, version.metadata_keys[0])


def test_what_has_no_checksum_is_fetched_each_time(server: BucketServer, tmp_path: Path) -> None:
    archive = open_archive(config_of(server.url, mirror=tmp_path))
    key = ArticleVersion(23).metadata_keys[0]
    for number in range(1, 3):
        archive.read(key, limit_mb=1)
        assert server.asked()[key] == number


def test_links_in_a_mirror_are_neither_read_nor_written_through(server: BucketServer, tmp_path: Path) -> None:
    version, mirror, outside = ArticleVersion(22), tmp_path / "mirror", tmp_path / "outside"
    for folder in (mirror, outside):
        folder.mkdir()
    (mirror / version.name).symlink_to(outside)
    archive = open_archive(config_of(server.url, mirror=mirror))
    assert isinstance(archive, MirrorArchive)
    key = f"{version.name}/fig1.jpg"
    for md5 in ("", md5_hex(stored(version, key))):
        assert reason_of(archive, key, md5=md5) is RejectReason.PATH_UNSAFE
    assert not list(outside.iterdir())


FILL = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from dataset_builders.pmc.archive import open_archive
from dataset_builders.pmc.config import NetworkConfig, PmcConfig
from dataset_builders.pmc.metadata import md5_hex
from tests.dataset_builders.bucket_articles import ArticleVersion
network = NetworkConfig(requests_per_s=20_000)
config = PmcConfig(root=sys.argv[1], mirror=Path(sys.argv[2]), network=network)
archive = open_archive(config)
versions = [ArticleVersion(index) for index in range(20, 100)]
stated = {key: md5_hex(version.file(key)) for version in versions for key in version.objects()}
with ThreadPoolExecutor(8) as threads:
    list(threads.map(lambda key: archive.read(key, limit_mb=1, md5=stated[key]), stated))
"""


def start_filling(server: BucketServer, mirror: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", FILL, server.url, str(mirror)], cwd=REPOSITORY)


def mirrored(mirror: Path) -> dict[str, bytes]:
    files = (path for path in mirror.rglob("*") if path.is_file() and path.parent.name != ".partial")
    return {path.relative_to(mirror).as_posix(): path.read_bytes() for path in files}


def test_killed_and_rival_writers_leave_only_whole_files(server: BucketServer, tmp_path: Path) -> None:
    whole = {key: stored(version, key) for index in range(20, 100)
             for version in [ArticleVersion(index)] for key in version.objects()}  # fmt: skip
    killed = start_filling(server, tmp_path)
    while len(list(tmp_path.rglob("*.jpg"))) < 20:
        assert killed.poll() is None
        time.sleep(0.001)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    left = mirrored(tmp_path)
    assert len(left) < len(whole)
    assert left.items() <= whole.items()
    rivals = [start_filling(server, tmp_path) for _ in range(2)]
    assert [rival.wait(60) for rival in rivals] == [0, 0]
    assert mirrored(tmp_path) == whole
