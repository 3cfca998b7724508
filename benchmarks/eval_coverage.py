"""How often 95 % bootstrap intervals cover the truth: a simulation with clustered groups.

usage: python -m benchmarks.eval_coverage [--sets 2000] [--samples 500] [--workers 2]

Every simulated data set draws groups (patients) of 1 to 8 images, 3 on average; images of a group share their class and
half of the variance of their scores. Its intervals are those of `zeroshot_eval.bootstrap`. Scenarios:

  two, four, hard   2 classes, 4 classes and 4 classes hardly told apart, equally frequent
  easy              2 classes that are nearly always told apart: intervals at the end of the scale
  rare              4 classes, the rarest of which has a tenth of the groups: 4 of 40
  retrieval         one caption an image; recall@5 from images to texts, ties and all

The truth is the value in the population: of two million images for classification; for retrieval, which depends on the
size of the gallery, the mean over 4,000 data sets of that size. Prints a table, coverage with its Monte-Carlo error,
and ends with one line of JSON; saves it as benchmarks/results/eval_coverage.json. `outside` are scenarios where
intervals are known not to hold.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from clipmed.files import write_json
from zeroshot_eval.bootstrap import BootstrapConfig, bootstrap, interval
from zeroshot_eval.classification import classification_statistic
from zeroshot_eval.retrieval import Pairs, rank_pairs, retrieval_statistic

Statistic = Callable[[npt.NDArray[np.float64]], dict[str, npt.NDArray[np.float64]]]

RESULTS = Path("benchmarks/results/eval_coverage.json")
GROUPS = (40, 60, 100, 400)
# Where intervals need more groups than 40: a ranking that is hardly ever wrong. Below that, coverage is given apart.
FEWEST_GROUPS = {"easy/auroc": 100}
METRICS = ("accuracy", "balanced_accuracy", "auroc")
LEVEL = 0.95
LOGIT_SCALE = 1.0
SHARED = 0.5  # share of the variance of scores that images of a group have in common
POPULATION_GROUPS = 700_000
GALLERIES = 4_000  # data sets whose mean is the truth of retrieval
BLOCK_SETS = 50  # data sets that a process simulates at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`shares` of the classes among groups, `signal` how far the right one's score is raised, in standard deviations.

    Without shares it is retrieval, and `signal` is the weight of what an image and its caption have in common.
    """

    name: str
    shares: tuple[float, ...] = ()
    signal: float


SCENARIOS = (
    Scenario(name="two", shares=(0.5, 0.5), signal=1.2),
    Scenario(name="four", shares=(0.25, 0.25, 0.25, 0.25), signal=1.2),
    Scenario(name="hard", shares=(0.25, 0.25, 0.25, 0.25), signal=0.3),
    Scenario(name="easy", shares=(0.5, 0.5), signal=2.0),
    Scenario(name="rare", shares=(0.4, 0.3, 0.2, 0.1), signal=1.2),
    Scenario(name="retrieval", signal=0.6),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some data sets of a scenario, simulated by one process."""

    scenario: Scenario
    groups: int
    truth: dict[str, float]
    seeds: range
    samples: int


def main() -> None:
    """Simulate; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000, help="data sets of each scenario and number of groups")
    parser.add_argument("--samples", type=int, default=500, help="resamples of each interval")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    coverage: dict[str, float] = {}
    with ProcessPoolExecutor(options.workers) as pool:
        for scenario in SCENARIOS:
            found = _scenario_coverage(scenario, options, pool)
            for name, value in found.items():
                told = "" if _is_claimed(name) else "   outside of the range where intervals hold"
                print(f"{name:36} {value:.3f} ± {_error(value, options.sets):.3f}{told}", flush=True)
            coverage |= found
    outside = {name: value for name, value in coverage.items() if not _is_claimed(name)}
    claimed = {name: value for name, value in coverage.items() if name not in outside}
    result = {
        "name": "eval_coverage",
        "coverage": claimed,
        "least": min(claimed.values()),
        "most": max(claimed.values()),
        "outside": outside,
        "sets": options.sets,
        "monte_carlo_error": _error(LEVEL, options.sets),
    }
    write_json(options.out, result)
    print(json.dumps(result))


