"""What became of a gate's bars, as a table, as Markdown and as JUnit XML."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from clipmed.files import write_bytes, write_text
from zeroshot_eval.cells import Cells, bounds
from zeroshot_eval.gate import Check, GateResult
from zeroshot_eval.grid import number, signed
from zeroshot_eval.naming import metric_name


def gate_table(result: GateResult) -> Cells:
    """Return the checks as a table."""
    failed = sum(check.outcome == "fail" for check in result.checks)
    return Cells(
        title=f"{result.checkpoint}: {f'{failed} of {len(result.checks)} checks failed' if failed else 'passed'}",
        columns=("score", "metric", "bar", "value", "95 %", "outcome", "why"),
        rows=tuple(_row(check) for check in result.checks),
    )


def write_markdown(result: GateResult, path: Path) -> None:
    """Write the checks as Markdown, atomically."""
    write_text(path, gate_table(result).markdown())


def write_junit(result: GateResult, path: Path) -> None:
    """Write the checks as JUnit XML, atomically: a test case a check, those not judged as skipped."""
    counts = {outcome: sum(check.outcome == outcome for check in result.checks) for outcome in ("fail", "not judged")}
    suite = ET.Element(
        "testsuite",
        name=f"zeroshot_eval gate: {result.checkpoint}",
        tests=str(len(result.checks)),
        failures=str(counts["fail"]),
        errors="0",
        skipped=str(counts["not judged"]),
    )
    for check in result.checks:
        case = ET.SubElement(suite, "testcase", classname=f"gate.{check.kind.replace(' ', '_')}", name=check.name)
        if check.outcome != "pass":
            ET.SubElement(case, "failure" if check.outcome == "fail" else "skipped", message=check.detail)
    root = ET.Element("testsuites")
    root.append(suite)
    write_bytes(path, ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _row(check: Check) -> tuple[str, ...]:
    is_gain = check.kind == "no worse"
    value = "–" if check.value is None else signed(check.value) if is_gain else number(check.value)
    bar = f"gain ≥ {check.bar:g}" if is_gain else f"{'≥' if check.kind == 'min' else '≤'} {check.bar:g}"
    return (
        check.name,
        metric_name(check.metric) if check.metric else "–",
        bar,
        value,
        bounds(check.low, check.high, difference=is_gain),
        check.outcome,
        check.detail,
    )
