"""From an archive to a spool: samples, rejects, and the same bytes whatever happens on the way."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipmed.configuration import from_dict, load_yaml, save_yaml
from clipmed.errors import ConfigError, DataError
from clipmed.jobs import JobsConfig
from clipmed.records import sample_key
from dataset_builders.pmc import PmcConfig, build_pmc
from dataset_builders.pmc.config import MentionConfig, SelectionConfig
from dataset_builders.pmc.metadata import md5_hex
from shards.spool import read_spool, unit_path

INLINE = JobsConfig(executor="inline")
REPOSITORY = Path(__file__).resolve().parents[2]
CC_BY = '<license xlink:href="http://creativecommons.org/licenses/by/4.0/"/>'
CC_BY_NC = '<license xlink:href="http://creativecommons.org/licenses/by-nc/4.0/"/>'


def jpeg(seed: int, side: int = 48) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def figure(
    name: str, caption: str | None = "Axial CT of a lung, (A) before and (B) after.", graphic: bool = True
) -> str:
    text = f"<caption><p>{caption}</p></caption>" if caption is not None else ""
    image = f'<graphic xlink:href="{name}"/>' if graphic else ""
    return f'<fig id="{name}"><label>Figure 1</label>{text}{image}</fig>'


def xml(number: int, body: str, license_xml: str = CC_BY) -> bytes:
    ids = f'<article-id pub-id-type="pmcid">PMC{number}</article-id>'
    ids += f'<article-id pub-id-type="doi">10.1/{number}</article-id>'
    meta = f"<article-meta>{ids}<permissions>{license_xml}</permissions></article-meta>"
    head = '<article xmlns:xlink="http://www.w3.org/1999/xlink">'
    return f"{head}<front>{meta}</front><body>{body}</body></article>".encode()


def put(root: Path, number: int, article: bytes, media: dict[str, bytes], version: int = 1, **metadata: object) -> None:
    """Write an article in the bucket's layout."""
    name = f"PMC{number}.{version}"
    (root / name).mkdir(parents=True)
    (root / "metadata").mkdir(exist_ok=True)
    (root / name / f"{name}.xml").write_bytes(article)
    for file_name, data in media.items():
        (root / name / file_name).write_bytes(data)
    urls = [f"s3://pmc-oa-opendata/{name}/{file_name}?md5={md5_hex(data)}" for file_name, data in media.items()]
    plain = {"pmcid": f"PMC{number}", "license_code": "CC BY", "is_retracted": False, "media_urls": urls, **metadata}
    (root / "metadata" / f"{name}.json").write_text(json.dumps(plain))


def pack(root: Path, number: int, article: bytes | None, media: dict[str, bytes], member: str = "") -> None:
    """Write an article as a legacy package."""
    members = {f"PMC{number}/{name}": data for name, data in media.items()}
    if article is not None:
        members[f"PMC{number}/article.nxml"] = article
    if member:
        members[member] = b"hostile"
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / f"PMC{number}.tar.gz", "w:gz") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))


def build(root: Path, out: Path, jobs: JobsConfig = INLINE, **settings: object) -> dict[str, object]:
    return build_pmc(PmcConfig(root=str(root), **{"num_units": 3, **settings}), out, jobs)  # type: ignore[arg-type]


def rows(out: Path, table: str) -> list[dict[str, object]]:
    units = range(read_spool(out).num_units)
    return [row for unit in units for row in pq.read_table(unit_path(out, unit) / f"{table}.parquet").to_pylist()]


