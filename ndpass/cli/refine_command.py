"""`ndpass refine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ndpass.cli import terminal
from ndpass.cli.interrupt import truth_when_interrupted
from ndpass.cli.parameters import (
    DATA,
    EFFORT,
    OUTPUT,
    REFINE,
    TARGET,
    HtmlReport,
    Json,
    Model,
    Preprocess,
    Quiet,
    RefineLabels,
    RefineOrthonormal,
    Samples,
    Seed,
    Threads,
    Verbose,
    start_log,
)
from ndpass.cli.progress import progress
from ndpass.files.model_path import check_model_path
from ndpass.files.output_paths import default_output
from ndpass.run.arguments import opener, parse_bytes, parsed, refinement_of, target_options
from ndpass.run.next_steps import Given, after_refine
from ndpass.run.options import Data, Effort, Options, Output


def refine(
    model: Model,
    original: Annotated[Path, typer.Option(help="The model that MODEL was rewritten from.", show_default=False)],
    calibration: Annotated[
        Path,
        typer.Option(
            help="Unlabelled data: a folder of images, .npz or .npy.", rich_help_panel=DATA, show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Of the kind of MODEL.", metavar="FILE", rich_help_panel=OUTPUT),
    ] = None,
    length: Annotated[
        str,
        typer.Option(
            "--for", help="A time, as 10min, or epochs, as 20.", metavar="TIME|EPOCHS", rich_help_panel=REFINE
        ),
    ] = "10min",
    refine_labels: RefineLabels = False,
    refine_orthonormal: RefineOrthonormal = 0.0,
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Data that the result is judged by. Default: a fifth of the calibration data, held out.",
            rich_help_panel=DATA,
        ),
    ] = None,
    preprocess: Preprocess = None,
    samples: Samples = None,
    seed: Seed = 0,
    threads: Threads = None,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency/--no-latency", help="Time the original and the result at the end.", rich_help_panel=TARGET
        ),
    ] = True,
    memory: Annotated[str, typer.Option(help="Most memory for activations, as 4GB.", rich_help_panel=EFFORT)] = "1GB",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where training was cut off.", rich_help_panel=EFFORT)
    ] = False,
    json: Json = None,
    report: HtmlReport = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train a rewritten model to its original's outputs, without labels, verify it and write it.

    What `ndpass run --refine` does after its fit, for a model that was rewritten before. Structure and MACs stay. Where
    the held-out figure does not fall nothing is written (exit code 4). ndpass help refine explains it.
    """
    start_log(verbose, quiet)
    for path in (model, original):
        check_model_path(path)
    from ndpass.planning.candidate import Budget
    from ndpass.run.refine_model import refine_model

    fit, measured = (opener(p, preprocess, samples, seed) for p in (calibration, validation))
    options = Options(
        passes=(),
        budget=Budget("pinned"),
        refine=refinement_of(length, refine_labels, refine_orthonormal, calibration=True),
        data=Data(calibration=fit, validation=measured, seed=seed, preprocess=parsed(preprocess)),
        target=target_options("CPU", None, threads, None, int8=False),
        output=Output(json=json, report=report),
        effort=Effort(memory=parse_bytes(memory), resume=resume, latency=latency),
    )
    output = output or default_output(model)
    with truth_when_interrupted(output, resume), progress(quiet) as listen:
        done = refine_model(model, original, output, options, listen)
    if not quiet:
        given = Given(
            original, output, calibration, validation, preprocess, samples=samples, threads=threads, seed=seed
        )
        terminal.report(done, [output], after_refine(given))
