"""The builder over a network that fails: nothing lost, nothing twice, every reject coded, same bytes after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipmed.configuration import save_yaml
from clipmed.errors import DataError
from clipmed.jobs import JobsConfig
from dataset_builders.__main__ import main
from dataset_builders.pmc import PmcConfig, build_pmc
from dataset_builders.pmc.build import reopen_units
from dataset_builders.pmc.config import NetworkConfig
from shards.__main__ import main as shards
from shards.spool import read_spool, unit_path
from tests.dataset_builders.bucket_articles import DATES, FIRST_NUMBER, PLANTED, expected
from tests.dataset_builders.bucket_server import BucketServer, bucket_server

REPOSITORY = Path(__file__).resolve().parents[2]
NETWORK = NetworkConfig(requests_per_s=5000, max_backoff_s=0.02, concurrency=16)
INLINE = JobsConfig(executor="inline")


def config_of(server: BucketServer, **settings: object) -> PmcConfig:
    defaults: dict[str, object] = {"root": server.url, "num_units": 8, "network": NETWORK}
    return PmcConfig(**(defaults | settings))  # type: ignore[arg-type]


def rows(out: Path, table: str) -> list[dict[str, object]]:
    units = range(read_spool(out).num_units)
    return [row for unit in units for row in pq.read_table(unit_path(out, unit) / f"{table}.parquet").to_pylist()]


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def pinned(server: BucketServer, folder: Path, date: str = DATES[1]) -> Path:
    """Take a snapshot of one of the server's inventories."""
    path = folder / f"{date}.parquet"
    if not path.exists():
        assert main(["pmc", "snapshot", server.url, "--out", str(path), "--date", date]) == 0
    return path


def assert_as_expected(counts: dict[str, object], out: Path, num_articles: int) -> None:
    """Nothing lost, nothing twice, every reject coded, and counts that add up."""
    wanted = expected(num_articles)
    assert counts["rejects_by_reason"] == dict(sorted(wanted.rejects.items()))
    assert counts["samples"] == wanted.samples
    assert counts["seen"] == wanted.samples + sum(wanted.rejects.values())
    assert counts["counters"]["articles"] == wanted.versions  # type: ignore[index]
    assert counts["counters"]["figures"] == wanted.figures  # type: ignore[index]
    keys = [str(row["key"]) for row in rows(out, "samples")]
    assert len(keys) == len(set(keys)) == wanted.samples
    items = [str(row["item"]) for row in rows(out, "rejects")]
    assert len(items) == len(set(items)) == sum(wanted.rejects.values())


@pytest.mark.slow
def test_ten_thousand_articles_through_a_failing_server(tmp_path: Path):
    with bucket_server(10_000, share=0.3) as server:
        snapshot = pinned(server, tmp_path)
        server.reset()
        jobs = JobsConfig(executor="processes", workers=2)
        counts = build_pmc(config_of(server, snapshot=snapshot, num_units=32), tmp_path / "out", jobs)
        assert_as_expected(counts, tmp_path / "out", 10_000)
        wanted = expected(10_000)
        assert set(server.asked()) == wanted.needed, "nothing is fetched that is not needed"
        assert {key for key, times in server.given().items() if times > 1} == wanted.repeated, (
            "nothing is fetched twice"
        )
    assert shards(["pack", str(tmp_path / "out"), "--out", str(tmp_path / "set"), "--jobs.executor", "inline"]) == 0
    assert shards(["verify", str(tmp_path / "set")]) == 0
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    seen = sum(row["count"] for row in manifest["attrition"] if row["reason"] == "items_seen")
    assert seen == counts["seen"] == manifest["counts"]["samples"] + manifest["counts"]["rejects"]


def test_faults_and_processes_change_no_byte(tmp_path: Path):
    with bucket_server(100) as calm:
        build_pmc(config_of(calm, snapshot=pinned(calm, tmp_path)), tmp_path / "calm", INLINE)
    with bucket_server(100, share=0.5) as stormy:
        config = config_of(stormy, snapshot=tmp_path / f"{DATES[1]}.parquet")
        build_pmc(config, tmp_path / "stormy", JobsConfig(executor="processes", workers=2))
    assert files_of(tmp_path / "calm") == files_of(tmp_path / "stormy")


def test_a_build_from_s3_pins_the_latest_inventory_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with bucket_server(100, share=0.2) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        counts = build_pmc(config_of(server, root=server.s3_url), tmp_path / "out", INLINE)
        assert_as_expected(counts, tmp_path / "out", 100)
        inventories = sum(times for key, times in server.asked().items() if key.startswith("inventory-reports"))
        again = build_pmc(config_of(server, root=server.s3_url), tmp_path / "out", INLINE)
        asked = sum(times for key, times in server.asked().items() if key.startswith("inventory-reports"))
    assert again == counts
    assert asked == inventories, "a spool that was begun is pinned to its own listing"


