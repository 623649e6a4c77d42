"""`--quick` needs no files, goes on where it was and leaves the other results alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import errors
from benchmarks.candidate_cache import sites_of
from benchmarks.results import rows


def test_a_quick_run_needs_no_files_goes_on_and_draws(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --quick and nothing else, here on two of the layers; what there is is not measured again, more is added."""
    monkeypatch.setattr(errors, "sites_of", lambda graph, passes: sites_of(graph, passes)[:2])
    _run(monkeypatch, "--quick", "--ranks", "1")
    first = rows.read("errors_digits_quick")
    assert len(first) == 4  # two convolutions, two forms
    assert all(row["seed"] == 0 and row["samples"] == 200 and "OpenVINO" in row["about"] for row in first)
    picture = (results / "errors_digits_quick.svg").read_bytes()
    _run(monkeypatch, "--quick", "--ranks", "1", "2")
    assert rows.read("errors_digits_quick")[:4] == first
    assert len(rows.read("errors_digits_quick")) == 8
    assert (results / "errors_digits_quick.svg").read_bytes() != picture
    assert not (results / "errors_digits.json").exists()


def test_no_model_and_no_quick_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        _run(monkeypatch)
    assert "give an ONNX model, or --quick for the digits network" in capsys.readouterr().err


def _run(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", ["errors", *args])
    errors.main()