def rejects(out: Path) -> dict[str, str]:
    return {str(row["item"]): str(row["reason"]) for row in rows(out, "rejects")}


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_figure_becomes_a_sample_with_everything_known_of_it(tmp_path: Path):
    mention = '<p id="par1">As <xref ref-type="fig" rid="F1">Fig. 1B</xref> shows, the lesion is gone.</p>'
    image = jpeg(1)
    put(tmp_path / "in", 7, xml(7, mention + figure("F1")), {"F1.jpg": image, "F1.gif": b"thumb"}, version=2, pmid=99)
    counts = build(tmp_path / "in", tmp_path / "out")
    assert (counts["seen"], counts["samples"], counts["rejects"]) == (1, 1, 0)
    (row,) = rows(tmp_path / "out", "samples")
    assert row["key"] == sample_key("pmc", "PMC7/F1/F1")
    assert [(caption["origin"], caption["text"]) for caption in row["captions"]] == [
        ("figure", "Axial CT of a lung, (A) before and (B) after."),
        ("mention", "As Fig. 1B shows, the lesion is gone."),
    ]
    assert (row["modality"], row["group"], row["license"], row["labels"], row["split"]) == (
        "ct", "PMC7", "CC-BY-4.0", [], None,
    )  # fmt: skip
    assert (row["width"], row["height"]) == (48, 48)
    provenance = json.loads(row["provenance"])
    expected = {
        "pmcid": "PMC7", "version": 2, "doi": "10.1/7", "pmid": "99", "figure_id": "F1", "label": "Figure 1",
        "position": 0, "href": "F1", "media": "F1.jpg", "media_md5": md5_hex(image),
        "media_sha256": hashlib.sha256(image).hexdigest(),
        "panels": ["A", "B"], "license_code": "CC BY",
        "license_jats": "CC-BY-4.0", "recovered": False, "mentions": [{"paragraph": "par1", "panels": ["B"]}],
    }  # fmt: skip
    assert {key: provenance[key] for key in expected} == expected
    member = sample_key("pmc", "PMC7/F1/F1") + ".jpg"
    stored = {}
    for unit in range(3):
        with tarfile.open(unit_path(tmp_path / "out", unit) / "samples.tar") as tar:
            stored.update({name: tar.extractfile(name).read() for name in tar.getnames()})
    assert stored[member] == image


def test_a_package_states_no_checksums(tmp_path: Path):
    image = jpeg(1)
    pack(tmp_path / "in", 7, xml(7, figure("F1")), {"F1.jpg": image})
    build(tmp_path / "in", tmp_path / "out")
    (row,) = rows(tmp_path / "out", "samples")
    provenance = json.loads(row["provenance"])
    assert (provenance["media_md5"], provenance["media_sha256"]) == (None, hashlib.sha256(image).hexdigest())


