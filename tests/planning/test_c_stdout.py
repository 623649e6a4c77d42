"""What C code prints is silenced while somebody wants it, and nothing else is."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import threading

import pytest

from ndpass.planning.c_stdout import c_stdout_silent

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's stdout may be set")


def c_prints(text: str) -> None:
    """As HiGHS does; flushed, so that it is in the file when it is looked at."""
    libc = ctypes.CDLL(None)
    libc.puts(text.encode())
    libc.fflush(None)


def test_c_is_silent_inside_and_heard_outside(capfd: pytest.CaptureFixture[str]) -> None:
    c_prints("before")
    with c_stdout_silent():
        c_prints("inside")
    c_prints("after")
    assert capfd.readouterr().out == "before\nafter\n"


def test_python_and_child_processes_are_heard_inside(capfd: pytest.CaptureFixture[str]) -> None:
    with c_stdout_silent():
        os.write(1, b"descriptor\n")
        print("print", flush=True)
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)
    assert capfd.readouterr().out == "descriptor\nprint\nchild\n"


def test_it_ends_with_an_error_too(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="wrong"), c_stdout_silent():
        raise ValueError("wrong")
    c_prints("after")
    assert capfd.readouterr().out == "after\n"


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_calls_that_overlap_leave_stdout_as_it_was(capfd: pytest.CaptureFixture[str], first_ends_first: bool) -> None:
    """Two threads; the second begins before the first ends, whichever ends first."""
    both_in, first_out, second_out = threading.Barrier(2), threading.Event(), threading.Event()

    def call(begins_first: bool) -> None:
        with c_stdout_silent():
            both_in.wait(10)
            if begins_first != first_ends_first:
                assert (first_out if first_ends_first else second_out).wait(10)
                c_prints("still silent")
        (first_out if begins_first else second_out).set()

    before = os.fstat(1)
    threads = [threading.Thread(target=call, args=(begins_first,)) for begins_first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    c_prints("after")
    assert os.path.samestat(os.fstat(1), before)
    assert capfd.readouterr().out == "after\n"
