"""The commands. Only they print: results by `terminal` on stdout, progress by `progress` on stderr.

Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import inspect as inspection
import io
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

import typer

from ndpass.cli import terminal
from ndpass.cli.help_commands import help_, passes, report_schema
from ndpass.cli.interrupt import Interrupted, signals_heard
from ndpass.cli.measure_commands import bench, evaluate, inspect
from ndpass.cli.refine_command import refine
from ndpass.cli.run_command import run
from ndpass.cli.study_command import sensitivity
from ndpass.errors import InputError, NdpassError, blamed, out_of_memory
from ndpass.version import VERSION

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Make a trained CNN faster without training: rewrite its convolutions, verify the result, write it.",
    epilog="ndpass help explains budgets, data, metrics, passes, preprocessing, exit codes. Exit codes: 0 done, "
    "2 wrong usage, 3 bad input, 4 budget not reachable, 5 verification failed, 6 cluster lost, 130 interrupted.\n\n"
    "Begin with: ndpass run, on an embedded model; ndpass inspect model.onnx, on yours.",
)


def main() -> None:
    """Entry point: runs the command, turns errors into one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # none where there is no console
            with suppress(OSError, ValueError):  # where it is closed, or another file than when it was opened
                stream.reconfigure(errors="replace")  # a terminal that has no × still has all the rest
    with signals_heard():
        try:
            app()
        except (NdpassError, OSError) as e:
            error = blamed(e) if isinstance(e, OSError) else e
            print(f"ndpass: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        except MemoryError as e:
            print(f"ndpass: {out_of_memory(e)}", file=sys.stderr)
            sys.exit(InputError.exit_code)
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


EXAMPLES: dict[Callable[..., None], tuple[str, ...]] = {
    run: (
        "ndpass run model.onnx",
        "ndpass run model.onnx --calibration images/ --preprocess imagenet --max-drop 0.5",
        "ndpass run model.xml -o fast.xml --calibration images/ --passes auto --int8",
    ),
    refine: (
        "ndpass refine fast.onnx --original model.onnx --calibration images/ --preprocess imagenet",
        "ndpass refine fast.onnx --original model.onnx --calibration data.npz --for 20",
    ),
    inspect: ("ndpass inspect model.onnx", "ndpass inspect detector.onnx --size 320x480 --report layers.html"),
    evaluate: (
        "ndpass evaluate model.onnx --data images/ --preprocess imagenet",
        "ndpass evaluate fast.onnx --data images/ --against model.onnx",
    ),
    bench: ("ndpass bench model.onnx fast.onnx", "ndpass bench model.onnx fast.xml --precision int8 --threads 4"),
    sensitivity: (
        "ndpass sensitivity model.onnx --calibration images/",
        "ndpass sensitivity model.onnx --calibration images/ --study ranks --passes nd,sd",
    ),
    passes: ("ndpass passes", "ndpass passes nd"),
    help_: ("ndpass help", "ndpass help preprocess"),
    report_schema: (),
}


def paragraphs(function: Callable[..., None]) -> str:
    """The docstring with a line for each paragraph, so that a terminal of any width breaks it."""
    return "\n\n".join(" ".join(part.split()) for part in (inspection.getdoc(function) or "").split("\n\n"))


for command, lines in EXAMPLES.items():
    name = "help" if command is help_ else None
    text = "\n\n".join(["Examples:", *lines]) if lines else None
    app.command(name, help=paragraphs(command), epilog=text)(command)