@pytest.mark.parametrize(
    ("code", "statement", "license_id", "group"),
    [
        ("CC BY", CC_BY, "CC-BY-4.0", "commercial"),
        ("CC BY-NC", CC_BY, "CC-BY-NC-4.0", "noncommercial"),
        ("CC BY", CC_BY_NC, "CC-BY-NC-4.0", "noncommercial"),
        (None, CC_BY, "CC-BY-4.0", "commercial"),
        ("CC0", "", "CC0-1.0", "commercial"),
        ("TDM", CC_BY, "LicenseRef-TDM", "other"),
        ("NO-CC CODE", CC_BY, "LicenseRef-unknown", "other"),
        (None, "", "LicenseRef-unknown", "other"),
    ],
)
def test_licence_of_metadata_and_article_together(
    tmp_path: Path, code: str | None, statement: str, license_id: str, group: str
):
    put(tmp_path / "in", 7, xml(7, figure("F1"), statement), {"F1.jpg": jpeg(1)}, license_code=code)
    every_group = SelectionConfig(license_groups=("commercial", "noncommercial", "other"))
    build(tmp_path / "in", tmp_path / "out", num_units=1, select=every_group)
    (row,) = rows(tmp_path / "out", "samples")
    assert (row["license"], row["license_group"]) == (license_id, group)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Articles in both layouts, with every fault an archive may have."""
    root = tmp_path / "archive"
    put(root, 1, xml(1, figure("ok")), {"ok.jpg": jpeg(1)})
    put(root, 2, xml(2, figure("corrupt") + figure("good")), {"corrupt.jpg": jpeg(2)[:600], "good.jpg": jpeg(3)})
    put(root, 3, b"<article><body><fig id='a'></body></article>", {})
    put(root, 4, xml(4, figure("absent")), {})
    put(root, 5, xml(5, figure("changed")), {"changed.jpg": jpeg(4)})
    (root / "PMC5.1" / "changed.jpg").write_bytes(jpeg(5))
    put(root, 6, b'<!DOCTYPE a [<!ENTITY a "b"><!ENTITY c "&a;&a;">]><a>&c;</a>', {})
    put(root, 7, b"<article>" + b"<sec>" * 5000 + b"</sec>" * 5000 + b"</article>", {})
    put(root, 8, xml(8, figure("old")), {"old.jpg": jpeg(6)}, version=1)
    put(root, 8, xml(8, figure("new")), {"new.jpg": jpeg(7)}, version=2)
    put(root, 9, xml(9, figure("gone")), {"gone.jpg": jpeg(8)}, is_retracted=True)
    put(root, 10, xml(10, "<p>No figure.</p>"), {})
    put(root, 11, xml(11, figure("short", "ab") + figure("none", None) + figure("empty", graphic=False)), {})
    put(root, 12, xml(12, figure("twice") + figure("twice")), {"twice.jpg": jpeg(9)})
    put(root, 13, xml(13, figure("blank")), {"blank.jpg": b""})
    (root / "metadata" / "PMC13.1.json").write_text("<html>error</html>")
    put(root, 14, xml(14, figure("zero")), {"zero.jpg": b""})
    pack(root / "packages", 20, xml(20, figure("F1")), {"F1.jpg": jpeg(10), "F1.gif": b"x"}, member="../../evil.jpg")
    pack(root / "packages", 21, None, {"F1.jpg": jpeg(11)})
    pack(root / "packages", 1, xml(1, figure("ok")), {"ok.jpg": jpeg(1)})
    (root / "packages" / "PMC22.tar.gz").write_bytes(b"<html>404</html>")
    return root


def test_every_fault_has_its_reject_row_and_the_counts_add_up(archive: Path, tmp_path: Path):
    counts = build(archive, tmp_path / "out")
    assert rejects(tmp_path / "out") == {
        "packages/PMC1.tar.gz": "superseded_version",
        "PMC2/corrupt/corrupt": "image_corrupt",
        "PMC3.1": "article_malformed",
        "PMC4/absent/absent": "media_missing",
        "PMC5/changed/changed": "checksum_mismatch",
        "PMC6.1": "article_unsafe",
        "PMC7.1": "article_unsafe",
        "PMC8.1": "superseded_version",
        "PMC9.1": "article_retracted",
        "PMC10.1": "article_without_figures",
        "PMC11/short/short": "caption_too_short",
        "PMC11/none/none": "caption_missing",
        "PMC11/empty": "figure_without_graphic",
        "PMC12/twice/twice": "duplicate_exact",
        "PMC13.1": "package_unreadable",
        "PMC14/zero/zero": "image_empty",
        "packages/PMC20.tar.gz:../../evil.jpg": "path_unsafe",
        "packages/PMC21.tar.gz": "package_unreadable",
        "packages/PMC22.tar.gz": "package_unreadable",
    }
    samples = rows(tmp_path / "out", "samples")
    assert sorted(json.loads(row["provenance"])["figure_id"] for row in samples) == ["F1", "good", "new", "ok", "twice"]
    assert (counts["samples"], counts["rejects"], counts["seen"]) == (5, 19, 24)
    assert counts["counters"]["articles"] == 19
    assert counts["rejects_by_reason"]["package_unreadable"] == 3
    assert not (tmp_path / "evil.jpg").exists()


def test_names_that_are_not_text_do_not_stop_the_build(tmp_path: Path):
    put(tmp_path / "in", 1, xml(1, figure("F1")), {"F1.jpg": jpeg(1)}, title="half \ud800", pmid="\udfff")
    pack(tmp_path / "in", 2, xml(2, figure("F1")), {"F1.jpg": jpeg(2)}, member="../\udcff.jpg")
    (tmp_path / "in" / "odd\udcff.tar.gz").write_bytes(b"no package")
    build(tmp_path / "in", tmp_path / "out")
    assert len(rows(tmp_path / "out", "samples")) == 2
    assert rejects(tmp_path / "out") == {
        "PMC2.tar.gz:../?.jpg": "path_unsafe",
        "odd?.tar.gz": "package_unreadable",
    }


def test_config_survives_yaml_and_refuses_what_is_out_of_range(tmp_path: Path):
    config = PmcConfig(root=str(tmp_path), mentions=MentionConfig(max_mentions=1))
    save_yaml(config, tmp_path / "pmc.yaml")
    assert load_yaml(PmcConfig, tmp_path / "pmc.yaml") == config
    for settings in ({"num_units": 0}, {"source": "Big.Name"}, {"layout": "ftp"}, {"parse": {"max_xml_mb": 0}}):
        with pytest.raises(ConfigError, match="allowed"):
            from_dict(PmcConfig, {"root": ".", **settings}, "test")


def test_retracted_articles_are_kept_on_request(archive: Path, tmp_path: Path):
    build(archive, tmp_path / "out", select=SelectionConfig(retracted=True))
    assert "PMC9.1" not in rejects(tmp_path / "out")


def test_samples_of_an_article_share_group_and_unit(tmp_path: Path):
    for number in range(1, 7):
        body = figure("a") + figure("b")
        put(tmp_path / "in", number, xml(number, body), {"a.jpg": jpeg(number), "b.jpg": jpeg(100 + number)})
    build(tmp_path / "in", tmp_path / "out")
    groups = [
        {row["group"] for row in pq.read_table(unit_path(tmp_path / "out", unit) / "samples.parquet").to_pylist()}
        for unit in range(3)
    ]
    assert sum(map(len, groups)) == 6
    assert len(set().union(*groups)) == 6


def test_figure_without_caption_lives_on_its_mentions(tmp_path: Path):
    cited = "".join(
        f'<p>Sentence {n} on <xref ref-type="fig" rid="F1">Fig. 1</xref> of the scan.</p>' for n in range(4)
    )
    put(tmp_path / "in", 1, xml(1, cited + figure("F1", None)), {"F1.jpg": jpeg(1)})
    build(tmp_path / "in", tmp_path / "out", mentions=MentionConfig(max_mentions=3))
    (row,) = rows(tmp_path / "out", "samples")
    assert [caption["origin"] for caption in row["captions"]] == ["mention"] * 3
    build(tmp_path / "in", tmp_path / "none", mentions=MentionConfig(max_mentions=0))
    assert rejects(tmp_path / "none") == {"PMC1/F1/F1": "caption_missing"}


def test_both_layouts_give_the_same_sample(tmp_path: Path):
    article, media = xml(5, figure("F1")), {"F1.jpg": jpeg(1)}
    put(tmp_path / "bucket", 5, article, media)
    pack(tmp_path / "packages", 5, article, media)
    found = []
    for name in ("bucket", "packages"):
        build(tmp_path / name, tmp_path / f"out-{name}", layout=name)
        (row,) = rows(tmp_path / f"out-{name}", "samples")
        del row["provenance"]
        found.append(row)
    assert found[0] == found[1]


def test_bytes_do_not_depend_on_workers_or_on_where_the_archive_lies(archive: Path, tmp_path: Path):
    build(archive, tmp_path / "one")
    build(archive, tmp_path / "two", JobsConfig(executor="processes", workers=2))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    moved = archive.rename(tmp_path / "elsewhere")
    build(moved, tmp_path / "three")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "three")


def test_a_spool_is_not_resumed_with_other_settings_or_files(archive: Path, tmp_path: Path):
    build(archive, tmp_path / "out")
    with pytest.raises(DataError, match="made with other settings"):
        build(archive, tmp_path / "out", min_caption_chars=11)
    put(archive, 77, xml(77, figure("F1")), {"F1.jpg": jpeg(77)})
    with pytest.raises(DataError, match="made with other settings"):
        build(archive, tmp_path / "out")


def test_progress_shows_rates_and_rejects(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    build(archive, tmp_path / "out")
    shown = capsys.readouterr().err
    assert "19/19" in shown
    assert "19 rejects (3 package_unreadable" in shown
    assert "figures/s" in shown


def test_killed_build_resumes_to_the_same_bytes(tmp_path: Path):
    for number in range(1, 81):
        put(tmp_path / "in", number, xml(number, figure("a")), {"a.jpg": jpeg(number, side=256)})
    code = (
        "import sys; from pathlib import Path; from clipmed.jobs import JobsConfig\n"
        "from dataset_builders.pmc import PmcConfig, build_pmc\n"
        "if __name__ == '__main__':\n"
        "    config = PmcConfig(root=sys.argv[1], num_units=40)\n"
        "    build_pmc(config, Path(sys.argv[2]), JobsConfig(executor='inline'))\n"
    )
    out = tmp_path / "killed"
    command = [sys.executable, "-c", code, str(tmp_path / "in"), str(out)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not unit_path(out, 2).is_dir():
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = [unit for unit in range(40) if unit_path(out, unit).is_dir()]
    assert 3 <= len(done) < 40
    counts = build(tmp_path / "in", out, num_units=40)
    build(tmp_path / "in", tmp_path / "whole", num_units=40)
    assert counts["samples"] == 80
    assert files_of(out) == files_of(tmp_path / "whole")
