"""Labelled image datasets into spools, from a YAML catalogue entry and no code of their own."""

from dataset_builders.classification.build import build_classification
from dataset_builders.classification.entry import Entry, Layout, Task, load_entry, shipped_entries

__all__ = ["Entry", "Layout", "Task", "build_classification", "load_entry", "shipped_entries"]
