"""Data pipelines side by side on one core: ours and OpenCLIP's default, from shard to normalised pixels and tokens.

usage: python -m benchmarks.loader --setup     create the peer's environment (some 5 GB under build/peers), then run
       python -m benchmarks.loader [--rounds 3] [--samples 1024]

512-pixel JPEGs to 224: decode, random crop (nine tenths, as OpenCLIP's default), mirroring (ours only), normalisation,
and tokens of a caption. Rounds alternate; the ratio is of median CPU times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.pairs import make_set
from benchmarks.peers import python_of, set_up

FOLDER = Path("build/benchmarks/loader")
SAMPLES, SIDE = 1000, 512


def main() -> None:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="create the peer's environment first")
    parser.add_argument("--rounds", type=int, default=3, help="how often each pipeline runs")
    parser.add_argument("--samples", type=int, default=1024, help="samples of a run")
    options = parser.parse_args()
    peer = set_up("open_clip") if options.setup else python_of("open_clip")
    data = make_set(FOLDER, SAMPLES, SIDE)
    pythons = {"clipmed": sys.executable, "open_clip": str(peer.absolute())}
    times: dict[str, list[float]] = {name: [] for name in pythons}
    for number in range(options.rounds):
        for name, python in pythons.items():
            row = _run(python, name, data, options.samples)
            times[name].append(row["cpu_ms"])
            print(f"round {number + 1}, {name}: {row['cpu_ms']:.2f} ms CPU, {row['wall_ms']:.2f} ms wall a sample")
    ours, peers = (statistics.median(times[name]) for name in ("clipmed", "open_clip"))
    print(f"median: clipmed {1000 / ours:.0f} samples/s a core, open_clip {1000 / peers:.0f}")
    figures = {"name": "loader", "cpu_ms": ours, "open_clip_cpu_ms": peers, "ratio_vs_open_clip": peers / ours}
    print(json.dumps(figures))


def _run(python: str, name: str, data: Path, samples: int) -> dict[str, float]:
    command = [
        python,
        "-P",
        str(Path(__file__).with_name("loader_driver.py")),
        name,
        str(data.absolute()),
        str(samples),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    row: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
