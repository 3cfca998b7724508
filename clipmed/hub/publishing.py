"""Checkpoints sent to the Hugging Face hub: one commit, of a folder that loads and a card that says what must be said.

A text tower whose files lie in the folder is called as the repository in the config that is sent: OpenCLIP looks for it
by that name, from any folder. The digest stays what it was, and so do calibrations and scores.

Files whose hashes the hub has already are not sent again, so that a push that was cut, or is repeated, costs little and
makes no second commit. After it, the hub's hashes are compared with the folder's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmed.card_scores import read_scores, with_scores
from clipmed.cards import Card, hub_license, missing, use_section
from clipmed.checkpoint_files import (
    CALIBRATION_FILE,
    CARD_FILE,
    CONFIG_FILE,
    MERGE_FILE,
    SUMS_FILE,
    TOKENIZER_FILES,
    check_sums,
    checkpoint_digest,
    folder_sums,
    renamed_config,
    sums_text,
)
from clipmed.description import read_card
from clipmed.errors import CheckpointError, ConfigError
from clipmed.hub.environment import endpoint
from clipmed.hub.locations import HUB_PREFIX, Location, check_repository
from clipmed.hub.repositories import DEFAULT_REVISION, CommitFiles, commit_files
from clipmed.hub.transfer import Expected, StatusError

SENT_SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".md")
# What a loader would read, and must therefore not stay on the hub when the folder has it no more.
READ_FILES = frozenset({*TOKENIZER_FILES, CALIBRATION_FILE, MERGE_FILE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """What to send, and where to."""

    folder: Path
    """the checkpoint's"""
    repository: str
    """org/name"""
    private: bool = False
    """make the repository private, if it is to be made"""
    branch: str = DEFAULT_REVISION
    """made from the main one if it is not there"""
    tag: str | None = None
    """name the commit"""
    scores: tuple[Path, ...] = ()
    """scores.json files of evaluations of this folder"""
    no_scores: bool = False
    """publish without scores"""
    license: str | None = None
    """of the weights, as the hub names it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push did, or would do."""

    repository: str
    commit: str | None
    """None where nothing was sent"""
    sent: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]
    left_out: tuple[str, ...]
    """files of the folder that are no part of a checkpoint, such as pickles"""
    card: str


def push(wanted: Push, *, dry_run: bool = False) -> Pushed:
    """Send a checkpoint to the hub.

    Args:
        wanted: what, and where to.
        dry_run: check everything that can be checked here and there, and send nothing.

    Raises:
        ConfigError: a card that lacks a section; names each, and what fills it.
        CheckpointError: a folder that does not load, a calibration of other weights, no permission, no network, or
            files that arrived otherwise.
    """
    check_repository(wanted.repository)
    check_folder(wanted.folder)
    card = finished_card(wanted)
    contents, left_out = _contents(wanted.folder, card, wanted.repository)
    head = _head(wanted)
    there = head.files if head else {}
    changed = [name for name, content in contents.items() if not _is_there(there.get(name), content)]
    stale = _stale(there, contents)
    tagged = _tagged(wanted) if head and wanted.tag else None
    if head and tagged and (changed or stale or tagged != head.commit):
        raise _taken(wanted, tagged)
    done = Pushed(
        repository=wanted.repository,
        commit=None,
        sent=tuple(changed),
        removed=tuple(stale),
        unchanged=tuple(name for name in contents if name not in changed),
        left_out=tuple(left_out),
        card=card,
    )
    if dry_run:
        return done
    commit = _send(wanted, {name: contents[name] for name in changed}, stale)
    _check_arrived(Location(kind="hub", name=wanted.repository, revision=commit), contents)
    if wanted.tag and not tagged:
        _tag(wanted, commit)
    return Pushed(**{**{name: getattr(done, name) for name in done.__slots__}, "commit": commit})


def check_folder(folder: Path) -> None:
    """Check that a folder is a checkpoint that a stranger can load, with a calibration of its own or none.

    Raises:
        CheckpointError: it is not.
    """
    from clipmed.calibration import check_belongs, read_calibration
    from clipmed.checkpoints import load_checkpoint

    load_checkpoint(folder)
    calibration = read_calibration(folder)
    if calibration is not None:
        check_belongs(calibration, checkpoint_digest(folder), folder)


def finished_card(wanted: Push) -> str:
    """Return the folder's card with scores, licence and the three lines for this repository.

    Raises:
        ConfigError: it lacks a section; names each, and what fills it.
    """
    card: Card = read_card(wanted.folder)
    if wanted.license:
        card = card.with_metadata(license=hub_license(wanted.license))
    if wanted.scores:
        digest = checkpoint_digest(wanted.folder)
        card = with_scores(card, [read_scores(path, digest) for path in wanted.scores])
    lacking = missing(card, scores=not wanted.no_scores)
    if lacking:
        listed = "\n".join(f"  {name}: {remedy}" for name, remedy in lacking.items())
        raise ConfigError(f"the card {wanted.folder / CARD_FILE} lacks what a stranger must know:\n{listed}")
    return card.with_section("Use", use_section(f"{HUB_PREFIX}{wanted.repository}")).text()


