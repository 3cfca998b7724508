"""Gates of packing: which samples a set must not or shall not hold, each dropped for the first gate that it fails."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipmed.rejects import RejectReason, Stage
from shards.config import PackConfig

Mask = npt.NDArray[np.bool_]
Rejects = list[dict[str, str]]


def apply_gates(samples: pa.Table, hits: pa.Table, config: PackConfig) -> tuple[Mask, Rejects]:
    """Return which samples pass all gates, and the rejects of the others.

    Args:
        samples: columns of `shards.plan.PLAN_COLUMNS`.
        hits: samples of evaluation sets, in the columns of `shards.evidence.HITS`.
        config: what to keep.
    """
    passes = np.ones(len(samples), np.bool_)
    rejects: Rejects = []
    for fails, reason, details in _gates(samples, hits, config):
        dropped = np.flatnonzero(passes & fails)
        passes &= ~fails
        rows = samples.select(["source", "key"]).take(dropped).to_pylist()
        texts = details.take(dropped).to_pylist()
        rejects += [reject(row["source"], row["key"], reason, text) for row, text in zip(rows, texts, strict=True)]
    return passes, rejects


def reject(source: str, key: str, reason: RejectReason, detail: str) -> dict[str, str]:
    """Return a row of rejects.parquet for a sample that the plan drops."""
    return {"source": source, "item": key, "stage": str(Stage.PLAN), "reason": str(reason), "detail": detail}


def _gates(
    samples: pa.Table, hits: pa.Table, config: PackConfig
) -> Iterator[tuple[Mask, RejectReason, pa.ChunkedArray]]:
    """Yield each gate: who fails it, the reason code, and the detail of every sample."""
    allowed = ", ".join(config.license_groups)
    fails = ~_is_in(samples["license_group"], config.license_groups)
    details = pc.binary_join_element_wise(
        samples["license"], " is ", samples["license_group"], f"; allowed: {allowed}", ""
    )
    yield fails, RejectReason.LICENSE_NOT_ALLOWED, details
    place = pc.index_in(samples["key"], value_set=hits["key"].combine_chunks())
    yield np.asarray(pc.is_valid(place)), RejectReason.CONTAMINATED, hits["detail"].take(place)
    if config.parts == "figures":
        yield (
            np.asarray(samples["is_panel"]),
            RejectReason.KIND_NOT_KEPT,
            _same("a panel; allowed: whole figures", samples),
        )
    if config.parts == "panels":
        detail = _same("a whole figure whose panels are samples; allowed: panels", samples)
        yield np.asarray(samples["num_panels"]) > 0, RejectReason.KIND_NOT_KEPT, detail
    for name, reason, kept in (
        ("figure_kind", RejectReason.KIND_NOT_KEPT, config.figure_kinds),
        ("caption_language", RejectReason.LANGUAGE_NOT_KEPT, config.caption_languages),
    ):
        if kept:
            detail = pc.binary_join_element_wise(samples[name], f"; allowed: {', '.join(kept)}", "")
            yield ~_is_in(samples[name], ("", *kept)), reason, detail


def _is_in(column: pa.ChunkedArray, values: tuple[str, ...]) -> Mask:
    return np.asarray(pc.is_in(column, value_set=pa.array(values, pa.string())))


def _same(text: str, samples: pa.Table) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(text, len(samples))])