def test_killed_over_the_network_resumes_to_the_same_spool_and_shards(tmp_path: Path):
    with bucket_server(400, share=0.3) as server:
        config = config_of(server, snapshot=pinned(server, tmp_path), num_units=16)
        save_yaml(config, tmp_path / "config.yaml")
        code = (
            "import sys; from pathlib import Path; from clipmed.jobs import JobsConfig\n"
            "from clipmed.configuration import load_yaml\n"
            "from dataset_builders.pmc import PmcConfig, build_pmc\n"
            "if __name__ == '__main__':\n"
            "    build_pmc(load_yaml(PmcConfig, Path(sys.argv[1])), Path(sys.argv[2]), JobsConfig(executor='inline'))\n"
        )
        killed = tmp_path / "killed"
        command = [sys.executable, "-c", code, str(tmp_path / "config.yaml"), str(killed)]
        for wanted in (2, 7):  # killed twice, each time while a unit is under way
            process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
            wait_for(lambda: unit_count(killed) >= wanted, process)  # noqa: B023
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert unit_count(killed) < 16
        build_pmc(config, killed, INLINE)
        build_pmc(config, tmp_path / "whole", INLINE)
    assert files_of(killed) == files_of(tmp_path / "whole")
    for name in ("killed", "whole"):
        packed = ["pack", str(tmp_path / name), "--out", str(tmp_path / f"{name}-set"), "--jobs.executor", "inline"]
        assert shards(packed) == 0
    assert files_of(tmp_path / "killed-set") == files_of(tmp_path / "whole-set")


def unit_count(out: Path) -> int:
    return len(list(out.glob("unit-*")))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_dead_server_ends_the_build_and_loses_nothing(tmp_path: Path):
    with bucket_server(100) as server:
        config = config_of(server, snapshot=pinned(server, tmp_path), num_units=2)
    impatient = replace(config, network=replace(NETWORK, retries=1, stop_after_unreachable=5))
    with pytest.raises(DataError, match=r"5 articles in a row cannot be reached.*run the same command again"):
        build_pmc(impatient, tmp_path / "out", INLINE)
    assert unit_count(tmp_path / "out") == 0
    with bucket_server(100) as server:
        counts = build_pmc(replace(config, root=server.url), tmp_path / "out", INLINE)
    assert_as_expected(counts, tmp_path / "out", 100)


def test_retry_builds_units_again_in_which_the_server_failed(tmp_path: Path):
    with bucket_server(100) as server:
        build_pmc(config_of(server, snapshot=pinned(server, tmp_path)), tmp_path / "whole", INLINE)
        snapshot = tmp_path / f"{DATES[1]}.parquet"
        wanted = json.loads(str(rows(tmp_path / "whole", "samples")[0]["provenance"]))
        key = f"{wanted['pmcid']}.{wanted['version']}/{wanted['media']}"
    with bucket_server(100, lasting={key: "500"}) as broken:
        config = config_of(broken, snapshot=snapshot, network=replace(NETWORK, retries=2))
        counts = build_pmc(config, tmp_path / "out", INLINE)
    assert counts["rejects_by_reason"]["source_unreachable"] == expected(100).rejects["source_unreachable"] + 1  # type: ignore[index]
    assert reopen_units(tmp_path / "out")
    with bucket_server(100) as mended:
        build_pmc(config_of(mended, snapshot=snapshot), tmp_path / "out", INLINE)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_mirror_gives_the_next_build_all_but_what_changed(tmp_path: Path):
    with bucket_server(100) as server:
        old, new = pinned(server, tmp_path, DATES[0]), pinned(server, tmp_path, DATES[1])
        assert main(["pmc", "delta", str(old), str(new), "--out", str(tmp_path / "delta")]) == 0
        found = json.loads((tmp_path / "delta" / "delta.json").read_text())["articles"]
        assert found["added"] + found["changed"] > 0
        mirrored = {"mirror": tmp_path / "mirror"}
        build_pmc(config_of(server, snapshot=old, **mirrored), tmp_path / "old", INLINE)
        server.reset()
        build_pmc(config_of(server, snapshot=new, **mirrored), tmp_path / "new", INLINE)
        asked = {key.partition("/")[0] for key in server.asked() if not key.startswith("metadata")}
        build_pmc(config_of(server, snapshot=new), tmp_path / "fresh", INLINE)
    listed = [(tmp_path / "delta" / f"{name}.txt").read_text().split() for name in ("added", "changed")]
    never_whole = {
        "metadata_absent",
        "media_absent",
        "media_wrong_bytes",
        "media_unreachable",
        "xml_page",
        "xml_absent",
    }
    failing = {f"PMC{FIRST_NUMBER + index}" for index, defect in PLANTED.items() if defect in never_whole}
    assert {name.partition(".")[0] for name in asked} <= {*listed[0], *listed[1], *failing}
    assert files_of(tmp_path / "new") == files_of(tmp_path / "fresh")


def test_a_filled_mirror_builds_without_a_network(tmp_path: Path):
    with bucket_server(100, share=0.2) as server:
        snapshot = pinned(server, tmp_path)
        root = ["--root", server.url, "--snapshot", str(snapshot), "--num-units", "4"]
        fast = ["--network.requests-per-s", "5000", "--network.max-backoff-s", "0.02", "--jobs.executor", "inline"]
        assert main(["pmc", "mirror", *root, *fast, "--mirror", str(tmp_path / "mirror")]) == 0
        whole = build_pmc(config_of(server, snapshot=snapshot), tmp_path / "online", INLINE)
    offline = PmcConfig(root=str(tmp_path / "mirror"), snapshot=snapshot, num_units=8)
    counts = build_pmc(offline, tmp_path / "offline", INLINE)
    assert counts["samples"] == whole["samples"]
    online = {row["key"]: row["sha256"] for row in rows(tmp_path / "online", "samples")}
    assert {row["key"]: row["sha256"] for row in rows(tmp_path / "offline", "samples")} == online
