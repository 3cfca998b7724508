"""Weighted means of checkpoints: interpolation between a base and its fine-tuned model, and soups of several.

Interpolation is WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903), the soup's mean that of Wortsman et al. 2022
(arXiv 2203.05482). Every floating-point tensor is averaged, the temperature's logarithm too. The result is a checkpoint
folder of its own, whose card and merge.json name the parents. Tensors are read and written one by one: memory holds a
few of the largest, whatever the model's size.

Legend: t a tensor, w its parent's weight.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tqdm import tqdm

from clipmed.cards import NOT_SCORED, Card, limits_section, use_section
from clipmed.checkpoint_files import (
    CALIBRATION_FILE,
    CARD_FILE,
    HERE,
    MERGE_FILE,
    SUMS_FILE,
    WEIGHTS_FILE,
    check_sums,
    checkpoint_digest,
    renamed_config,
    write_sums,
)
from clipmed.checkpoints import read_config
from clipmed.errors import CheckpointError, ConfigError
from clipmed.files import atomic_folder, sha256_file, write_json, write_text
from clipmed.hub import Fetched, resolve
from clipmed.safetensors_header import TensorEntry, read_header

if TYPE_CHECKING:
    import torch

MERGE_VERSION = 1
# What is not taken over from the last parent: it is made anew, or is not of the mean.
NOT_COPIED = frozenset({WEIGHTS_FILE, CARD_FILE, MERGE_FILE, SUMS_FILE, CALIBRATION_FILE})
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model")
SHOWN_AFTER_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A checkpoint that went into a merge."""

    location: str
    """a folder's name alone; a hub repository with its commit"""
    commit: str | None
    """of the hub repository that the weights came from"""
    digest: str
    """of its weights and config, as `clipmed info` prints"""
    weight: float
    """its share of the mean"""


