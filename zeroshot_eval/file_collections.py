"""Images in local files: a folder with one folder a class, or a table that names files and what is known of them."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from clipmed.errors import DataError
from clipmed.records import Modality, Split, canonical_json
from zeroshot_eval.collections import LabelTask, modality_of, split_of
from zeroshot_eval.file_digests import confined, file_digests
from zeroshot_eval.selection import SEPARATOR, Item

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"})
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})
LABEL_PREFIX = "label:"
CAPTION_COLUMN = re.compile(r"caption[_:]?\d*")
WHOLE = -1  # size of an image that is a file of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class FileImage:
    """One image: `size` bytes at `offset` of a file below the root (or the whole file), and what is known of it."""

    name: str
    file: str
    sha256: str
    offset: int = 0
    size: int = WHOLE
    split: str = str(Split.TEST)
    labels: dict[str, list[str]] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    group: str = ""
    source: str = ""
    modality: str = str(Modality.OTHER)
    facts: dict[str, str] = field(default_factory=dict)

    def known(self) -> dict[str, Any]:
        """Return everything but where the image lies."""
        hidden = {"file", "offset", "size", "sha256"}
        return {name: getattr(self, name) for name in self.__slots__ if name not in hidden}


@dataclass(kw_only=True)
class FileCollection:
    """Images in files below one folder."""

    location: str
    root: Path
    source: str
    images: Sequence[FileImage]
    tasks: Mapping[str, LabelTask]
    attrition: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of images over all splits."""
        return len(self.images)

    @cached_property
    def image_digest(self) -> str:
        """The digest of names and bytes, in the order of the rows."""
        lines = "\n".join(f"{image.name}\0{image.sha256}" for image in self.images)
        return hashlib.sha256(lines.encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """The digest of the images and of all that is known of them."""
        tasks = {name: [dict(task.classes), task.multi_label] for name, task in self.tasks.items()}
        known = [image.known() for image in self.images]
        content = canonical_json({"images": self.image_digest, "known": known, "tasks": tasks})
        return hashlib.sha256(content.encode()).hexdigest()

    def items(self, split: str, set_index: int) -> list[Item]:
        """Return what is known of the images of a split."""
        return [
            Item(
                set_index=set_index,
                row=row,
                key=f"{self.source}/{image.name}",
                source=image.source or self.source,
                modality=image.modality,
                group=f"{image.source or self.source}/{image.group or image.name}",
                labels=image.labels,
                captions=image.captions,
                sha256=image.sha256,
                facts=image.facts,
            )
            for row, image in enumerate(self.images)
            if image.split == split
        ]

    def image_bytes(self, row: int) -> bytes:
        """Return an image's encoded bytes.

        Raises:
            DataError: the file is shorter than the list of its members says.
        """
        image = self.images[row]
        path = confined(self.root, image.file)
        if image.size == WHOLE:
            return path.read_bytes()
        with path.open("rb") as stream:
            stream.seek(image.offset)
            data = stream.read(image.size)
        if len(data) < image.size:
            raise DataError(f"{path} is cut short: {image.name} ends beyond it; fetch it again")
        return data

    def key(self, row: int) -> str:
        """Return an image's name."""
        return f"{self.source}/{self.images[row].name}"


def source_name(path: Path) -> str:
    """Return the name of a folder or table as that of a source: lower case, digits and underscores."""
    stem = path.resolve().name if path.is_dir() else path.stem
    return re.sub(r"[^a-z0-9]+", "_", stem.casefold()).strip("_") or "images"


def open_folder(root: Path, cache: Path | None) -> FileCollection:
    """Open <root>/<class>/<image> or <root>/<split>/<class>/<image>; the label task is named after the root.

    Without folders of splits, all images are of the split `test`. Every image is a group of its own.

    Raises:
        DataError: no image in a folder of a class.
    """
    task = source_name(root)
    names = sorted(_images_below(root))
    tops = {name.split("/")[0] for name in names}
    has_splits = bool(tops) and all(split_of(top) for top in tops)
    depth = 2 if has_splits else 1
    labelled = [name for name in names if name.count("/") >= depth]
    if not labelled:
        raise DataError(
            f"{root} holds no images in folders of classes; allowed: {root}/CLASS/IMAGE or {root}/SPLIT/CLASS/IMAGE"
        )
    digests = file_digests(root, labelled, cache)
    images = [
        FileImage(
            name=name,
            file=name,
            sha256=digest,
            split=(split_of(name.split("/")[0]) or "") if has_splits else str(Split.TEST),
            labels={task: [name.split("/")[depth - 1]]},
        )
        for name, digest in zip(labelled, digests, strict=True)
    ]
    classes = {class_id: _spoken(class_id) for class_id in sorted({image.labels[task][0] for image in images})}
    loose = [{"source": task, "stage": "source", "reason": "items_seen", "count": len(names)}]
    loose += [{"source": task, "stage": "parse", "reason": "no_class_folder", "count": len(names) - len(labelled)}]
    return FileCollection(
        location=str(root),
        root=root,
        source=task,
        images=images,
        tasks={task: LabelTask(classes)},
        attrition=[*loose, *_kept(task, images)] if len(names) > len(labelled) else [],
    )


def open_table(path: Path, cache: Path | None) -> FileCollection:
    """Open a table with a column `path`, below the table's folder, and any of these.

    label or label:TASK (several classes with `|` between; `label` alone is the task named after the table), split
    (test if not there), group, caption (and caption_2 …), source, modality. Every further column is a fact.

    Raises:
        DataError: no column `path`, no rows, a file that is not there, or a split or modality that is not known.
    """
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path} has no rows; give one or more")
    if "path" not in rows[0]:
        raise DataError(f"{path} has no column 'path'; got: {', '.join(rows[0])}")
    source = source_name(path)
    columns = {name: _task_of(name, source) for name in rows[0] if _task_of(name, source)}
    names = [row["path"].strip() for row in rows]
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise DataError(f"{path}: {twice!r} stands in two rows; give every image once")
    digests = file_digests(path.parent, names, cache)
    images = [
        _table_image(path, number, row, digest, columns)
        for number, (row, digest) in enumerate(zip(rows, digests, strict=True), start=2)
    ]
    return FileCollection(
        location=str(path),
        root=path.parent,
        source=source,
        images=images,
        tasks={task: _task_from(task, column, rows, images) for column, task in columns.items()},
    )


