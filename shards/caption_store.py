"""The caption store: captions made apart from images, kept by what they were made for, in one SQLite file.

A *subject* is what captions are made for: the facts of labelled images, one image, or a native text. Its id is
`facts:<sha256 of the row's facts>`, `image:<sha256 of the stored JPEG>` or `text:<sha256 of the text in UTF-8>`. A
*request* is a subject, a captioner and the version of its prompt. A store holds its outcome whole: every text that
came, accepted or refused with the reasons, and what it cost.

Each outcome is written in one transaction, so that a killed writer loses at most the one that it was writing. One
process writes at a time; others may read meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from clipmed.errors import DataError
from clipmed.records import Caption

STORE_VERSION = 1
State = Literal["done", "failed"]
_WAIT_S = 30.0  # for another writer
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE subjects (subject TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    subject TEXT NOT NULL REFERENCES subjects,
    captioner TEXT NOT NULL,
    prompt TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('done', 'failed')),
    tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    error TEXT NOT NULL,
    UNIQUE (subject, captioner, prompt)
);
CREATE TABLE texts (
    request INTEGER NOT NULL REFERENCES requests ON DELETE CASCADE,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    text TEXT NOT NULL,
    reasons TEXT NOT NULL,
    PRIMARY KEY (request, number)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a captioner was asked: the subject's id, the captioner's name, and the version of its prompt."""

    subject: str
    captioner: str
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One text that came: at which try, and why it was refused, each reason as `code: detail`; none if accepted."""

    attempt: int
    text: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a request."""

    request: Request
    state: State
    texts: tuple[Attempt, ...]
    tokens_in: int
    tokens_out: int
    error: str


def subject_of_facts(facts: str) -> str:
    """Return the subject of the facts of a row, given as the row's canonical JSON."""
    return f"facts:{hashlib.sha256(facts.encode()).hexdigest()}"


def subject_of_image(sha256: str) -> str:
    """Return the subject of an image, given by the digest of its stored JPEG."""
    return f"image:{sha256}"


def subject_of_text(text: str) -> str:
    """Return the subject of a native text."""
    return f"text:{hashlib.sha256(text.encode()).hexdigest()}"