def interpolate(base: str | Path, tuned: str | Path, alpha: float, out: Path) -> Path:
    """Write the checkpoint (1 - alpha) x base + alpha x tuned; return its folder.

    Args:
        base: folder or `hf-hub:org/name` of the checkpoint that fine-tuning began with.
        tuned: the same of the one that it ended with.
        alpha: 0 to 1; 0 gives the base's weights bit for bit, 1 the tuned ones'.
        out: folder to write, atomically; one that stands there is replaced only if it is a merge, too.

    Raises:
        ConfigError: alpha out of range, or `out` is taken.
        CheckpointError: the two do not match; names the first difference.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha: got {alpha}; allowed: 0 (the base) to 1 (the tuned checkpoint)")
    return _merge([base, tuned], [1 - alpha, alpha], out, "interpolation")


def soup(locations: Sequence[str | Path], out: Path, weights: Sequence[float] | None = None) -> Path:
    """Write the weighted mean of checkpoints that share their architecture and start; return its folder.

    Args:
        locations: folders or `hf-hub:org/name` of two checkpoints or more.
        out: as for `interpolate`.
        weights: one a checkpoint, 0 or more, with the sum 1; equal ones if not given.

    Raises:
        ConfigError, CheckpointError: as `interpolate`.
    """
    if len(locations) < 2:
        raise ConfigError(f"a soup needs two checkpoints or more: got {len(locations)}")
    shares = [1 / len(locations)] * len(locations) if weights is None else list(weights)
    if len(shares) != len(locations) or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ConfigError(
            f"weights: got {shares} for {len(locations)} checkpoints; allowed: one each, 0 or more, with the sum 1"
        )
    return _merge(locations, shares, out, "soup")


def _merge(locations: Sequence[str | Path], weights: Sequence[float], out: Path, method: str) -> Path:
    fetched = [resolve(location) for location in locations]
    folders = [one.folder for one in fetched]
    _check_out(out, folders)
    headers = _matching_headers(folders)
    for folder in folders:
        check_sums(folder)
    parents = [
        Parent(location=_name(one), commit=one.commit, digest=checkpoint_digest(one.folder), weight=weight)
        for one, weight in zip(fetched, weights, strict=True)
    ]
    with atomic_folder(out) as partial:
        for path in sorted(folders[-1].iterdir()):
            if path.is_file() and path.name not in NOT_COPIED:
                shutil.copyfile(path, partial / path.name)
        with (partial / WEIGHTS_FILE).open("wb") as stream:
            _write_mean(stream, headers, [folder / WEIGHTS_FILE for folder in folders], weights)
        record = {"schema_version": MERGE_VERSION, "method": method, "parents": [asdict(parent) for parent in parents]}
        write_json(partial / MERGE_FILE, record)
        write_text(partial / CARD_FILE, _card(method, parents, folders))
        write_sums(partial)
    return out


def _name(fetched: Fetched) -> str:
    """Return what others may know a parent by: a path of this machine means nothing to them."""
    location = fetched.location
    if location.kind == "folder":
        return fetched.folder.resolve().name
    return str(replace(location, revision=fetched.commit) if location.kind == "hub" else location)


def _check_out(out: Path, folders: Sequence[Path]) -> None:
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise ConfigError(f"out: {out} is one of the checkpoints to merge; give another folder")
    if out.exists() and not (out / MERGE_FILE).is_file():
        raise ConfigError(f"out: {out} is there and no merged checkpoint; remove it first, or give another folder")


def _matching_headers(folders: Sequence[Path]) -> dict[str, TensorEntry]:
    """Return the tensors that all checkpoints have, after checking that nothing else differs between them."""
    first, headers = folders[0], _header(folders[0])
    config = _config(first)
    for folder in folders[1:]:
        if difference := _config_difference(config, _config(folder)):
            raise CheckpointError(f"{first} and {folder} are not of one architecture: {difference}")
        if difference := _vocabulary_difference(first, folder):
            raise CheckpointError(f"{first} and {folder} do not share their vocabulary: {difference}")
        if difference := _header_difference(headers, _header(folder)):
            raise CheckpointError(f"the weights of {first} and {folder} do not match: {difference}")
    return headers


def _config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's config, in which a text tower beside it is called the same whether published or not."""
    config = read_config(folder)
    renamed = renamed_config(folder, HERE)
    return config if renamed is None else dict(json.loads(renamed))


def _header(folder: Path) -> dict[str, TensorEntry]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}; only safetensors weights are merged")
    return read_header(path)


