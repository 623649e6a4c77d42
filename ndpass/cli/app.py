"""The commands. Only they print: results by `terminal` on stdout, progress by `progress` on stderr.

Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ndpass.cli import terminal
from ndpass.cli.interrupt import Interrupted, signals_heard
from ndpass.cli.measure_commands import bench, evaluate, inspect
from ndpass.cli.run_command import run
from ndpass.cli.study_command import sensitivity
from ndpass.errors import NdpassError, blamed
from ndpass.version import VERSION

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make a trained CNN faster without training: rewrite its convolutions, verify the result, write it.",
    epilog="Exit codes: 0 done, 2 wrong usage, 3 bad input, 4 budget not reachable, 5 verification failed, "
    "130 interrupted.",
)


def main() -> None:
    """Entry point: runs the command, turns errors into one line and an exit code."""
    with signals_heard():
        try:
            app()
        except (NdpassError, OSError) as e:
            error = blamed(e) if isinstance(e, OSError) else e
            print(f"ndpass: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        except Interrupted as e:
            print(f"ndpass: interrupted{f', {e}' if str(e) else ''}", file=sys.stderr)
            sys.exit(130)
        finally:
            terminal.flush()


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
