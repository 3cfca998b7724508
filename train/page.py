"""run.html: one self-contained page that shows how a run goes, made from its folder alone and at any time.

Needs no network and no other file. Written whole or not at all, so that a reader never sees half of it.
"""

from __future__ import annotations

import base64
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipmed.files import write_text
from train import profile
from train.card import PHANTOM_PREFIX
from train.charts import MAX_LINES, Chart, DrawnChart, compact, draw
from train.history import CONFIG_FILE, RunHistory, RunStatus, read_history, write_status
from train.samples import StoredSheet, read_samples
from train.summary import settings_in_words
from train.tracking import Kind

PAGE_FILE = "run.html"
SLOW_DATA = 0.1
SCALE_LIMIT = 99.5
SHOWN_SKIPPED = 20
CHANCE = "chance"  # the name of curves that are drawn dashed


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A chart of the log: {name of the curve: (kind of row, key)}."""

    title: str
    curves: dict[str, tuple[Kind, str]]
    percent: bool = False
    from_zero: bool = True


def _recall_panel(k: int) -> Panel:
    curves: dict[str, tuple[Kind, str]] = {
        "image to text": ("validation", f"image_to_text_r{k}"),
        "text to image": ("validation", f"text_to_image_r{k}"),
        CHANCE: ("validation", f"image_to_text_chance_r{k}"),
    }
    return Panel(title=f"Validation retrieval, recall@{k}", curves=curves, percent=True)


PANELS = (
    Panel(title="Loss", curves={"training": ("train", "loss"), "validation": ("validation", "loss")}, from_zero=False),
    _recall_panel(1),
    _recall_panel(5),
    Panel(title="Learning rate", curves={"learning rate": ("train", "lr")}),
    Panel(title="Logit scale (1 / temperature)", curves={"logit scale": ("train", "logit_scale")}, from_zero=False),
    Panel(title="Gradient norm, before clipping", curves={"gradient norm": ("train", "grad_norm")}),
    Panel(title="Pairs a second", curves={"pairs a second": ("train", "pairs_per_s")}),
    Panel(
        title="Shares of time and of peak arithmetic",
        curves={"waiting for data": ("train", "data_wait"), "MFU": ("train", "mfu")},
        percent=True,
    ),
    Panel(title="Peak memory, GB", curves={"memory": ("train", "peak_memory_gb")}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One figure of the header."""

    name: str
    value: str
    note: str = ""
    bad: bool = False


def refresh_page(out: Path, status: RunStatus) -> None:
    """Write how the run stands, and the page. What goes wrong is warned of: a page never stops a run."""
    try:
        write_status(out, status)
        write_page(out)
    except Exception as error:  # noqa: BLE001 - the run is worth more than its page, whatever is wrong with that
        warnings.warn(f"{out / PAGE_FILE} could not be written: {type(error).__name__}: {error}", stacklevel=2)


def write_page(out: Path) -> Path:
    """Make run.html from the files of a run folder; return its path.

    Raises:
        ConfigError: `out` is not a run folder.
    """
    path = out / PAGE_FILE
    write_text(path, render_page(read_history(out)))
    return path


