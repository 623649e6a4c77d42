"""Ctrl-C after models of OpenVINO have come and gone reaches Python, it does not end the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
