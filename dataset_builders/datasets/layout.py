"""How a provider lays a dataset out on disk, as data: where rows come from, and what their columns mean.

Every layout gives rows of named texts. Rows come from paths (each named part of a path pattern is a column), from
tables (CSV, TSV, JSON, JSON lines, Parquet, Excel, XML; several of them joined), or from arrays (npz, HDF5). What the
columns mean is said in one way for all of them: labels, split, group, modality, view, body part, licence, texts.

Columns that every row has: `path` (of the image, relative to the root, with /), `stem` (its name without folders and
ending) and `table` (the stem of the table or array file that the row is from; empty for path patterns).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clipmed.configuration import nearest
from clipmed.errors import ConfigError
from clipmed.records import Modality, Split

MODALITIES = tuple(str(modality) for modality in Modality)
SPLITS = tuple(str(split) for split in Split)
# What providers call the splits; a layout's split.values add to these and override them.
SPLIT_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NativeOrigin = Literal["figure", "subfigure", "mention", "report", "findings", "impression", "indication"]
TableFormat = Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "xlsx", "xml"]
FIELD = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of rows. Every cell is a text: numbers as they are written, null as the empty text."""

    file: str
    """path relative to the root; with * or ? every file that fits is read, in the order of names"""
    format: TableFormat = "auto"
    """auto: by the ending of the name"""
    delimiter: str = ","
    """csv: one character between cells"""
    encoding: Literal["utf-8", "latin-1", "utf-16"] = "utf-8"
    """csv, tsv: how the text is written; a byte-order mark is dropped"""
    header: tuple[str, ...] = ()
    """csv, tsv, xlsx: names of the columns, where the file has no line with them"""
    sheet: str = ""
    """xlsx: the sheet; the first if empty"""
    records: str = ""
    """json: the key below which the rows lie, with dots for nested ones; the top if empty. Rows are a list of objects,
    or an object of them or of lists of them, whose keys become the column `key`. Objects inside rows become columns
    such as meta.age"""
    rows: str = ""
    """xml: XPath of the elements that are rows"""
    columns: dict[str, str] = field(default_factory=dict)
    """xml: column: XPath from the row's element to a text, an attribute or elements, whose texts are joined"""
    values: dict[str, str] = field(default_factory=dict)
    """column: text, the same in all rows of this table, such as split: train"""

    def __post_init__(self) -> None:
        if not self.file:
            raise ConfigError("tables.file is missing; give the table's path relative to the root")
        if len(self.delimiter) != 1:
            raise ConfigError(f"tables.delimiter: got {self.delimiter!r}; allowed: one character")
        if len({self.format == "xml", bool(self.rows), bool(self.columns)}) > 1:
            raise ConfigError("tables.rows and tables.columns belong together, to the format xml and to no other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A table whose columns are added to the rows of the first ones."""

    table: Table
    """where the further columns are"""
    on: dict[str, str]
    """column of the rows so far: column of this table; equal texts in all of them belong together"""
    required: bool = True
    """reject rows that find nothing; otherwise they get empty cells"""

    def __post_init__(self) -> None:
        if not self.on:
            raise ConfigError("join.on: got nothing; allowed: column of the rows: column of the joined table")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """Images that lie in a file as one array, with arrays of labels beside it."""

    file: str
    """npz or HDF5 file, relative to the root"""
    images: str
    """the array of shape (N, H, W), (N, H, W, 3), or (N, D, H, W) for volumes, whose slices are images of one group"""
    labels: dict[str, str] = field(default_factory=dict)
    """column: array of N numbers, or of (N, K), which gives the columns <column>.0 to <column>.K-1"""
    labels_file: str = ""
    """the file with the label arrays, where it is another one"""
    values: dict[str, str] = field(default_factory=dict)
    """column: text, the same for all images of this array, such as split: train"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column and what its cells mean."""

    column: str
    """the column"""
    pattern: str = ""
    """regular expression to search in the cell; the value is what its groups capture, joined by /, or the empty text"""
    values: dict[str, str] = field(default_factory=dict)
    """value as the provider writes it: what it means; others stand for themselves"""
    otherwise: str = ""
    """the column to take where this one's cell is empty"""

    def __post_init__(self) -> None:
        if self.pattern:
            check_pattern(f"pattern of the column {self.column!r}", self.pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Where a task's classes are: in the cells of one column, or in a column a class."""

    column: str = ""
    """the column with the class, or with several of them"""
    pattern: str = ""
    """regular expression to search in the cell; the class is what its groups capture, joined by /, or the empty text"""
    values: dict[str, str] = field(default_factory=dict)
    """class as the provider writes it: class id, or the empty text for a cell that says nothing; others are ids"""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """class id: lowest and highest number of the cell that mean it, both included"""
    separator: str = "|"
    """what stands between the classes of a multi-label cell"""
    complete: bool = False
    """multi-label cells name every class that the image has: it is known not to have the others"""
    columns: dict[str, str] = field(default_factory=dict)
    """class id: the column that says whether the image has it"""
    present: tuple[str, ...] = ("1", "1.0", "true", "True", "TRUE", "yes", "Yes")
    """cells that say that it has"""
    absent: tuple[str, ...] = ("0", "0.0", "false", "False", "FALSE", "no", "No")
    """cells that say that it has not; all others, such as -1 and empty ones, say nothing"""

    def __post_init__(self) -> None:
        if bool(self.column) == bool(self.columns):
            raise ConfigError("labels: give either column or columns (class id: column)")
        if both := sorted(set(self.present) & set(self.absent)):
            raise ConfigError(f"labels: {both[0]!r} is in present and in absent; keep it in one")
        if self.pattern:
            check_pattern("labels.pattern", self.pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A native text of the image, of one origin."""

    origin: NativeOrigin
    """what kind of text it is"""
    column: str = ""
    """the column with the text, or with a list of texts in JSON"""
    file: str = ""
    """path of a text file below the root, with {column} for cells, such as reports/{study}.txt"""
    sections: tuple[str, ...] = ()
    """headings, in any case: only the text below one of them, up to the next heading, is taken; all of it if empty"""
    prefix: str = ""
    """words to put before the text, with {column} for cells, such as 'A fundus photograph of '"""

    def __post_init__(self) -> None:
        if bool(self.column) == bool(self.file):
            raise ConfigError("texts: give either column or file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where rows come from and what their columns mean. Exactly one of files, tables and arrays is given."""

    files: tuple[str, ...] = ()
    """path patterns below the root: '{split}/{label}/*.png'. {name} is a part of one folder or file name and becomes
    a column, * is any such part, ** any number of folders"""
    tables: tuple[Table, ...] = ()
    """tables with one row an image"""
    join: tuple[Join, ...] = ()
    """tables with further columns, added in this order"""
    derive: dict[str, Column] = field(default_factory=dict)
    """further columns, made of the ones so far, in this order; for image paths and labels to use"""
    image: str = ""
    """tables: path of the image, with {column} for cells; a * must fit exactly one file: 'images/{id}.*'"""
    image_bytes: str = ""
    """parquet tables: the column with the encoded image itself, or with an object that holds it as `bytes`"""
    arrays: tuple[Arrays, ...] = ()
    """arrays of images"""
    exclude: tuple[str, ...] = ()
    """files: paths to leave alone, as patterns such as '**/*_mask.png'"""
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """column: cells to take; rows with other cells are left alone, as no items of the dataset"""
    gather: bool = False
    """several rows speak of one image, such as one a lesion: their classes and texts are put together"""
    labels: dict[str, Labels] = field(default_factory=dict)
    """task: where its classes are"""
    texts: tuple[Text, ...] = ()
    """native captions and parts of reports"""
    details: dict[str, str] = field(default_factory=dict)
    """name: column; words that captions may state, such as plane, stain or sequence. Never of the patient"""
    provenance: tuple[str, ...] = ()
    """columns to keep with the sample as they are"""
    split: Column | None = None
    """the official split; usual names are known"""
    group: Column | None = None
    """what must not straddle splits, such as the patient or the slide; each file by itself if not given"""
    modality: Column | None = None
    """the modality, where the dataset mixes several"""
    view: Column | None = None
    """the view or plane, in words, such as frontal or axial"""
    body_part: Column | None = None
    """the body part, in words"""
    license: Column | None = None
    """each image's licence"""

    def __post_init__(self) -> None:
        given = [name for name in ("files", "tables", "arrays") if getattr(self, name)]
        if len(given) != 1:
            raise ConfigError(
                f"layout: got {' and '.join(given) or 'no source of rows'}; give one of files, tables, arrays"
            )
        if bool(self.image or self.image_bytes) != bool(self.tables) or (self.image and self.image_bytes):
            raise ConfigError("layout: tables need image or image_bytes, one of them; files and arrays need neither")
        if not self.labels and not self.texts:
            raise ConfigError("layout: neither labels nor texts; an image needs one of them to be captioned")
        for what, column, allowed in (("split", self.split, SPLITS), ("modality", self.modality, MODALITIES)):
            if column is not None:
                check_values(f"layout.{what}.values", column.values, allowed)

    def split_of(self, written: str) -> str | None:
        """Return the split that the provider's word means, or None."""
        own = self.split.values if self.split else {}
        return {**SPLIT_NAMES, **own}.get(written, SPLIT_NAMES.get(written.lower()))


def check_pattern(where: str, pattern: str) -> None:
    """Raise ConfigError unless the text is a regular expression that captures something."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ConfigError(f"{where}: {pattern!r} is no regular expression: {error}") from error
    if groups < 1:
        raise ConfigError(f"{where}: {pattern!r} captures nothing; put the part that is meant in parentheses")


def check_values(where: str, values: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless every value is an allowed one."""
    for value in values.values():
        if value not in allowed:
            raise ConfigError(f"{where}: got {value!r}{nearest(value, allowed)} Allowed: {', '.join(allowed)}")