def render_page(history: RunHistory) -> str:
    """Return the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("run.html.j2")
    return template.render(
        history=history,
        config=history.config,
        name=history.out.resolve().name,
        written=datetime.now(UTC),
        phantom=any(source.startswith(PHANTOM_PREFIX) for source in history.sources),
        tiles=_tiles(history),
        alerts=_alerts(history),
        settings=settings_in_words(history.config, history.status.facts),
        validation=_validation(history),
        scores=_scores(history),
        reports=[row["step"] for row in history.scores if (history.out / _report(row["step"])).exists()],
        report_of=_report,
        charts=_charts(history),
        mixture=_mixture(history),
        source_charts=_source_charts(history),
        sheets=[_sheet(sheet) for sheet in read_samples(history.out)],
        skipped=_skipped(history),
        checkpoints=_checkpoints(history),
        operators=_text(history.out / profile.FOLDER / profile.OPERATORS_FILE),
        config_text=_text(history.out / CONFIG_FILE),
    )


def duration(seconds: float) -> str:
    """Return a time as a reader says it: 41 s, 12 min, 3 h 20 min, 2 d 5 h."""
    for unit, below, size, smaller in (("d", "h", 86400, 3600), ("h", "min", 3600, 60)):
        whole, rest = divmod(round(seconds), size)
        if whole:
            return f"{whole} {unit} {rest // smaller} {below}"
    return f"{round(seconds / 60)} min" if seconds >= 120 else f"{round(seconds)} s"


def _tiles(history: RunHistory) -> list[Tile]:
    tiles = [_time_tile(history), *_quality_tiles(history)]
    rate, tokens = history.recent("pairs_per_s"), history.recent("tokens_per_s")
    if rate is not None:
        tiles.append(Tile(name="pairs a second", value=f"{rate:,.0f}", note=_noted(tokens, "{} tokens a second")))
    mfu, wait, memory = (history.recent(name) for name in ("mfu", "data_wait", "peak_memory_gb"))
    if mfu is not None:
        tiles.append(Tile(name="MFU", value=f"{mfu:.0%}", note="of the peak arithmetic"))
    if wait is not None:
        tiles.append(Tile(name="data wait", value=f"{wait:.1%}", note="of the time", bad=wait > SLOW_DATA))
    if memory is not None:
        tiles.append(Tile(name="peak memory", value=f"{memory:.1f} GB", note="of one process"))
    return tiles


def _time_tile(history: RunHistory) -> Tile:
    trained, left = history.seconds_trained(), history.seconds_left()
    if history.status.state == "running" and left is not None:
        return Tile(name="time left", value=duration(left), note=f"trained for {duration(trained)}")
    return Tile(name="trained for", value=duration(trained), note="steps alone")


def _quality_tiles(history: RunHistory) -> list[Tile]:
    tiles = []
    loss, scale = history.recent("loss"), history.recent("logit_scale")
    last = history.validation[-1] if history.validation else {}
    if loss is not None:
        tiles.append(Tile(name="loss", value=f"{loss:.3f}", note=_noted(last.get("loss"), "validation {}")))
    recall = last.get("image_to_text_r5")
    if recall is not None:
        chance = last.get("image_to_text_chance_r5")
        tiles.append(Tile(name="image to text, recall@5", value=f"{recall:.1%}", note=_chance_note(chance)))
    if scale is not None:
        tiles.append(Tile(name="logit scale", value=f"{scale:.1f}", note=_temperature_note(scale)))
    return tiles


def _chance_note(chance: float | None) -> str:
    return "" if chance is None else f"chance {chance:.1%}"


def _temperature_note(scale: float) -> str:
    return f"temperature {1 / scale:.3f}"


def _noted(value: float | None, pattern: str) -> str:
    return "" if value is None else pattern.format(compact(value, 3))


def _alerts(history: RunHistory) -> list[str]:
    """Return what a reader should act on."""
    alerts = []
    wait, scale = history.recent("data_wait"), history.recent("logit_scale")
    if wait is not None and wait > SLOW_DATA:
        alerts.append(
            f"Training waits for data {wait:.0%} of the time. More loader processes (data.workers, now "
            f"{history.config.data.workers}) or smaller stored images would make it faster."
        )
    if scale is not None and scale >= SCALE_LIMIT:
        alerts.append("The logit scale has reached its limit of 100: the temperature no longer learns.")
    steps = history.train[-1].get("skipped_steps") if history.train else None
    if steps:
        alerts.append(f"{steps:,.0f} steps changed nothing, since the guard or the loss scaler skipped them.")
    failed = [f"{row['step']:,}" for row in history.scores if row.get("failed")]
    if failed:
        alerts.append(f"The zero-shot scores of step {', '.join(failed)} failed: see scores/step_…/log.txt.")
    if history.skipped:
        alerts.append(f"{len(history.skipped)} samples could not be read and were replaced: see below.")
    return alerts


def _validation(history: RunHistory) -> list[dict[str, Any]]:
    """Return each measure of the last validation with its chance level and its best step."""
    if not history.validation:
        return []
    last = history.validation[-1]
    rows = []
    for name in last:
        if name in {"kind", "step", "samples"} or "_chance_" in name:
            continue
        points = history.points("validation", name)
        if not points:
            continue
        pick = min if name == "loss" else max
        best_step, best = pick(points, key=lambda point: point[1])
        chance = last.get(name.replace("_r", "_chance_r")) if name != "loss" else None
        shown = {"name": name.replace("_", " "), "value": last[name], "chance": chance}
        rows.append(shown | {"best": best, "best_step": best_step})
    return rows


def _scores(history: RunHistory) -> list[dict[str, Any]]:
    """Return each zero-shot score with its newest and its best value."""
    names = dict.fromkeys(name for row in history.scores for name in row if name not in {"kind", "step", "failed"})
    rows = []
    for name in names:
        points = history.points("scores", name)
        if points:
            best_step, best = max(points, key=lambda point: point[1])
            step, value = points[-1]
            rows.append({"name": name, "value": value, "step": step, "best": best, "best_step": best_step})
    return rows


def _report(step: int) -> str:
    """Return where the report of a step's scores lies in the run folder."""
    return f"scores/step_{step:08d}/report.html"