def _table_image(path: Path, number: int, row: Mapping[str, str], digest: str, columns: Mapping[str, str]) -> FileImage:
    where = f"{path}, row {number}"
    split = split_of(row.get("split") or "test")
    if split is None:
        raise DataError(f"{where}: split {row['split']!r}; allowed: train, val, test")
    captions = tuple(row[name].strip() for name in row if CAPTION_COLUMN.fullmatch(name) and row[name].strip())
    named = {"path", "split", "group", "source", "modality", *columns}
    return FileImage(
        name=row["path"].strip(),
        file=row["path"].strip(),
        sha256=digest,
        split=split,
        labels={
            task: [part.strip() for part in row[column].split(SEPARATOR) if part.strip()]
            for column, task in columns.items()
            if row[column].strip()
        },
        captions=captions,
        group=row.get("group", "").strip(),
        source=row.get("source", "").strip(),
        modality=modality_of(row.get("modality", "").strip(), where),
        facts={
            name: value.strip()
            for name, value in row.items()
            if name not in named and not CAPTION_COLUMN.fullmatch(name) and value.strip()
        },
    )


def _task_from(task: str, column: str, rows: Sequence[Mapping[str, str]], images: Sequence[FileImage]) -> LabelTask:
    ids = sorted({class_id for image in images for class_id in image.labels.get(task, ())})
    several = any(SEPARATOR in row[column] for row in rows)
    return LabelTask({class_id: _spoken(class_id) for class_id in ids}, multi_label=several)


def _task_of(column: str, source: str) -> str:
    """Return the label task that a column holds, or nothing."""
    return source if column == "label" else column.removeprefix(LABEL_PREFIX) if LABEL_PREFIX in column[:6] else ""


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        for values in pq.read_table(path).to_pylist():
            yield {str(name): "" if value is None else str(value) for name, value in values.items()}
        return
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        try:
            for number, row in enumerate(reader, start=2):
                if None in row or None in row.values():
                    raise DataError(f"{path}, row {number}: not as many cells as the first row has")
                yield dict(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not readable as a table: {error}") from error


def _images_below(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if path.suffix.casefold() in IMAGE_SUFFIXES and not hidden and path.is_file():
            yield name


def _kept(source: str, images: Sequence[FileImage]) -> list[dict[str, Any]]:
    splits = [image.split for image in images]
    return [
        {"source": source, "stage": "samples", "reason": split, "count": splits.count(split)}
        for split in sorted(set(splits))
    ]


def _spoken(class_id: str) -> str:
    return class_id.replace("_", " ").strip()
