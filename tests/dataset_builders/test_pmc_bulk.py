"""Legacy bulk tars into the bucket's layout: all of it or a reason, again after a kill, newer tars over older ones."""

from __future__ import annotations

import gzip
import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from clipmed.errors import ConfigError, DataError
from dataset_builders.__main__ import main
from dataset_builders.pmc.bulk import unpack
from dataset_builders.pmc.config import ParseLimits
from dataset_builders.pmc.snapshot import take_snapshot


def bulk(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
        if link:
            header = tarfile.TarInfo(link)
            header.type, header.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(header)
    return path


def test_articles_come_out_in_the_buckets_layout_and_every_member_is_accounted_for(tmp_path: Path):
    tar = bulk(
        tmp_path / "oa_comm_xml.PMC000xxxxxx.baseline.2024-12-18.tar.gz",
        {
            "PMC000xxxxxx/PMC176545.xml": b"<article/>",
            "Journal/PMC2.nxml": b"<article>2</article>",
            "PMC000xxxxxx/readme.txt": b"x",
            "../../PMC3.xml": b"hostile",
            "PMC000xxxxxx/PMC4.xml": b"x" * 2_000_000,
        },
        link="PMC000xxxxxx/PMC5.xml",
    )
    counts = unpack([tar], tmp_path / "mirror", ParseLimits(max_xml_mb=1))
    assert counts == {"articles": 2, "file_too_large": 1, "members": 6, "not_an_article": 1, "path_unsafe": 2}
    assert (tmp_path / "mirror" / "PMC176545.1" / "PMC176545.1.xml").read_bytes() == b"<article/>"
    assert (tmp_path / "mirror" / "PMC2.1" / "PMC2.1.xml").read_bytes() == b"<article>2</article>"
    assert not (tmp_path / "PMC3.xml").exists()
    receipt = json.loads((tmp_path / "mirror" / ".unpacked" / f"{tar.name}.json").read_text())
    assert {row["member"]: row["reason"] for row in receipt["left_out"]}["../../PMC3.xml"] == "path_unsafe"
    assert [row["path"] for row in take_snapshot(str(tmp_path / "mirror"), "auto").table.to_pylist()] == [
        b"PMC2.1",
        b"PMC176545.1",
    ]


def test_later_tars_stand_for_earlier_ones_and_finished_ones_are_not_read_again(tmp_path: Path):
    old = bulk(tmp_path / "oa.2024-12-18.tar.gz", {"PMC1.xml": b"old", "PMC2.xml": b"two"})
    new = bulk(tmp_path / "oa.2025-01-10.tar.gz", {"PMC1.xml": b"new"})
    out = tmp_path / "mirror"
    assert unpack([new, old], out) == {"articles": 3, "members": 3}
    assert (out / "PMC1.1" / "PMC1.1.xml").read_bytes() == b"new"
    (out / "PMC1.1" / "PMC1.1.xml").write_bytes(b"untouched")
    assert unpack([old, new], out) == {"articles": 3, "members": 3}
    assert (out / "PMC1.1" / "PMC1.1.xml").read_bytes() == b"untouched"
    (out / ".unpacked" / f"{old.name}.json").unlink()  # as if killed before the first was done
    unpack([old, new], out)
    assert (out / "PMC1.1" / "PMC1.1.xml").read_bytes() == b"new"


def test_damaged_tars_are_errors_and_leave_no_receipt(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    whole = bulk(tmp_path / "whole.tar.gz", {f"PMC{n}.xml": bytes([n]) * 9000 for n in range(1, 99)})
    short = tmp_path / "short.tar.gz"
    short.write_bytes(whole.read_bytes()[:900])
    with pytest.raises(DataError, match="cannot be read to its end"):
        unpack([short], tmp_path / "mirror")
    assert not (tmp_path / "mirror" / ".unpacked").exists()
    with pytest.raises(ConfigError, match="no such tar"):
        unpack([tmp_path / "absent.tar.gz"], tmp_path / "mirror")
    assert main(["pmc", "unpack", str(whole), "--out", str(tmp_path / "mirror")]) == 0
    assert "98" in capsys.readouterr().out


def test_the_date_in_a_tars_name_says_which_is_newer(tmp_path: Path):
    for name, text in (
        ("oa_comm_xml.incr.2025-06-26.tar.gz", b"newest"),
        ("oa_noncomm_xml.PMC000xxxxxx.baseline.2024-12-18.tar.gz", b"older"),
        ("zz_comm_use.A-B.xml.tar.gz", b"oldest"),
    ):
        bulk(tmp_path / name, {"PMC1.xml": text})
    unpack(list(tmp_path.glob("*.tar.gz")), tmp_path / "mirror")
    assert (tmp_path / "mirror" / "PMC1.1" / "PMC1.1.xml").read_bytes() == b"newest"


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path):
    whole = bulk(tmp_path / "whole.tar.gz", {f"PMC{n}.xml": b"<article/>" for n in range(1, 9)})
    data = bytearray(gzip.decompress(whole.read_bytes()))
    data[4 * 1024] ^= 0xFF  # in the fifth member's header
    whole.write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(DataError, match="header is damaged"):
        unpack([whole], tmp_path / "mirror")


def test_bombs_are_refused(tmp_path: Path):
    tar = bulk(tmp_path / "bomb.tar.gz", {"PMC1.xml": bytes(40_000_000)})
    with pytest.raises(DataError, match="bytes unpack to more than"):
        unpack([tar], tmp_path / "mirror")


def test_a_killed_run_goes_on_to_the_same_files(tmp_path: Path):
    old = bulk(tmp_path / "oa.2024-12-18.tar.gz", {f"PMC{n}.xml": b"old %d" % n for n in range(1, 3001)})
    new = bulk(tmp_path / "oa.2025-01-10.tar.gz", {f"PMC{n}.xml": b"new %d" % n for n in range(2000, 4001)})
    counts = unpack([old, new], tmp_path / "whole")
    out = tmp_path / "killed"
    words = [sys.executable, "-m", "dataset_builders", "pmc", "unpack", str(old), str(new), "--out", str(out)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (out / "PMC300.1").exists():
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert unpack([old, new], out) == counts == {"articles": 5001, "members": 5001}
    assert contents(out) == contents(tmp_path / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