def _charts(history: RunHistory) -> list[DrawnChart]:
    charts = [
        Chart(
            title=panel.title,
            lines={name: history.points(kind, key) for name, (kind, key) in panel.curves.items()},
            dashed=frozenset({CHANCE}),
            percent=panel.percent,
            from_zero=panel.from_zero,
        )
        for panel in PANELS
    ]
    names = [row["name"] for row in _scores(history)][:MAX_LINES]
    charts.append(Chart(title="Zero-shot scores", lines={name: history.points("scores", name) for name in names}))
    return _drawn(charts)


def _mixture(history: RunHistory) -> list[dict[str, Any]]:
    """Return each source with its planned and its realised share and its recent loss."""
    facts = history.status.facts
    return [
        {
            "source": source,
            "asked": facts.shares.get(source) if facts else None,
            "realised": history.realised_share(source),
            "loss": history.recent(f"loss/{source}"),
        }
        for source in history.sources
    ]


def _source_charts(history: RunHistory) -> list[DrawnChart]:
    """Return loss and share of the sources that are seen most, over the steps."""
    shown = history.sources[:MAX_LINES]
    note = (
        f"The {MAX_LINES} most frequent of {len(history.sources)} sources." if len(history.sources) > MAX_LINES else ""
    )
    return _drawn(
        [
            Chart(
                title="Loss by source",
                lines={source: history.points("train", f"loss/{source}") for source in shown},
                note=note,
            ),
            Chart(
                title="Share of the batches by source",
                lines={source: history.points("train", f"share/{source}") for source in shown},
                percent=True,
                from_zero=True,
                note=note,
            ),
        ]
    )


def _drawn(charts: list[Chart]) -> list[DrawnChart]:
    """Draw the charts that have points, without the curves that have none."""
    drawn = []
    for chart in charts:
        lines = {name: points for name, points in chart.lines.items() if points}
        if lines:
            drawn.append(draw(replace(chart, lines=lines)))
    return drawn


def _sheet(sheet: StoredSheet) -> dict[str, Any]:
    """Return a sheet for the page: one picture, of which every tile shows its own part."""
    columns = sheet.columns
    rows = -(-len(sheet.samples) // columns)
    return {
        "step": sheet.step,
        "image": base64.b64encode(sheet.jpeg).decode("ascii"),
        "size": f"{100 * columns}% {100 * rows}%",
        "coarse": sheet.tile_side < 112,
        "tiles": [
            {"place": f"{_share(number % columns, columns)} {_share(number // columns, rows)}", "sample": sample}
            for number, sample in enumerate(sheet.samples)
        ],
    }


def _share(number: int, count: int) -> str:
    return f"{100 * number / (count - 1):.4g}%" if count > 1 else "0%"


def _skipped(history: RunHistory) -> dict[str, Any]:
    reasons = Counter(str(row.get("reason", "unknown")) for row in history.skipped)
    return {
        "total": len(history.skipped),
        "reasons": reasons.most_common(),
        "newest": list(reversed(history.skipped[-SHOWN_SKIPPED:])),
    }


def _checkpoints(history: RunHistory) -> list[dict[str, Any]]:
    by_step: Mapping[int, dict[str, Any]] = {row["step"]: row for row in history.validation}
    metric = history.config.checkpoint.best_metric or "image_to_text_r5"
    return [
        {
            "entry": entry,
            "size": f"{entry.size / 1e6:,.1f} MB",
            "loss": by_step.get(entry.step, {}).get("loss"),
            "metric": by_step.get(entry.step, {}).get(metric),
            "metric_name": metric.replace("_", " "),
        }
        for entry in reversed(history.checkpoints)
    ]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
