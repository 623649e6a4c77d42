"""Rows are known by their key and their CPU, and say where they come from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmark_rows import INTEL

from benchmarks.results import rows
from ndpass.measuring.environment import environment


def test_rows_are_known_by_their_key_and_the_last_ones_count(results: Path) -> None:
    """Rows from before seeds were written had seed 0."""
    old = {"model": "a", "ms": 1}
    (results / "some.json").write_text(json.dumps([old]))
    rows.add("some", {"model": "a", "seed": 1, "ms": 2}, {"model": "a", "seed": 0, "ms": 3})
    assert [row["ms"] for row in rows.known("some", {"model": "a", "seed": 0})] == [1, 3]
    assert [row["ms"] for row in rows.latest(rows.read("some"), ("model",))] == [3]


def test_rows_name_files_and_not_their_folders(tmp_path: Path) -> None:
    said = f"ndpass: {tmp_path}/a.onnx: not there, {tmp_path / 'b'}/c.npz neither"
    assert rows.by_name(said, tmp_path / "a.onnx", tmp_path / "b" / "c.npz", Path("d.onnx"), None) == (
        "ndpass: a.onnx: not there, c.npz neither"
    )


def test_rows_of_another_cpu_do_not_replace_those_there_are(results: Path) -> None:
    """Rows from before CPUs were written are of the first kind; each kind keeps the last rows of its own."""
    key = {"network": "vgg16", "threads": 1}
    (results / "speed.json").write_text(json.dumps([{**key, "ms": 1}, {**key, "ms": 2}]))
    assert rows.known("speed", {**key, "cpu": INTEL}) == []
    rows.add("speed", {**key, "cpu": INTEL, "ms": 3}, {**key, "cpu": rows.FIRST_CPU, "ms": 4})
    found = rows.read("speed")
    assert [row["ms"] for row in found] == [1, 2, 3, 4]
    assert [row["ms"] for row in rows.latest(found, ("network",))] == [4, 3]
    assert [row["ms"] for row in rows.known("speed", {**key, "cpu": rows.FIRST_CPU})] == [1, 2, 4]
    assert [row["ms"] for row in rows.of_cpu(found, INTEL)] == [3]
    assert rows.cpus(found[::-1]) == [rows.FIRST_CPU, INTEL]


@pytest.mark.parametrize(
    ("cpu", "features", "kind"),
    [
        ("AMD EPYC 9R14", ("avx2", "avx512f", "avx512_bf16"), "AMD AVX-512"),
        ("Intel(R) Xeon(R) Platinum", ("avx2", "avx512f"), "Intel AVX-512"),
        ("Intel(R) Xeon(R) Platinum", ("avx2", "avx512f", "amx_tile"), "Intel AMX"),
        ("AMD Ryzen 7", ("avx2",), "AMD AVX2"),
        ("Neoverse-N1", ("asimd",), "Neoverse-N1"),
    ],
)
def test_a_cpu_is_called_by_its_maker_and_its_newest_instructions(
    cpu: str, features: tuple[str, ...], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = type("Environment", (), {"cpu": cpu, "features": features})
    monkeypatch.setattr(rows, "environment", made)
    assert rows.cpu.__wrapped__() == kind


@pytest.mark.usefixtures("results")
def test_rows_say_which_command_measured_them_on_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files by their names: folders are the machine's own."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/cost.py", "/somewhere/else/net.onnx", "--rounds", "2"])
    rows.about.cache_clear()
    rows.add("cost", {"seconds": 1})
    rows.about.cache_clear()
    (row,) = rows.read("cost")
    assert row["about"].startswith(f"{environment().cpu} (")
    assert row["about"].endswith(": python -m benchmarks.cost net.onnx --rounds 2")
    assert "OpenVINO" in row["about"]


def test_committed_rows_name_their_cpu_as_it_is_called_here() -> None:
    kinds = {"AMD AVX-512", "AMD AVX2", "Intel AVX-512", "Intel AVX2", "Intel AMX"}
    files = [path.stem for path in rows.RESULTS.glob("*.json") if path.stem.startswith(rows.TIMED)]
    assert len(files) > 10
    assert {rows.cpu_of(row) for name in files for row in rows.read(name)} <= kinds
