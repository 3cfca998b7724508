"""CLIP_benchmark's WebDataset layout: shards of images with targets or captions, and files that say what is asked.

    test/0.tar …                                <key>.jpg with <key>.cls (a class number), .npy (0 and 1 a class) or
                                                .txt (captions, one a line)
    test/nshards.txt                            how many shards there are
    classnames.txt                              one class a line, in the order of the numbers
    zeroshot_classification_templates.txt       one sentence a line, with {c} for the class
    dataset_type.txt                            classification, multilabel or retrieval

Nothing is unpacked and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from clipmed.errors import DataError
from zeroshot_eval.collections import LabelTask, split_of
from zeroshot_eval.file_collections import IMAGE_SUFFIXES, FileCollection, FileImage, source_name
from zeroshot_eval.file_digests import remembered

CLASSES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"
TYPE_FILE = "dataset_type.txt"
COUNT_FILE = "nshards.txt"
PREFIX = "wds_"  # CLIP_benchmark's users name folders wds_<dataset>
PLACE = "{c}"


def is_webdataset(root: Path) -> bool:
    """Return whether a folder has this layout."""
    return any(_split_folders(root))


def open_webdataset(root: Path, cache: Path | None) -> FileCollection:
    """Open a folder of this layout; the label task is named after it, without a leading wds_.

    Raises:
        DataError: a shard that is missing or damaged, a sample without a target, or a target that is no class.
    """
    source = source_name(root).removeprefix(PREFIX)
    classes = _lines(root / CLASSES_FILE)
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise DataError(f"{root / CLASSES_FILE}: {twice!r} stands for two classes; give each its own name")
    kind = "".join(_lines(root / TYPE_FILE)) or ("classification" if classes else "retrieval")
    names = [(split, name) for split, folder in _split_folders(root) for name in _shard_names(root, folder)]
    indices = remembered(root, [name for _, name in names], _index, cache, "shards")
    images = [
        image
        for (split, name), index in zip(names, indices, strict=True)
        for image in _images(root, (split, name), index, {source: classes})
    ]
    if not images:
        raise DataError(f"{root} holds no images; allowed: tars of .jpg, .png or .webp with .cls, .npy or .txt")
    return FileCollection(
        location=str(root),
        root=root,
        source=source,
        images=images,
        tasks=_tasks(root, source, classes, kind),
    )


def _tasks(root: Path, source: str, classes: Sequence[str], kind: str) -> dict[str, LabelTask]:
    if not classes or kind == "retrieval":
        return {}
    templates = tuple(line.replace("{}", PLACE).replace(PLACE, "{}") for line in _lines(root / TEMPLATES_FILE))
    named = {name: name for name in classes}
    return {source: LabelTask(named, multi_label=kind == "multilabel", templates=templates or ("{}",))}


def _split_folders(root: Path) -> Iterator[tuple[str, Path]]:
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        split = split_of(folder.name)
        if split and ((folder / COUNT_FILE).is_file() or any(folder.glob("*.tar"))):
            yield split, folder


def _shard_names(root: Path, folder: Path) -> list[str]:
    """Return the shards below the root in order; all that the count names must be there."""
    numbers = sorted(int(path.stem) for path in folder.glob("*.tar") if path.stem.isdigit())
    written = "".join(_lines(folder / COUNT_FILE))
    count = int(written) if written.isdigit() else len(numbers)
    if numbers != list(range(count)):
        missing = sorted(set(range(count)) - set(numbers))
        raise DataError(
            f"{folder}: {COUNT_FILE} says {count} shards, {len(numbers)} are there"
            f"{f', {missing[0]}.tar is missing' if missing else ''}; fetch the folder again"
        )
    return [(folder / f"{number}.tar").relative_to(root).as_posix() for number in numbers]


def _images(
    root: Path, place: tuple[str, str], index: Sequence[Sequence[Any]], classes: Mapping[str, Sequence[str]]
) -> Iterator[FileImage]:
    """Yield the images of one shard with their targets."""
    split, name = place
    path = root / name
    [(task, class_names)] = classes.items()
    with path.open("rb") as raw:
        for key, members in groupby(index, key=lambda member: member[0]):
            kinds = {member[1]: member for member in members}
            image = next((kinds[kind] for kind in kinds if f".{kind}" in IMAGE_SUFFIXES), None)
            if image is None:
                raise DataError(f"{path}: sample {key!r} has no image; got: {', '.join(kinds)}")
            small = {kind: _bytes(raw, member[2], member[3]) for kind, member in kinds.items() if member is not image}
            yield FileImage(
                name=f"{split}/{key}",
                file=name,
                sha256=image[4],
                offset=image[2],
                size=image[3],
                split=split,
                labels={task: _labels(path, key, small, class_names)} if class_names else {},
                captions=_captions(small.get("txt", b"")),
            )


def _index(path: Path) -> list[tuple[str, str, int, int, str]]:
    """Return (key, kind, offset, size, hex SHA-256 of an image) of every member of a shard, in order.

    Raises:
        DataError: no whole tar.
    """
    found = []
    try:
        with tarfile.open(path, "r:") as archive, path.open("rb") as raw:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, kind = base.casefold().partition(".")
                key = f"{folder}/{base[: len(stem)]}".strip("/")
                is_image = f".{kind}" in IMAGE_SUFFIXES
                data = _bytes(raw, member.offset_data, member.size) if is_image else b""
                if is_image and len(data) < member.size:
                    raise DataError(f"{path} is cut short within {member.name!r}; fetch it again")
                digest = hashlib.sha256(data).hexdigest() if is_image else ""
                found.append((key, kind, member.offset_data, member.size, digest))
    except tarfile.TarError as error:
        raise DataError(f"{path} is damaged: {error}; fetch it again") from error
    return found


def _bytes(raw: io.BufferedReader, offset: int, size: int) -> bytes:
    raw.seek(offset)
    return raw.read(size)


def _labels(path: Path, key: str, small: Mapping[str, bytes], classes: Sequence[str]) -> list[str]:
    where = f"{path}: sample {key!r}"
    if "cls" in small:
        text = small["cls"].decode(errors="replace").strip()
        if not text.isdigit() or int(text) >= len(classes):
            raise DataError(f"{where}: class {text!r}; allowed: 0 to {len(classes) - 1}, the lines of {CLASSES_FILE}")
        return [classes[int(text)]]
    if "npy" in small:
        has = _targets(where, small["npy"], len(classes)).tolist()
        return [name for name, value in zip(classes, has, strict=True) if value]
    raise DataError(f"{where}: no .cls and no .npy; got: {', '.join(small) or 'the image alone'}")


def _targets(where: str, data: bytes, num_classes: int) -> np.ndarray:
    try:
        targets = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{where}: its .npy is not readable: {error}") from error
    if (
        not isinstance(targets, np.ndarray)
        or targets.size != num_classes
        or not ((targets == 0) | (targets == 1)).all()
    ):
        raise DataError(f"{where}: its .npy has not one 0 or 1 for each of {num_classes} classes")
    return targets.reshape(-1)


def _captions(data: bytes) -> tuple[str, ...]:
    lines = data.decode(errors="replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _lines(path: Path) -> list[str]:
    """Return the lines of a small text file that hold something; none where there is no file."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [line.strip() for line in text.splitlines() if line.strip()]