def _scenario_coverage(scenario: Scenario, options: argparse.Namespace, pool: ProcessPoolExecutor) -> dict[str, float]:
    found: dict[str, float] = {}
    population = population_values(scenario) if scenario.shares else {}
    for groups in GROUPS:
        truth = population or mean_recall(scenario, groups, pool)
        blocks = [
            Block(scenario=scenario, groups=groups, truth=truth, seeds=seeds, samples=options.samples)
            for seeds in _blocks(options.sets)
        ]
        bar = tqdm(pool.map(hits, blocks), f"{scenario.name}, {groups} groups", len(blocks), leave=False)
        counts = list(bar)
        for metric in truth:
            found[f"{scenario.name}/{metric}/{groups}"] = sum(count[metric] for count in counts) / options.sets
    return found


def population_values(scenario: Scenario) -> dict[str, float]:
    """Return what intervals of classification are to cover, by metric."""
    return _values(*simulate(scenario, POPULATION_GROUPS, np.random.default_rng(0)))


def mean_recall(scenario: Scenario, groups: int, pool: ProcessPoolExecutor) -> dict[str, float]:
    """Return what intervals of retrieval are to cover: the mean over galleries of this size."""
    blocks = _blocks(GALLERIES)
    parts = pool.map(_mean_recall, [scenario] * len(blocks), [groups] * len(blocks), blocks)
    return {"recall@5": float(np.mean(list(parts)))}


def hits(block: Block) -> dict[str, int]:
    """Return in how many data sets of a block the interval covers the truth, by metric."""
    counts = dict.fromkeys(block.truth, 0)
    for seed in block.seeds:
        names, statistic = simulate(block.scenario, block.groups, np.random.default_rng([1, block.groups, seed]))
        replicates = bootstrap(statistic, names, BootstrapConfig(samples=block.samples, seed=seed, level=LEVEL))
        for metric, value in block.truth.items():
            bounds = interval(replicates[metric], LEVEL)
            counts[metric] += bounds is not None and bounds[0] <= value <= bounds[1]
    return counts


def simulate(scenario: Scenario, num_groups: int, rng: np.random.Generator) -> tuple[list[str], Statistic]:
    """Return the group of each image of one data set, and the statistic of its metrics."""
    group = np.repeat(np.arange(num_groups), np.minimum(1 + rng.poisson(2, num_groups), 8))
    names = [str(number) for number in group.tolist()]
    if not scenario.shares:
        return names, _retrieval(scenario.signal, group, rng)
    num_classes = len(scenario.shares)
    target = rng.choice(num_classes, num_groups, p=scenario.shares)[group]
    shared = rng.normal(scale=SHARED**0.5, size=(num_groups, num_classes))[group]
    scores = shared + rng.normal(scale=(1 - SHARED) ** 0.5, size=shared.shape)
    scores[np.arange(len(target)), target] += scenario.signal
    statistic = classification_statistic(target, scores.astype(np.float32), LOGIT_SCALE, only=METRICS)
    return names, statistic


def _retrieval(signal: float, group: npt.NDArray[np.int64], rng: np.random.Generator) -> Statistic:
    """Images and captions of a group share a part of what they say."""
    subject = rng.normal(size=(int(group.max()) + 1, 16))[group] + rng.normal(size=(len(group), 16))
    images, captions = (signal * subject + rng.normal(size=subject.shape) for _ in range(2))
    units = [(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32) for rows in (images, captions)]
    ranks = rank_pairs(Pairs(units[0], units[1], np.arange(len(group)), None))["image_to_text"]
    return retrieval_statistic(ranks, (5,))


def _mean_recall(scenario: Scenario, groups: int, seeds: range) -> float:
    sets = (simulate(scenario, groups, np.random.default_rng([2, groups, seed])) for seed in seeds)
    return float(np.mean([_values(*data)["recall@5"] for data in sets]))


def _values(names: Sequence[str], statistic: Statistic) -> dict[str, float]:
    wanted = {*METRICS, "recall@5"}
    found = statistic(np.ones((1, len(names))))
    return {metric: float(value[0]) for metric, value in found.items() if metric in wanted}


def _blocks(count: int) -> list[range]:
    return [range(start, min(start + BLOCK_SETS, count)) for start in range(0, count, BLOCK_SETS)]


def _is_claimed(name: str) -> bool:
    """Return whether intervals are said to hold for scenario/metric/groups."""
    what, groups = name.rsplit("/", 1)
    return int(groups) >= FEWEST_GROUPS.get(what, 0)


def _error(value: float, sets: int) -> float:
    return float((value * (1 - value) / sets) ** 0.5)


if __name__ == "__main__":
    main()
