"""Ctrl-C after models of OpenVINO have come and gone reaches Python, it does not end the process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from models import ROOT

from ndpass.measuring.openvino_core import shared_core

SCRIPT = """
import gc, os, signal, sys
sys.path.insert(0, {tests!r})
from models import one_conv
from ndpass.measuring.runtime import OpenVINO

def handled(*_):
    print("handled")

model = one_conv((4, 3, 3, 3), (8, 8), "pads = [1, 1, 1, 1]").SerializeToString()
first, second = OpenVINO(model), OpenVINO(model)
del first
gc.collect()
del second
gc.collect()
for sign in (signal.SIGINT, signal.SIGTERM):
    signal.signal(sign, handled)
    os.kill(os.getpid(), sign)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a matter of POSIX")
def test_a_signal_is_handled_after_models_were_let_go() -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\nhandled\n"), done.stderr


def test_there_is_one_core() -> None:
    assert shared_core() is shared_core()


def test_nothing_loads_the_plugin_into_a_core_of_its_own() -> None:
    """Reading a model takes no plugin, compiling it and asking for a device do."""
    used = re.compile(r"\bCore\(\)\s*\.\s*(?!read_model)\w+|=\s*(ov|openvino)\.Core\(\)(?!\.)")
    sources = [path for folder in ("ndpass", "passes", "calibration") for path in (ROOT / folder).rglob("*.py")]
    found = [f"{path.relative_to(ROOT)}: {hit[0]}" for path in sources for hit in used.finditer(path.read_text())]
    assert len(sources) > 100
    assert found == []
