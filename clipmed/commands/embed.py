"""Write embeddings of images or texts to a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipmed.commands.options import CheckpointOptions, Images, image_files
from clipmed.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Command(CheckpointOptions):
    """Write unit-length embeddings of images, or of texts, to a Parquet or NumPy file.

    A run that ends early, whatever the reason, goes on where it was when it is started again: what is done lies in
    FILE.partial/ until the file is written. The file is the same as that of a run without interruption.
    """

    images: Images = ()
    """image files, folders of them, or globs"""
    texts: Path | None = None
    """embed texts instead: a .txt file with one a line, or a column of a .csv or .parquet file"""
    column: str = "text"
    """the column of texts in a .csv or .parquet file"""
    out: Path
    """.parquet (needs clipmed[tables]), .npz, or .npy with FILE.json beside it; each names the checkpoint's digest"""
    batch_size: int = 64
    """items at a time; more of them need more memory, and are faster on a GPU"""
    on_error: Literal["stop", "skip"] = "stop"
    """what an image that cannot be read does: end the run, or become a line of FILE.rejects.jsonl"""
    stored: Literal["float32", "float16"] = "float32"
    """numbers in the file; float16 halves it, and rounds to about 0.0005"""
    save_every: int = 512
    """items after which what is done is saved; fewer where one takes seconds"""
    json: bool = False
    """print what was done as JSON"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.images) == (self.texts is not None):
            raise ConfigError(
                f"embed: got {len(self.images)} images and texts={self.texts}; allowed: images, or --texts FILE"
            )


def run(command: Command) -> None:
    """Embed the items, and print how many."""
    from clipmed.api import load
    from clipmed.commands.output import print_json
    from clipmed.embedding_jobs import EmbeddingJob, run_job

    texts = command.texts
    job = EmbeddingJob(
        items=[str(path) for path in image_files(command.images)]
        if texts is None
        else read_texts(texts, command.column),
        out=command.out,
        kind="images" if texts is None else "texts",
        batch_size=command.batch_size,
        on_error=command.on_error,
        dtype=command.stored,
        save_every=command.save_every,
    )
    model = load(command.checkpoint, command.device, dtype=command.dtype)
    report = run_job(model, job, progress=True)
    metadata = report.metadata
    if command.json:
        rejects = str(job.rejects_file) if metadata["rejected"] else None
        print_json({"out": str(job.out), "resumed": report.resumed, "rejects": rejects, **metadata})
        return
    print(f"{job.out}: {metadata['rows']} embeddings of {metadata['dimensions']} dimensions")
    if metadata["rejected"]:
        print(f"{job.rejects_file}: {metadata['rejected']} of {metadata['seen']} could not be used, with the reasons")


def read_texts(file: Path, column: str = "text") -> list[str]:
    """Return the texts of a file: the lines of a .txt, or a column of a .csv or .parquet.

    Raises:
        ConfigError: no such file, an unknown ending, or no such column.
        DataError: what cannot be read, or is no text.
    """
    endings = (".txt", ".csv", ".parquet")
    if file.suffix.lower() not in endings or not file.is_file():
        raise ConfigError(f"texts: got {file}; allowed: a file that is there and ends in {', '.join(endings)}")
    if file.suffix.lower() != ".txt":
        return _column(file, column)
    try:
        return file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}; give a whole file, texts in UTF-8") from error


def _column(file: Path, column: str) -> list[str]:
    from clipmed.tables import column_names, table_rows

    names = column_names(file)
    if column not in names:
        raise ConfigError(f"{file} has no column {column!r}; allowed for --column: {json.dumps(names)}")
    values = [row[column] for _, row in table_rows(file, [column])]
    if not all(value is None or isinstance(value, str) for value in values):
        raise DataError(f"{file}: the column {column!r} is no text; name another with --column")
    return [value or "" for value in values]