class CaptionStore:
    """An open store, for one writer or any number of readers; its methods may be called from several threads."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path, mode: Literal["read", "write"]) -> Self:
        """Open a store; for writing it is made if it is not there.

        Raises:
            DataError: no such file to read, not a caption store, of another version, or held by another writer.
        """
        if mode == "read" and not path.is_file():
            raise DataError(f"no caption store {path}; make it: python -m dataset_builders captions make")
        if mode == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
        address = f"{path.resolve().as_uri()}?mode={'ro' if mode == 'read' else 'rwc'}"
        connection = sqlite3.connect(address, uri=True, timeout=_WAIT_S, check_same_thread=False, isolation_level=None)
        store = cls(path, connection)
        try:
            store._prepare(mode)
        except sqlite3.Error as error:
            connection.close()
            raise DataError(f"{path} cannot be opened as a caption store: {error}") from error
        except DataError:
            connection.close()
            raise
        return store

    def _prepare(self, mode: str) -> None:
        if mode == "write":
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            with self._transaction():
                if not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    for statement in filter(str.strip, _TABLES.split(";")):
                        self._connection.execute(statement)
                    self._connection.execute("INSERT INTO meta VALUES ('version', ?)", (str(STORE_VERSION),))
        row = self._connection.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
        if row is None or row[0] != str(STORE_VERSION):
            found = "none" if row is None else row[0]
            raise DataError(f"{self.path} is a caption store of version {found}; allowed: {STORE_VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def record(self, outcome: Outcome, content: str) -> None:
        """Write the outcome of a request, in place of one that failed before.

        Args:
            outcome: done if a text was accepted, else failed.
            content: the facts as JSON, or the native text, that the subject stands for; empty for an image.

        Raises:
            DataError: the request is done already, or the state is not what the texts say.
        """
        request = outcome.request
        _check_state(outcome)
        with self._lock, self._transaction():
            if self.state(request) == "done":
                raise DataError(f"{self.path} holds captions of {request.subject} by {request.captioner} already")
            self._write(outcome, content)

    def rejudge(self, outcome: Outcome) -> None:
        """Write an outcome that is here with other reasons; texts, their order and what they cost stay.

        Raises:
            DataError: it is not here, its texts are others, or its state is not what they say.
        """
        request, own = outcome.request, self.outcome(outcome.request)
        texts = [(each.attempt, each.text) for each in outcome.texts]
        if own is None or [(each.attempt, each.text) for each in own.texts] != texts:
            raise DataError(
                f"{self.path} holds no outcome with these texts for {request.subject} by {request.captioner}"
            )
        _check_state(outcome)
        with self._lock, self._transaction():
            self._write(outcome, self.content(request.subject) or "")

    def state(self, request: Request) -> State | None:
        """Return done, failed, or None where nothing is recorded."""
        row = self._row("SELECT state FROM requests WHERE subject = ? AND captioner = ? AND prompt = ?", request)
        found: State | None = None if row is None else row[0]
        return found

    def outcome(self, request: Request) -> Outcome | None:
        """Return what came of a request; None where nothing is recorded."""
        row = self._row(
            "SELECT state, tokens_in, tokens_out, error, id FROM requests "
            "WHERE subject = ? AND captioner = ? AND prompt = ?",
            request,
        )
        return None if row is None else self._outcome(request, row)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield all outcomes, by subject, captioner and prompt."""
        order = "SELECT subject, captioner, prompt FROM requests ORDER BY subject, captioner, prompt"
        for subject, captioner, prompt in self._rows(order):
            found = self.outcome(Request(subject=subject, captioner=captioner, prompt=prompt))
            if found is not None:
                yield found

    def content(self, subject: str) -> str | None:
        """Return what a subject stands for; None where the store does not know it."""
        with self._lock:
            row = self._connection.execute("SELECT content FROM subjects WHERE subject = ?", (subject,)).fetchone()
        return None if row is None else str(row[0])

    def accepted(self, subject: str) -> tuple[Caption, ...]:
        """Return the accepted captions of a subject, by captioner and prompt, in the order in which they came."""
        found = self._rows(
            "SELECT text, captioner, prompt FROM texts JOIN requests ON requests.id = texts.request "
            "WHERE subject = ? AND reasons = '[]' ORDER BY captioner, prompt, number",
            (subject,),
        )
        origin: Literal["rewrite", "llm"] = "rewrite" if subject.startswith("text:") else "llm"
        return tuple(
            Caption(text=text, origin=origin, model=captioner, prompt=prompt) for text, captioner, prompt in found
        )

    def counts(self) -> dict[str, int]:
        """Return how many requests are done and failed, texts accepted and refused, and tokens in and out."""
        states = dict(self._rows("SELECT state, count(*) FROM requests GROUP BY state"))
        texts = dict(self._rows("SELECT reasons = '[]', count(*) FROM texts GROUP BY 1"))
        tokens = self._rows("SELECT total(tokens_in), total(tokens_out) FROM requests")[0]
        return {
            "done": states.get("done", 0),
            "failed": states.get("failed", 0),
            "accepted": texts.get(1, 0),
            "refused": texts.get(0, 0),
            "tokens_in": int(tokens[0]),
            "tokens_out": int(tokens[1]),
        }

    def refusals(self) -> Counter[str]:
        """Return how many texts were refused by the code of each reason; one text may have several."""
        found: Counter[str] = Counter()
        for (reasons,) in self._rows("SELECT reasons FROM texts WHERE reasons != '[]'"):
            found.update(reason.split(":", 1)[0] for reason in json.loads(reasons))
        return found

    def digest(self) -> str:
        """Return the sha256 of all that packing takes: accepted captions by subject, captioner and prompt, in order."""
        digest = hashlib.sha256()
        rows = self._rows(
            "SELECT subject, captioner, prompt, text FROM texts JOIN requests ON requests.id = texts.request "
            "WHERE reasons = '[]' ORDER BY subject, captioner, prompt, number"
        )
        for row in rows:
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()

    def take(self, other: CaptionStore) -> Counter[str]:
        """Take up another store's outcomes: new ones, and done ones in place of failed ones.

        Of two done outcomes of one request that differ, the one that is here stays.

        Returns:
            Counts: taken, replaced (failed before), equal, kept (differing, and left as it is here).
        """
        counts: Counter[str] = Counter(taken=0, replaced=0, equal=0, kept=0)
        with self._lock, self._transaction():
            for outcome in other.outcomes():
                own = self.outcome(outcome.request)
                if own == outcome:
                    counts["equal"] += 1
                elif own is not None and (own.state == "done" or outcome.state == "failed"):
                    counts["kept"] += 1
                else:
                    counts["taken" if own is None else "replaced"] += 1
                    self._write(outcome, other.content(outcome.request.subject) or "")
        return counts

    def _write(self, outcome: Outcome, content: str) -> None:
        request = outcome.request
        key = (request.subject, request.captioner, request.prompt)
        execute = self._connection.execute
        execute("INSERT OR IGNORE INTO subjects VALUES (?, ?)", (request.subject, content))
        execute("DELETE FROM requests WHERE subject = ? AND captioner = ? AND prompt = ?", key)
        values = (*key, outcome.state, outcome.tokens_in, outcome.tokens_out, outcome.error)
        row = execute("INSERT INTO requests VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values).lastrowid
        rows = [
            (row, number, text.attempt, text.text, json.dumps(text.reasons))
            for number, text in enumerate(outcome.texts)
        ]
        self._connection.executemany("INSERT INTO texts VALUES (?, ?, ?, ?, ?)", rows)

    def _outcome(self, request: Request, row: Sequence[Any]) -> Outcome:
        state, tokens_in, tokens_out, error, number = row
        rows = self._rows("SELECT attempt, text, reasons FROM texts WHERE request = ? ORDER BY number", (number,))
        texts = [Attempt(attempt=attempt, text=text, reasons=tuple(json.loads(why))) for attempt, text, why in rows]
        return Outcome(
            request=request,
            state=state,
            texts=tuple(texts),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            error=error,
        )

    def _row(self, query: str, request: Request) -> Any:
        with self._lock:
            return self._connection.execute(query, (request.subject, request.captioner, request.prompt)).fetchone()

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise DataError(f"{self.path} is being written by another process: {error}; wait for it to end") from error
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _check_state(outcome: Outcome) -> None:
    if (outcome.state == "done") != any(not attempt.reasons for attempt in outcome.texts):
        raise DataError(f"{outcome.request.subject} is {outcome.state}; done means that one of its texts was accepted")


def merge(into: Path, stores: Sequence[Path]) -> dict[str, int]:
    """Take the outcomes of stores up into another, in the order given; see `CaptionStore.take` for the counts.

    Raises:
        DataError: one of them is no caption store, or is `into` itself.
    """
    counts: Counter[str] = Counter()
    with CaptionStore.open(into, "write") as target:
        for path in stores:
            if path.resolve() == into.resolve():
                raise DataError(f"{path} cannot be merged into itself; give other stores")
            with CaptionStore.open(path, "read") as source:
                counts.update(target.take(source))
    return dict(counts)
