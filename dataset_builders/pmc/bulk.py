"""Legacy bulk XML (oa_comm_xml.*.tar.gz, comm_use.*.xml.tar.gz) into the bucket's layout, one tar after the other.

<out>/PMC<id>.1/PMC<id>.1.xml           from the newest of the tars that hold the article, by their names' dates
<out>/.unpacked/<tar's name>.json       the receipt of a finished tar: its size, counts, and what was not written

The tars hold no media: figures are read where the media lie beside the XML, or come from another archive.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from isal import igzip
from tqdm import tqdm

from clipmed.errors import ConfigError, DataError
from clipmed.files import write_json
from clipmed.rejects import RejectReason
from dataset_builders.pmc.config import ParseLimits
from dataset_builders.pmc.metadata import printable
from dataset_builders.pmc.packages import READ_BYTES, UNREADABLE, is_safe_name, require_end

_ARTICLE = re.compile(r"PMC(\d{1,18})\.n?xml", re.I)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_RECEIPTS = ".unpacked"
_BYTES_PER_MB = 1_000_000
# XML shrinks to a fifth or so, and deflate cannot shrink anything to less than a thousandth.
_MOST_UNPACKED = 100
_FREE_BYTES = 16_000_000


def unpack(tars: Sequence[Path], out: Path, limits: ParseLimits | None = None) -> dict[str, int]:
    """Unpack the articles of bulk tars into `out`; tars that were finished before are not read again.

    Later tars replace articles of earlier ones, by the dates in their names and then by their names, in whatever order
    they are given. Tars without a date come first.

    Returns:
        counts over all tars: members, articles (written), and one for each reason that a member was not written.

    Raises:
        ConfigError: a tar does not exist, or two have one name.
        DataError: a tar breaks off, is none, or unpacks to more than a hundred times its size; what came before the
            damage stays, and no receipt is written.
    """
    ordered = sorted(tars, key=lambda tar: (_DATE.findall(tar.name)[-1:], tar.name))
    for tar in ordered:
        if not tar.is_file():
            raise ConfigError(f"no such tar: {tar}")
    if len({tar.name for tar in ordered}) < len(ordered):
        raise ConfigError("two tars have the same name; give each its own, since it decides which is newer")
    totals: Counter[str] = Counter()
    size = sum(tar.stat().st_size for tar in ordered)
    replaced = False
    with tqdm(total=size, unit="B", unit_scale=True, desc="unpack", file=sys.stderr) as bar:
        for tar in ordered:
            done = _receipt(out, tar)
            # An article of a newer tar must not be left replaced by that of an older one.
            if replaced or done is None:
                replaced = True
                done = _unpack(tar, out, limits or ParseLimits(), bar)
            else:
                bar.update(tar.stat().st_size)
            totals.update(done["counts"])
            bar.set_postfix(articles=totals["articles"], refresh=False)
    return dict(sorted(totals.items()))


def _receipt(out: Path, tar: Path) -> dict[str, Any] | None:
    path = out / _RECEIPTS / f"{tar.name}.json"
    if not path.exists():
        return None
    receipt: dict[str, Any] = json.loads(path.read_text())
    return receipt if receipt["bytes"] == tar.stat().st_size else None


def _unpack(tar: Path, out: Path, limits: ParseLimits, bar: tqdm[Any]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    left_out: list[dict[str, str]] = []
    start = bar.n
    try:
        with tar.open("rb") as raw, _open(raw) as members:
            for member in members:
                if not member.isdir():
                    counts["members"] += 1
                    reason = _write_member(members, member, out, limits)
                    counts[reason or "articles"] += 1
                    if reason:
                        left_out.append({"member": printable(member.name), "reason": reason})
                bar.update(start + raw.tell() - bar.n)
            require_end(members)
    except UNREADABLE as error:
        raise DataError(f"{tar} cannot be read to its end: {error}; get it again, and run this once more") from error
    bar.update(start + tar.stat().st_size - bar.n)
    os.sync()  # articles are not synced one by one, which would take hours for millions
    receipt = {"bytes": tar.stat().st_size, "counts": dict(sorted(counts.items())), "left_out": left_out}
    write_json(out / _RECEIPTS / f"{tar.name}.json", receipt)
    return receipt


def _open(raw: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=_Inflated(raw), mode="r|", bufsize=READ_BYTES)  # type: ignore[call-overload, no-any-return]


class _Inflated:
    """The stream in a gzip file, which ends with an error once it is far larger than any text that was compressed."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._stream = igzip.open(raw)  # type: ignore[no-untyped-call]
        self._unpacked = 0

    def read(self, size: int) -> bytes:
        """Read like a file; raises ValueError for a bomb."""
        data: bytes = self._stream.read(size)
        self._unpacked += len(data)
        if self._unpacked > _FREE_BYTES + _MOST_UNPACKED * self._raw.tell():
            raise ValueError(f"{self._raw.tell()} bytes unpack to more than {self._unpacked}")
        return data


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, out: Path, limits: ParseLimits) -> str:
    """Write an article; return the reason where a member is left out, and nothing where it is written."""
    if not member.isfile() or not is_safe_name(member.name):
        return str(RejectReason.PATH_UNSAFE)
    match = _ARTICLE.fullmatch(PurePosixPath(member.name).name)
    if not match:
        return "not_an_article"
    if member.size > limits.max_xml_mb * _BYTES_PER_MB:
        return str(RejectReason.FILE_TOO_LARGE)
    stream = tar.extractfile(member)
    data = stream.read() if stream else b""
    name = f"PMC{int(match.group(1))}.1"
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.xml.partial"
    temporary.write_bytes(data)
    temporary.replace(folder / f"{name}.xml")
    return ""
