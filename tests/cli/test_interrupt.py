"""A second Ctrl-C, where the first one finds the main thread inside a library that does not return."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STUCK = """
import ctypes, signal, sys
from pathlib import Path
from ndpass.cli.interrupt import signals_heard
from ndpass.files.staging import Outputs

with signals_heard(), Outputs() as outputs:
    signal.signal(signal.SIGINT, lambda *_: None)  # as if the first came when the library had the thread already
    outputs.stage(Path(sys.argv[1], "model.onnx")).path.write_text("half a model")
    print("stuck", flush=True)
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex), lock(mutex)  # the second never returns, and no signal ends it
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_second_ctrl_c_ends_a_process_whose_first_is_held_up_by_a_library(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STUCK, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "stuck\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGINT)
        assert "Ctrl-C again ends at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr.read() == "ndpass: interrupted twice, ended at once\n"
    assert not list(tmp_path.iterdir())


GOING = """
import signal, time, weakref
from ndpass.cli.interrupt import Interrupted, signals_heard

class Last:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)  # as if Ctrl-C came just then

class Watched:
    pass

def make(kind):
    if kind == "del":
        return Last()
    watched = Watched()
    weakref.finalize(watched, signal.raise_signal, signal.SIGINT)
    return watched

for kind in ("del", "finalize"):
    try:
        with signals_heard():
            made = make(kind)
            del made
            for _ in range(1000):
                time.sleep(0.01)
            print("never came")
    except Interrupted:
        print("interrupted")
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_is_not_lost_where_python_would_only_print_it() -> None:
    """What is raised while an object goes is printed and forgotten, so it is raised a little later."""
    done = subprocess.run([sys.executable, "-c", GOING], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("interrupted\ninterrupted\n", "")
