"""Datasets with labels, texts or both into spools, from a YAML catalogue entry and no code of their own."""

from dataset_builders.datasets.build import build_dataset
from dataset_builders.datasets.entry import Entry, Task, load_entry, shipped_entries
from dataset_builders.datasets.layout import Layout

__all__ = ["Entry", "Layout", "Task", "build_dataset", "load_entry", "shipped_entries"]
