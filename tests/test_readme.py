"""README is a page; every command and every code block of it does what it says."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from conftest import Command
from models import ROOT
from pages import README, Block, blocks, commands, put_pictures, put_small, quick

MOST_LINES, MOST_BYTES, WIDEST = 120, 6_000, 120
BLOCKS = [*blocks(README, "sh"), *blocks(README, "python")]


def test_it_is_one_page() -> None:
    text = README.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= MOST_LINES
    assert len(text.encode()) <= MOST_BYTES
    assert [line for line in lines if len(line) > WIDEST] == []


def test_every_block_says_its_language() -> None:
    """What does not is not run; two of sh set up, four are recipes."""
    assert README.read_text(encoding="utf-8").count("\n```\n") == len(BLOCKS)
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh"], ids=lambda b: b.name)
def test_commands(block: Block, ndpass: Command, folder: Path) -> None:
    """On small models, by MACs where milliseconds are asked for: those are the machine's, and take minutes."""
    put_small(folder)
    if "images/" in block.text:
        put_pictures(folder, "model.onnx")
    for program, *words in commands(block):
        if program == "pip":
            assert words == ["install", "-e", "."]
            assert '\nndpass = "ndpass.cli.app:main"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        elif program == "bash":
            assert subprocess.run(["bash", "-n", str(ROOT / words[0])], check=False).returncode == 0
        else:
            assert program == "ndpass"
            name = words[words.index("-o") + 1] if "-o" in words else "digits.ndpass.onnx"
            done = ndpass(*by_macs(words))
            assert done.code == 0, done.err
            assert f"written: {name}" in done.out
            assert (folder / name).exists()


def by_macs(words: list[str]) -> list[str]:
    """The command as it is typed, with another budget, and without the milliseconds at its end."""
    if "-o" not in words:
        return [*words, "--no-latency"]
    if "--max-drop" in words:
        place = words.index("--max-drop")
        words = [*words[:place], *words[place + 2 :]]
    return [*words, "--macs", "0.8", "--no-latency"]


def test_from_python(folder: Path) -> None:
    (block,) = [b for b in BLOCKS if b.language == "python" and "import ndpass" in b.text]
    put_small(folder)
    exec(compile(quick(block.text), "README.md", "exec"), {})
    assert (folder / "fast.xml").exists()


@pytest.mark.skipif(find_spec("torch") is None or find_spec("onnxscript") is None, reason="needs torch and onnxscript")
def test_export_from_pytorch(folder: Path) -> None:
    (block,) = [b for b in BLOCKS if "torch.onnx.export" in b.text]
    code = f"import torch\nmodel = torch.nn.Conv2d(3, 4, 3)\n{block.text}"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    onnx.checker.check_model(folder / "model.onnx")