def _contents(folder: Path, card: str, repository: str) -> tuple[dict[str, Path | bytes], list[str]]:
    """Return what is to lie in the repository by name, and the names of files that are not sent."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    sent = [name for name in names if name.endswith(SENT_SUFFIXES) or name == "LICENSE"]
    contents: dict[str, Path | bytes] = {name: folder / name for name in sent}
    contents[CARD_FILE] = card.encode()
    sums = check_sums(folder) or folder_sums(folder)
    renamed = renamed_config(folder, repository)
    if renamed is not None:
        contents[CONFIG_FILE] = renamed.encode()
        sums = {**sums, CONFIG_FILE: hashlib.sha256(renamed.encode()).hexdigest()}
    contents[SUMS_FILE] = sums_text(sums).encode()
    return contents, [name for name in names if name not in contents]


def _head(wanted: Push) -> CommitFiles | None:
    """Return what the branch holds, or will when it is made, from the main one; None where there is no repository."""
    for branch in dict.fromkeys((wanted.branch, DEFAULT_REVISION)):
        location = Location(kind="hub", name=wanted.repository, revision=branch)
        try:
            return commit_files(location)
        except StatusError as error:
            if error.status not in {401, 404}:
                raise CheckpointError(f"cannot look at {location}: {error}") from error
    return None


def _stale(there: Mapping[str, Expected], contents: Mapping[str, Path | bytes]) -> list[str]:
    """Return the files of a branch that would be read as a part of the checkpoint, and are none."""
    return sorted(READ_FILES & there.keys() - contents.keys())


def _is_there(expected: Expected | None, content: Path | bytes) -> bool:
    if expected is None or (expected.sha256 is None and expected.git_sha1 is None):
        return False
    if isinstance(content, Path):
        return not expected.mismatch(content)
    if expected.sha256 is not None:
        return hashlib.sha256(content).hexdigest() == expected.sha256
    head = f"blob {len(content)}\0".encode()
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest() == expected.git_sha1


def _send(wanted: Push, contents: Mapping[str, Path | bytes], stale: Sequence[str]) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(endpoint=endpoint(), library_name="clipmed")
    location = Location(kind="hub", name=wanted.repository, revision=wanted.branch)
    operations: list[Any] = [CommitOperationDelete(name) for name in stale]
    operations += [
        CommitOperationAdd(name, str(content) if isinstance(content, Path) else content)
        for name, content in contents.items()
    ]
    try:
        api.create_repo(wanted.repository, private=wanted.private, exist_ok=True)
        if wanted.branch != DEFAULT_REVISION:
            api.create_branch(wanted.repository, branch=wanted.branch, exist_ok=True)
        if operations:
            message = "A checkpoint, its card and its checksums"
            made = api.create_commit(wanted.repository, operations, commit_message=message, revision=wanted.branch)
            return str(made.oid)
        return commit_files(location).commit
    except Exception as error:
        raise _refused(wanted, error) from error


def _tagged(wanted: Push) -> str | None:
    """Return the commit that the tag names already."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi(endpoint=endpoint(), library_name="clipmed").list_repo_refs(wanted.repository)
    except Exception as error:
        raise _refused(wanted, error) from error
    return next((ref.target_commit for ref in refs.tags if ref.name == wanted.tag), None)


def _taken(wanted: Push, commit: str) -> ConfigError:
    return ConfigError(
        f"tag: {wanted.tag!r} names the commit {commit} already, which is not what would be sent; tags stay where they "
        "are: give another"
    )


def _tag(wanted: Push, commit: str) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi(endpoint=endpoint(), library_name="clipmed")
        api.create_tag(wanted.repository, tag=str(wanted.tag), revision=commit)
    except Exception as error:
        raise _refused(wanted, error) from error


def _refused(wanted: Push, error: Exception) -> CheckpointError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = " ".join(str(error).split())[:300]
    if status in {401, 403} or type(error).__name__ == "LocalTokenNotFoundError":
        remedy = "set HF_TOKEN to a token with the right to write there"
    else:
        remedy = "what has arrived is not sent again: push once more"
    return CheckpointError(f"cannot push to {wanted.repository}: {type(error).__name__}: {said}; {remedy}")


def _check_arrived(location: Location, contents: Mapping[str, Path | bytes]) -> None:
    there = commit_files(location).files
    wrong = [name for name, content in contents.items() if not _is_there(there.get(name), content)]
    if wrong:
        raise CheckpointError(
            f"{location}: the hub has other bytes of {', '.join(wrong)} than the folder; push once more, or look at "
            "the repository"
        )
    stale = _stale(there, contents)
    if stale:
        raise CheckpointError(
            f"{location}: {', '.join(stale)} came to it meanwhile, and does not belong; push once more"
        )
