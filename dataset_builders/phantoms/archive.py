"""The synthetic articles on disk, half of them in each of PubMed Central's layouts.

<folder>/bucket/PMC<id>.<v>/PMC<id>.<v>.xml, .json, .txt and media       as the public bucket lays articles out
<folder>/bucket/metadata/PMC<id>.<v>.json                                the same JSON
<folder>/packages/PMC<id>.tar.gz                                         legacy packages: PMC<id>/*.nxml and media
<folder>/expected.json                                                   what is in there, planted defects included
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from clipmed.files import write_bytes, write_json
from dataset_builders.phantoms import sentences
from dataset_builders.phantoms.articles import Article, Defect, jats, make_article
from dataset_builders.phantoms.config import PhantomConfig
from shards.spool import add_member

BUCKET = "s3://pmc-oa-opendata"
# Articles of each layout that carry a defect, by their position in the layout.
BUCKET_DEFECTS = {
    1: Defect.RETRACTED,
    3: Defect.OLD_VERSION,
    4: Defect.MISSING_MEDIA,
    5: Defect.DUPLICATE_IMAGE,
    6: Defect.TEXT_MINING_ONLY,
    7: Defect.MALFORMED,
}
PACKAGE_DEFECTS = {1: Defect.NO_FIGURES, 2: Defect.CORRUPT_IMAGE, 5: Defect.DUPLICATE_IMAGE}


def write_archive(folder: Path, config: PhantomConfig) -> int:
    """Write both layouts and `expected.json`; return the number of articles."""
    half = config.articles // 2
    in_bucket = [make_article(config, index, BUCKET_DEFECTS.get(index, Defect.NONE)) for index in range(half)]
    packaged = [
        make_article(config, index, PACKAGE_DEFECTS.get(index - half, Defect.NONE))
        for index in range(half, config.articles)
    ]
    for article in in_bucket:
        if article.defect is Defect.OLD_VERSION:
            write_in_bucket(folder / "bucket", replace(article, title=f"{article.title}, first draft"), 1)
        write_in_bucket(folder / "bucket", article, 2 if article.defect is Defect.OLD_VERSION else 1)
    for article in packaged:
        write_package(folder / "packages", article)
    write_json(folder / "expected.json", {"bucket": _expected(in_bucket), "packages": _expected(packaged)})
    return config.articles


def write_in_bucket(bucket: Path, article: Article, version: int) -> None:
    """Write one version of an article as the public bucket has it."""
    name = f"{article.pmcid}.{version}"
    folder = bucket / name
    folder.mkdir(parents=True)
    xml = jats(article, extension=True)
    write_bytes(folder / f"{name}.xml", xml)
    text = f"{article.title}\n\n{sentences.NOTICE}\n".encode()
    write_bytes(folder / f"{name}.txt", text)
    has_media = article.defect is not Defect.TEXT_MINING_ONLY
    media = [figure for figure in article.figures if figure.image and has_media]
    for figure in media:
        write_bytes(folder / figure.file, figure.image)
    urls = [_url(f"{name}/{figure.file}", figure.image) for figure in media]
    metadata = {
        "pmcid": article.pmcid,
        "version": version,
        "pmid": None,
        "doi": f"10.99999/phantom.{article.number}",
        "mid": None,
        "title": article.title,
        "citation": f"J Drawn Phantoms. 2026; {article.number}",
        "is_pmc_openaccess": True,
        "is_manuscript": article.license == "TDM",
        "is_historical_ocr": False,
        "is_retracted": article.defect is Defect.RETRACTED,
        "license_code": article.license,
        "xml_url": _url(f"{name}/{name}.xml", xml),
        "text_url": _url(f"{name}/{name}.txt", text),
        "media_urls": urls,
    }
    write_json(folder / f"{name}.json", metadata)
    write_json(bucket / "metadata" / f"{name}.json", metadata)


def write_package(packages: Path, article: Article) -> None:
    """Write an article as a legacy package."""
    files = {f"phantom-{article.number}.nxml": jats(article, extension=False)}
    files |= {figure.file: figure.image for figure in article.figures if figure.image}
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data in files.items():
            add_member(tar, f"{article.pmcid}/{name}", data)
    write_bytes(packages / f"{article.pmcid}.tar.gz", packed.getvalue())


def _expected(articles: list[Article]) -> dict[str, object]:
    """Say what a builder should find: every figure with its combination, and every planted defect."""
    return {
        "articles": len(articles),
        "figures": sum(len(article.figures) for article in articles),
        "defects": dict(sorted(Counter(str(article.defect) for article in articles).items())),
        "panels": dict(sorted(Counter("/".join(p) for a in articles for f in a.figures for p in f.panels).items())),
    }


def _url(key: str, data: bytes) -> str:
    return f"{BUCKET}/{key}?md5={hashlib.md5(data, usedforsecurity=False).hexdigest()}"