def _config_difference(one: Any, other: Any, where: str = "") -> str:
    """Return the first setting in which two configs differ, with both values; an empty text where there is none."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            inner = _config_difference(one.get(key), other.get(key), f"{where}.{key}" if where else str(key))
            if inner:
                return inner
        return ""
    return "" if one == other else f"{where} is {one!r} and {other!r}"


def _vocabulary_difference(one: Path, other: Path) -> str:
    for name in VOCABULARY_FILES:
        paths = [folder / name for folder in (one, other)]
        digests = [sha256_file(path) if path.is_file() else None for path in paths]
        if digests[0] != digests[1]:
            return f"{name} differs" if None not in digests else f"only one has {name}"
    return ""


def _header_difference(one: Mapping[str, TensorEntry], other: Mapping[str, TensorEntry]) -> str:
    for name in sorted({*one, *other}):
        if name not in one or name not in other:
            return f"only one has the tensor {name}"
        if one[name] != other[name]:
            mine, theirs = (f"{tensor.dtype} of shape {tensor.shape}" for tensor in (one[name], other[name]))
            return f"{name} is {mine} and {theirs}"
    return ""


def _write_mean(
    stream: BinaryIO, headers: Mapping[str, TensorEntry], paths: Sequence[Path], weights: Sequence[float]
) -> None:
    """Write a safetensors file tensor by tensor: the length of its header, the header, then the tensors' bytes.

    Wider types come first, as the library writes them, so that every number begins at a multiple of its size.
    """
    order = sorted(headers, key=lambda name: (-headers[name].item_bytes, name))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor = headers[name]
        begin, end = end, end + tensor.num_bytes
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # the data begins at a multiple of 8 bytes
    stream.write(struct.pack("<Q", len(head)) + head)
    for name in tqdm(order, desc="merging", unit="tensor", file=sys.stderr, delay=SHOWN_AFTER_S):
        stream.write(_bytes(_mean(name, paths, weights)))


def _mean(name: str, paths: Sequence[Path], weights: Sequence[float]) -> torch.Tensor:
    """Return the weighted mean of one tensor: t0 + the sum of w (t - t0), so that equal tensors stay what they are."""
    import torch

    used = [(path, weight) for path, weight in zip(paths, weights, strict=True) if weight > 0]
    first = _read(used[0][0], name)
    if not first.is_floating_point():
        _check_equal(name, first, paths)
        return first
    if len(used) == 1:
        return first
    wide = torch.promote_types(first.dtype, torch.float32)
    start = first.to(wide)
    mean = start.clone()
    for path, weight in used[1:]:
        mean.add_(_read(path, name).to(wide).sub_(start), alpha=weight)
    if not mean.isfinite().all():
        raise CheckpointError(f"the mean of {name} is not finite: one of {', '.join(map(str, paths))} is unusable")
    return mean.to(first.dtype)


def _check_equal(name: str, first: torch.Tensor, paths: Sequence[Path]) -> None:
    import torch

    differing = next((path for path in paths if not torch.equal(_read(path, name), first)), None)
    if differing is not None:
        raise CheckpointError(
            f"{name} holds {str(first.dtype).removeprefix('torch.')} numbers, which have no mean, and differs in "
            f"{differing.parent}; merge checkpoints of one architecture and vocabulary"
        )


def _read(path: Path, name: str) -> torch.Tensor:
    """Return one tensor; the file is opened for it alone, since an open one keeps all its pages in memory."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stored:
        tensor: torch.Tensor = stored.get_tensor(name)
    return tensor


def _bytes(tensor: torch.Tensor) -> Any:
    """Return a tensor's bytes as a buffer."""
    import torch

    return tensor.contiguous().flatten().view(torch.uint8).numpy()


def _card(method: str, parents: Sequence[Parent], folders: Sequence[Path]) -> str:
    """Return the model card: what was merged, then the parents' own cards, since their data and licences hold.

    Where a parent has no card, nobody knows the data, and the card says nothing of them: publishing asks for it then.
    """
    table = [
        "Not trained: a weighted mean of these checkpoints, as merge.json has it, too.",
        "",
        "| weight | checkpoint | digest of config and weights |",
        "|---|---|---|",
        *(f"| {parent.weight:g} | {parent.location} | {parent.digest} |" for parent in parents),
    ]
    sections = {
        "Use": use_section(),
        "Training configuration": "\n".join(table),
        "Scores": f"{NOT_SCORED} Those in the parents' cards are theirs.",
        "Limits of use": limits_section(),
    }
    if all((folder / CARD_FILE).is_file() for folder in folders):
        sections["Data"] = "Those of all parents: their cards follow."
        sections["Licences"] = "Those of all parents hold together: their cards follow."
    for number, (parent, folder) in enumerate(zip(parents, folders, strict=True), 1):
        sections[f"Card of parent {number}, {parent.location}"] = "\n".join(_demoted(folder / CARD_FILE))
    title = f"A CLIP-style model merged by {method}"
    return Card(title=title, sections=sections, metadata={"tags": ["clip", "medical", "merge"]}).text()


def _demoted(card: Path) -> Iterator[str]:
    """Yield the lines of a card without its metadata, its headings two levels lower."""
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else ["It has none."]
    if lines and lines[0] == "---" and "---" in lines[1:]:
        lines = lines[lines.index("---", 1) + 1 :]
    fenced = False
    for line in lines:
        fenced ^= line.startswith("```")
        yield f"##{line}" if line.startswith("#") and not fenced else line
