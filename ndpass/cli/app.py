"""The commands. Only they print: results by `terminal` on stdout, progress by `progress` on stderr.

Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Annotated

import typer

from ndpass.cli import terminal
from ndpass.cli.measure_commands import bench, evaluate, inspect
from ndpass.cli.run_command import run
from ndpass.cli.study_command import sensitivity
from ndpass.errors import NdpassError
from ndpass.version import VERSION

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make a trained CNN faster without training: rewrite its convolutions, verify the result, write it.",
    epilog="Exit codes: 0 done, 2 wrong usage, 3 bad input, 4 budget not reachable, 5 verification failed, "
    "130 interrupted.",
)


class Interrupted(BaseException):
    """Ctrl-C or a termination request; no library swallows it."""


def main() -> None:
    """Entry point: runs the command, turns errors into one line and an exit code."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _interrupt)
    try:
        app()
    except NdpassError as e:
        print(f"ndpass: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    except Interrupted:
        rest = ", no model was written; a calibrated run goes on with --resume" if "run" in sys.argv[1:2] else ""
        print(f"ndpass: interrupted{rest}", file=sys.stderr)
        sys.exit(130)
    finally:
        terminal.flush()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise Interrupted, but not inside an import: a compiled module would swallow it or turn it into ImportError."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            later = threading.Timer(0.05, signal.raise_signal, (number,))
            later.daemon = True
            later.start()
            return
        frame = frame.f_back
    raise Interrupted


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ndpass {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    del version


def passes() -> None:
    """List the passes, a line each: name, what it does, its settings."""
    from ndpass.passes import usable
    from ndpass.passes.options import usage

    found, broken = usable()
    for rule in found:
        print(f"{rule.name:4} {rule.summary} ({usage(rule.options)})")
    for reason in broken:
        print(f"ndpass: {reason}; left out", file=sys.stderr)


def report_schema() -> None:
    """Print the JSON schema of what `run --json` writes."""
    from ndpass.report import Report

    print(Report.json_schema(), end="")


for command in (run, inspect, evaluate, passes, bench, sensitivity, report_schema):
    app.command()(command)
