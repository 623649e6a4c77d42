"""Every command that measures time keeps the rows of each kind of CPU apart, and measures none of them twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_rows import INTEL

from benchmarks import cost, curves, max_drop, peers, plans, prediction, scaling
from benchmarks.engine import Timed
from benchmarks.results import plots, rows
from ndpass.report import Seconds
from ndpass.run import digits

SECONDS = Seconds(plan=1.0, total=2.0, stages={"planning": 1.0}).model_dump()  # as a report has them
RUN = {"refused": "", "speedup": 2.0, "spread": [1, 3], "drop": 0.5, "macs": [2, 1], "seconds": SECONDS}
SCALED = {"ratio": 1.0, "forward_s": 1.0, "peak_memory_bytes": 1, "seconds": SECONDS}
PREDICTED = {"rank_correlation": 1.0, "median_error": 0.1, "table_s": 1.0, "whole_ms": 1.0}


def recorded(row: rows.Row) -> Callable[..., rows.Row]:
    return lambda *_: dict(row)


@pytest.mark.parametrize(
    ("command", "name", "measured"),
    [
        (cost, "cost_quick", {"run_once": lambda _: (1.0, 100)}),
        (scaling, "scaling_quick", {"one": recorded(SCALED), "build": recorded({})}),
        (prediction, "prediction_quick", {"one": recorded(PREDICTED)}),
        (max_drop, "max_drop_digits_quick", {"one": recorded(RUN)}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("results")
def test_a_cpu_has_rows_of_its_own(
    command: Any, name: str, measured: dict[str, Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured on the first, once more, and twice on another."""
    monkeypatch.setattr(plots, "draw", lambda _: None)
    for function, instead in measured.items():
        monkeypatch.setattr(command, function, instead)
    monkeypatch.setattr("sys.argv", [name, "--quick"])
    counts = []
    for cpu in (rows.FIRST_CPU, rows.FIRST_CPU, INTEL, INTEL):
        monkeypatch.setattr(rows, "cpu", lambda cpu=cpu: cpu)
        command.main()
        counts.append(len(rows.read(name)))
    first, again, other, last = counts
    assert 0 < first == again
    assert 2 * first == other == last
    assert [rows.cpu_of(row) for row in rows.read(name)] == first * [rows.FIRST_CPU] + first * [INTEL]


def test_peers_and_curves_are_timed_on_each_cpu(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def times(models: list[Path], *_: object) -> list[Timed]:
        return [Timed([1.0], [2.0]) for _ in models]

    monkeypatch.setattr(peers, "time_models", times)
    monkeypatch.setattr(plans, "time_models", times)
    (results / "models" / "net").mkdir(parents=True)
    row = {"refused": "", "pipeline": "nd", "layers": [], "accuracy": 89.0, "drop": 1.0, "before": 90.0}
    rows.add("peers_net", {**row, "peer": "DAC", "setting": "s", "macs": [4, 3]})
    (results / "models" / "net" / "DAC_s.onnx").write_bytes(b"")
    given = [str(digits.model_path()), "--stage", "time", "--models", str(results / "models")]
    monkeypatch.setattr("sys.argv", ["peers", *given])
    args = peers.arguments()
    for cpu in (rows.FIRST_CPU, INTEL, INTEL):
        monkeypatch.setattr(rows, "cpu", lambda cpu=cpu: cpu)
        peers.measure(digits.model_path(), "net", args)
        curves.measure(digits.model_path(), "net", args)
    for name in ("peers_timed_net", "curves_timed_net"):
        assert [row["cpu"] for row in rows.read(name)] == [rows.FIRST_CPU, INTEL], name
