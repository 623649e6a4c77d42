"""Every example runs, in a process of its own, as its docstring says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from models import ROOT

EXAMPLES = ROOT / "examples"


def run(name: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    """my_pass is installed and used by tests/passes/test_template.py."""
    text = Path(__file__).read_text(encoding="utf-8")
    names = {path.stem for path in EXAMPLES.glob("[!_.]*") if path.name != "my_pass"} - {"first_steps"}
    assert [name for name in names if f'run("{name}"' not in text] == []
    for path in EXAMPLES.glob("*.py"):
        assert f"python examples/{path.name} [FOLDER]" in path.read_text(encoding="utf-8")


def test_detector(tmp_path: Path) -> None:
    said = run("detector", tmp_path)
    assert "YOLOv8" in said
    assert float(said.split()[1]) > 60
    assert (tmp_path / "detector_fast.onnx").exists()


def test_deploy(tmp_path: Path) -> None:
    said = run("deploy", tmp_path)
    assert (tmp_path / "served" / "digits" / "1" / "model.xml").exists()
    right = int(said.splitlines()[-1].split()[0])
    assert right >= 16


@pytest.mark.skipif(find_spec("torch") is None or find_spec("onnxscript") is None, reason="needs torch and onnxscript")
def test_torch_classifier(tmp_path: Path) -> None:
    said = run("torch_classifier", tmp_path)
    assert float(said.splitlines()[-2].split()[-2]) > 85
    assert (tmp_path / "digits_fast.xml").exists()


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")
def test_the_notebook(tmp_path: Path) -> None:
    """Its cells, one after the other, as they would run in a kernel; it is kept without what they print."""
    cells = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in code), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 4
    assert all(float(line.split()[5]) > 97 for line in said[:3])
    assert float(said[-1].split()[0]) > 90
    assert {path.name for path in tmp_path.iterdir()} >= {"curve.png", "digits_half.onnx", "digits_half.xml"}
