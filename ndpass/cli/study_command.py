"""`ndpass sensitivity`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ndpass.cli import terminal
from ndpass.cli.parameters import (
    DATA,
    METRIC,
    OUTPUT,
    PASSES,
    HtmlReport,
    Json,
    Model,
    Preprocess,
    Quiet,
    Samples,
    Seed,
    Threads,
    Verbose,
    start_log,
    typed,
)
from ndpass.cli.progress import is_seen, progress
from ndpass.errors import UsageError
from ndpass.files.model_path import check_model_path
from ndpass.files.output_paths import check_outputs
from ndpass.listener import Step, tell
from ndpass.run.arguments import opener, passes_of
from ndpass.run.next_steps import NextStep, after_slopes, words_of
from ndpass.run.options import Data, Options, TargetOptions

if TYPE_CHECKING:
    from ndpass.run.page import Page
    from ndpass.run.studies import Slope, Subject


class Study(str, Enum):
    ranks = "ranks"
    depth = "depth"


def sensitivity(
    model: Model,
    calibration: Annotated[
        Path, typer.Option(help="Unlabelled data: a folder of images, .npz or .npy.", rich_help_panel=DATA)
    ],
    study: Annotated[
        Study | None,
        typer.Option(help="Rewrite parts and measure, see above. Default: slopes.", rich_help_panel=METRIC),
    ] = None,
    passes: Annotated[
        str | None,
        typer.Option(
            help="Passes as in `run`. depth needs pinned settings, as nd:rank=2. Without a study: layers to look at.",
            rich_help_panel=PASSES,
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            help="Data that a study measures on. Default: a fifth of the calibration data, held out.",
            rich_help_panel=DATA,
        ),
    ] = None,
    preprocess: Preprocess = None,
    samples: Samples = None,
    threads: Threads = None,
    seed: Seed = 0,
    json: Json = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw it, as .png or .svg.", metavar="FILE", rich_help_panel=OUTPUT)
    ] = None,
    report: HtmlReport = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """How much an error in each layer moves the outputs.

    Without a study, the slope of each layer: the weakest directions of its response are taken out, a known share of
    its variance (the relative error), and the slope is the root of the divergence of the outputs over that error.
    Divergence is the KL in nats for class scores, else the squared relative error. `run` plans with the slopes.

    --study ranks: one layer at a time rewritten, fitted to the data, the rest as it was (Guo et al. 2018, Figure 4),
    at 6 settings at most of each form of each pass, evenly spread over those that save MACs; a pinned form halves them.

    --study depth: the first k and the last k layers rewritten at one setting, layer after layer, for k from 1 to all
    (Li et al. 2018, DAC).

    The metric is accuracy where the data have labels, else agreement with the original. Studies fit one layer or more
    for each row, which takes long on large models; rows are printed as they come, files are written at the end.
    """
    from ndpass.cli import plots
    from ndpass.planning.candidate import Budget
    from ndpass.planning.candidates import is_pinned
    from ndpass.run import studies

    start_log(verbose, quiet)
    check_model_path(model)
    check_outputs((model, calibration, validation), {"--json": json, "--plot": plot, "--report": report})
    rules = passes_of(passes, calibrated=True) if passes else []
    if study and not rules:
        raise UsageError(f"--study {study.value} rewrites layers: say how, as with --passes nd:rank=2")
    if study is Study.depth and not is_pinned(rules):
        raise UsageError(f"--study depth rewrites at one setting and --passes {passes} leaves it open: give nd:rank=2")
    if study is None and validation:
        raise UsageError("--validation is what a study measures on; slopes need the calibration data alone")
    if plot:
        plots.check(plot)
    fit, measured = (opener(path, preprocess, samples, seed) for path in (calibration, validation))
    options = Options(
        passes=rules,
        budget=Budget("pinned"),
        data=Data(calibration=fit, validation=measured, seed=seed),
        target=TargetOptions(threads=threads),
    )
    with progress(quiet) as listen:
        if study is None:
            slopes = studies.layer_slopes(model, options, listen)
        else:
            listen("calibrating", 0, 1)
            subject = studies.Subject.open(model, options)
    files = _Files(json, plot, report)
    if study is None:
        drawn = {"--preprocess": preprocess, "--samples": samples, "--seed": seed or None, "--threads": threads}
        kept = words_of(drawn)
        steps = after_slopes(slopes, model, calibration, kept)
        if not quiet:
            terminal.slopes(slopes, steps)
        files.of_slopes(model.name, slopes, steps)
    else:
        rows = _rows(study, subject, quiet)
        files.of_study(model.name, study, rows, subject)


def _rows(study: Study, subject: Subject, quiet: bool) -> list[Any]:
    """The rows of a study, printed as they come."""
    makes: Any = {Study.ranks: (subject.ranks, terminal.ranks), Study.depth: (subject.depth, terminal.depths)}
    compute, printer = makes[study]
    show = (lambda _: None) if quiet else printer(subject)
    names = [site.name for site in subject.sites]
    total = len(names) * (2 if study is Study.depth else 1)
    rows: list[Any] = []
    with progress(quiet or is_seen(), stages=False) as listen:  # on a terminal the rows themselves are the progress
        listen("measuring", 0, total)
        for row in compute():
            rows.append(row)
            show(row)
            done = len(rows) - 1 if study is Study.depth else names.index(row.layer)
            tell(listen, Step("measuring", done, total, row.layer))
    return rows


class _Files(NamedTuple):
    """What is written besides: the figures, the picture and the page, all or none."""

    json: Path | None
    plot: Path | None
    report: Path | None

    def of_slopes(self, name: str, rows: Sequence[Slope], steps: Sequence[NextStep]) -> None:
        """name: of the model."""
        from ndpass.cli import plots
        from ndpass.run import studies
        from ndpass.run.study_pages import slopes_page

        self._write(
            lambda: studies.to_json("slopes", rows),
            lambda path: plots.slopes(rows, path),
            lambda: slopes_page(name, rows, typed(), steps),
        )

    def of_study(self, name: str, study: Study, rows: Sequence[Any], subject: Subject) -> None:
        """name: of the model."""
        from ndpass.cli import plots
        from ndpass.run import studies
        from ndpass.run.study_pages import study_page

        draw: Any = {Study.ranks: plots.ranks, Study.depth: plots.depths}[study]
        self._write(
            lambda: studies.to_json(study.value, rows, subject),
            lambda path: draw(rows, subject.yardstick, path),
            lambda: study_page(name, rows, subject, typed()),
        )

    def _write(self, figures: Callable[[], str], draw: Callable[[Path], object], page: Callable[[], Page]) -> None:
        """draw: makes the picture at a path."""
        from ndpass.files.staging import Outputs

        with Outputs() as outputs:
            if self.json:
                outputs.text(self.json, figures())
            if self.plot:
                draw(outputs.stage(self.plot).path)
            if self.report:
                outputs.text(self.report, page().html())
            outputs.commit()
