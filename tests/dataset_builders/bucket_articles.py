"""A public bucket of any number of articles, computed from their numbers: the layout, the defects, what must be found.

Every hundredth article has one of the defects in PLANTED; the others have one to three figures that can be built.
"""

from __future__ import annotations

import bisect
import csv
import gzip
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

BUCKET = "pmc-oa-opendata"
INVENTORY = f"inventory-reports/{BUCKET}/metadata"
DATES = ("2026-09-13T01-00Z", "2026-09-14T01-00Z")
FIRST_NUMBER = 10_000_000
CYCLE = 100
NUM_INVENTORY_FILES = 5
HTML_PAGE = b"<!DOCTYPE html><html><body><h1>Sorry, something went wrong</h1></body></html>"

# What is wrong with the articles whose number is so much above a multiple of CYCLE, and how the server behaves.
PLANTED = {
    0: "retracted",
    1: "license_null",
    2: "license_tdm",
    3: "malformed",
    4: "no_figures",
    5: "media_unlisted",
    6: "media_absent",
    7: "image_corrupt",
    8: "old_version",
    9: "media_wrong_bytes",
    10: "media_unreachable",
    11: "metadata_changed",
    12: "metadata_absent",
    13: "metadata_page",
    14: "historical_ocr",
    15: "xml_page",
    16: "caption_absent",
    17: "unused_media",
    18: "no_graphic",
    19: "xml_absent",
}
# Rejects of whole articles: no figure of them is seen.
ARTICLE_REJECTS = {
    "retracted": "article_retracted",
    "license_null": "license_not_allowed",
    "license_tdm": "license_not_allowed",
    "malformed": "article_malformed",
    "no_figures": "article_without_figures",
    "metadata_changed": "article_changed",
    "metadata_absent": "article_changed",
    "metadata_page": "package_unreadable",
    "historical_ocr": "article_ocr",
    "xml_page": "checksum_mismatch",
    "xml_absent": "package_unreadable",
}
# Rejects of the first figure of an article.
FIGURE_REJECTS = {
    "media_unlisted": "media_missing",
    "media_absent": "media_missing",
    "image_corrupt": "image_corrupt",
    "media_wrong_bytes": "checksum_mismatch",
    "media_unreachable": "source_unreachable",
    "caption_absent": "caption_missing",
    "no_graphic": "figure_without_graphic",
}
# How the server answers for ever for one file of an article, by the file's role.
LASTING_FAULTS = {
    "media_wrong_bytes": ("media", "wrong"),
    "media_unreachable": ("media", "500"),
    "metadata_page": ("json", "html"),
    "xml_page": ("xml", "html"),
}
_ABSENT = {"media_absent": "media", "metadata_absent": "json", "xml_absent": "xml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a build with the default settings finds. `needed` are the keys that it asks for.

    Each is given whole at most once, but for those in `repeated`: metadata that differ from the inventory's ETag.
    """

    versions: int
    articles_read: int
    figures: int
    samples: int
    rejects: dict[str, int]
    needed: frozenset[str] = field(repr=False)
    repeated: frozenset[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ArticleVersion:
    """One version of one synthetic article: its files are functions of its number and version."""

    index: int
    version: int = 1

    @property
    def defect(self) -> str:
        """The name of what is wrong with it; empty for a sound article."""
        return PLANTED.get(self.index % CYCLE, "")

    @property
    def name(self) -> str:
        """PMC<id>.<version>."""
        return f"PMC{FIRST_NUMBER + self.index}.{self.version}"

    @property
    def num_figures(self) -> int:
        """Figures in the XML."""
        return 0 if self.defect == "no_figures" else 1 + self.index % 3

    @property
    def metadata_keys(self) -> tuple[str, str]:
        """The two places of the JSON."""
        return f"metadata/{self.name}.json", f"{self.name}/{self.name}.json"

    def media_names(self) -> list[str]:
        """The names of the image files that figures name, in order."""
        return [f"fig{number + 1}.jpg" for number in range(self.num_figures)]

    def objects(self) -> list[str]:
        """The keys of the version that the bucket has."""
        return [key for key in self._listed_keys() if key not in self.absent_keys()]

    def absent_keys(self) -> set[str]:
        """Objects that the metadata or the inventory name, and that are not there."""
        role = _ABSENT.get(self.defect)
        return set(self.keys_of(role)) if role else set()

    def keys_of(self, role: str) -> tuple[str, ...]:
        """The objects that the defect of a role is about: the metadata, the XML, or the first image."""
        return {
            "json": self.metadata_keys,
            "xml": (f"{self.name}/{self.name}.xml",),
            "media": (f"{self.name}/fig1.jpg",),
        }[role]

    def file(self, key: str) -> bytes | None:
        """The bytes of one of the version's objects."""
        if key not in self._listed_keys() or key in self.absent_keys():
            return None
        name = key.rpartition("/")[2]
        if name == f"{self.name}.json":
            return _metadata(self)
        if name == f"{self.name}.xml":
            return _xml(self)
        return _picture(self, name) if name.endswith(".jpg") else f"{key}\n".encode()

    def listed_etag(self) -> str:
        """The ETag of the metadata in the inventory."""
        stale = b"\n" if self.defect == "metadata_changed" else b""
        return md5(_metadata(self) + stale)

    def _listed_keys(self) -> tuple[str, ...]:
        own = [f"{self.name}.xml", f"{self.name}.txt", f"{self.name}.json"]
        media = self.listed_media()
        return (*(f"{self.name}/{name}" for name in own + media), self.metadata_keys[0])

    def listed_media(self) -> list[str]:
        """The media that the metadata name: all that figures show, and in some articles much else."""
        if self.defect == "license_tdm":
            return []
        names = self.media_names()
        if self.defect == "media_unlisted":
            return names[1:]
        if self.defect == "unused_media":
            return names + [f"fig1-{number}.thumb.gif" for number in range(20)] + ["supplement.pdf", "table1.jpg"]
        return names


class Bucket:
    """The objects of a bucket of `num_articles` articles, by key."""

    def __init__(self, num_articles: int) -> None:
        self.num_articles = num_articles

    def versions(self) -> Iterator[ArticleVersion]:
        """Every version of every article, by number."""
        for index in range(self.num_articles):
            for version in range(1, 2 + (PLANTED.get(index % CYCLE) == "old_version")):
                yield ArticleVersion(index, version)

    def get(self, key: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        if key.startswith("inventory-reports/") or key == "README.txt":
            return self._inventory.get(key)
        version = self._version_of(key)
        return version.file(key) if version else None

    def lasting_fault(self, key: str) -> str:
        """How the server answers for this key for ever; empty where it can be had."""
        version = self._version_of(key)
        role, fault = LASTING_FAULTS.get(version.defect, ("", "")) if version else ("", "")
        return fault if version and role and key in version.keys_of(role) else ""

    def list_keys(self, prefix: str) -> list[str]:
        """Every key with a prefix, sorted as S3 sorts."""
        first = bisect.bisect_left(self._keys, prefix)
        last = bisect.bisect_left(self._keys, prefix + "\U0010ffff")
        return self._keys[first:last]

    def _version_of(self, key: str) -> ArticleVersion | None:
        name = key.removeprefix("metadata/").removesuffix(".json").partition("/")[0].removeprefix("PMC")
        number, _, version = name.partition(".")
        if not number.isdecimal() or not version.isdecimal():
            return None
        found = ArticleVersion(int(number) - FIRST_NUMBER, int(version))
        last = 1 + (found.defect == "old_version")
        return found if 0 <= found.index < self.num_articles and 1 <= found.version <= last else None

    @cached_property
    def _keys(self) -> list[str]:
        keys = [key for version in self.versions() for key in version.objects()]
        return sorted(keys + list(self._inventory))

    @cached_property
    def _inventory(self) -> dict[str, bytes]:
        """Two daily inventories; the older lacks some articles and has other ETags for some."""
        objects = {"README.txt": b"PubMed Central open access\n"}
        for age, date in enumerate(reversed(DATES)):
            objects |= _inventory_of(date, [row for version in self.versions() if (row := _row(version, age))])
        return objects


def expected(num_articles: int) -> Expected:
    """Say what a build over `num_articles` articles must find, from the plan alone."""
    rejects: Counter[str] = Counter()
    read = figures = samples = versions = 0
    needed: set[str] = set()
    repeated: set[str] = set()
    for version in Bucket(num_articles).versions():
        versions += 1
        if version.defect == "old_version" and version.version == 1:
            rejects["superseded_version"] += 1
            continue
        needed |= set(version.metadata_keys[: 1 + (version.defect == "metadata_absent")])
        if version.defect == "metadata_changed":
            repeated.add(version.metadata_keys[0])
        if version.defect in {"malformed", "no_figures", "xml_page", "xml_absent"}:
            needed.add(version.keys_of("xml")[0])
        if version.defect in ARTICLE_REJECTS:
            rejects[ARTICLE_REJECTS[version.defect]] += 1
            continue
        needed |= {version.keys_of("xml")[0], *(f"{version.name}/{name}" for name in _fetched_media(version))}
        read += 1
        figures += version.num_figures
        lost = int(version.defect in FIGURE_REJECTS)
        samples += version.num_figures - lost
        if lost:
            rejects[FIGURE_REJECTS[version.defect]] += 1
    return Expected(
        versions=versions,
        articles_read=read,
        figures=figures,
        samples=samples,
        rejects=dict(sorted(rejects.items())),
        needed=frozenset(needed),
        repeated=frozenset(repeated),
    )


def md5(data: bytes) -> str:
    """The ETag of an object that was uploaded whole."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _fetched_media(version: ArticleVersion) -> list[str]:
    names = version.media_names()
    return names[1:] if version.defect in {"media_unlisted", "no_graphic"} else names


def _row(version: ArticleVersion, age: int) -> tuple[str, str, str, str] | None:
    if age and version.index % 50 == 49:
        return None
    etag = md5(version.name.encode()) if age and version.index % 50 == 48 else version.listed_etag()
    return BUCKET, version.metadata_keys[0], "2026-09-01T00:00:00.000Z", etag


def _inventory_of(date: str, rows: list[tuple[str, str, str, str]]) -> dict[str, bytes]:
    objects: dict[str, bytes] = {}
    files: list[dict[str, str | int]] = []
    for number in range(NUM_INVENTORY_FILES):
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows[number::NUM_INVENTORY_FILES])
        key = f"{INVENTORY}/data/{md5(f'{date} {number}'.encode())}.csv.gz"
        objects[key] = gzip.compress(text.getvalue().encode(), compresslevel=1, mtime=0)
        files.append({"key": key, "size": len(objects[key]), "MD5checksum": md5(objects[key])})
    manifest = {
        "sourceBucket": BUCKET,
        "destinationBucket": f"arn:aws:s3:::{BUCKET}",
        "version": "2016-11-30",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, LastModifiedDate, ETag",
        "files": files,
    }
    objects[f"{INVENTORY}/hive/dt={date[:10]}-01-00/symlink.txt"] = "\n".join(objects).encode()
    objects[f"{INVENTORY}/{date}/manifest.json"] = json.dumps(manifest).encode()
    return objects


@lru_cache(maxsize=4096)
def _metadata(version: ArticleVersion) -> bytes:
    folder = f"s3://{BUCKET}/{version.name}"
    defect = version.defect
    code = {"license_null": None, "license_tdm": "TDM"}.get(defect, "CC BY")
    content = {
        "pmcid": version.name.partition(".")[0],
        "version": version.version,
        "pmid": str(version.index + 1),
        "doi": f"10.1000/synthetic.{version.index}",
        "title": f"Article {version.index}",
        "citation": f"J Synth Med. {2000 + version.index % 26} Nov 2; 3(1):55-60",
        "is_pmc_openaccess": True,
        "is_manuscript": defect == "license_tdm",
        "is_historical_ocr": defect == "historical_ocr",
        "is_retracted": defect == "retracted",
        "license_code": code,
        "xml_url": f"{folder}/{version.name}.xml?md5={md5(_xml(version))}",
        "text_url": f"{folder}/{version.name}.txt?md5={md5(b'')}",
        "media_urls": [f"{folder}/{name}?md5={_media_md5(version, name)}" for name in version.listed_media()],
    }
    return json.dumps(content).encode()


def _media_md5(version: ArticleVersion, name: str) -> str:
    return md5(_picture(version, name) if name.endswith(".jpg") else f"{version.name}/{name}\n".encode())


@lru_cache(maxsize=4096)
def _xml(version: ArticleVersion) -> bytes:
    figures = "".join(_figure(version, number) for number in range(version.num_figures))
    mention = '<p>The finding is shown in <xref ref-type="fig" rid="f1"/>.</p>'
    cited = "" if version.defect == "caption_absent" else mention
    text = (
        '<?xml version="1.0"?><article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>'
        f'<article-id pub-id-type="pmc">{version.name.partition(".")[0]}</article-id>'
        f"<title-group><article-title>Article {version.index}</article-title></title-group>"
        '<permissions><license xlink:href="https://creativecommons.org/licenses/by/4.0/"/></permissions>'
        f"</article-meta></front><body>{cited}{figures}</body></article>"
    )
    return text[: len(text) // 2].encode() if version.defect == "malformed" else text.encode()


def _figure(version: ArticleVersion, number: int) -> str:
    first = number == 0
    caption = f"Chest radiograph number {number + 1} of patient {version.index}, version {version.version}."
    described = "" if first and version.defect == "caption_absent" else f"<caption><p>{caption}</p></caption>"
    graphic = "" if first and version.defect == "no_graphic" else f'<graphic xlink:href="fig{number + 1}.jpg"/>'
    return f'<fig id="f{number + 1}"><label>Figure {number + 1}</label>{described}{graphic}</fig>'


@lru_cache(maxsize=8192)
def _picture(version: ArticleVersion, name: str) -> bytes:
    """A grey JPEG of 8 x 8 fields of 16 pixels, different for every file."""
    import numpy as np
    import simplejpeg

    fields = np.frombuffer(hashlib.blake2b(f"{version.name}/{name}".encode()).digest(), np.uint8).reshape(8, 8)
    pixels = np.kron(fields, np.ones((16, 16), np.uint8))[..., None]
    jpeg = bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=85, colorspace="GRAY"))
    return jpeg[: len(jpeg) // 2] if version.defect == "image_corrupt" and name == "fig1.jpg" else jpeg
