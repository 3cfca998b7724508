"""The builder over a network that fails: nothing lost, nothing twice, every reject coded, the same bytes after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipmed.errors import DataError
from clipmed.jobs import JobsConfig
from dataset_builders.__main__ import main
from dataset_builders.pmc import PmcConfig, build_pmc
from dataset_builders.pmc.build import reopen_units
from dataset_builders.pmc.config import NetworkConfig
from shards.__main__ import main as shards
from shards.spool import read_spool, unit_path

from tests.dataset_builders.bucket_server import BucketServer, bucket_server, expected

REPOSITORY = Path(__file__).resolve().parents[2]
NETWORK = NetworkConfig(requests_per_s=5000, max_backoff_s=0.2, concurrency=16)
INLINE = JobsConfig(executor="inline")


def config_of(server: BucketServer, **settings: object) -> PmcConfig:
    defaults: dict[str, object] = {"root": server.url, "num_units": 8, "network": NETWORK}
    return PmcConfig(**(defaults | settings))  # type: ignore[arg-type]


def rows(out: Path, table: str) -> list[dict[str, object]]:
    units = range(read_spool(out).num_units)
    return [row for unit in units for row in pq.read_table(unit_path(out, unit) / f"{table}.parquet").to_pylist()]


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
