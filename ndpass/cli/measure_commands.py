"""`ndpass inspect`, `evaluate` and `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ndpass.cli import terminal
from ndpass.cli.parameters import (
    DATA,
    EFFORT,
    METRIC,
    TARGET,
    Batch,
    HtmlReport,
    Json,
    Model,
    Precision,
    Preprocess,
    Runtime,
    Samples,
    Seed,
    Size,
    Threads,
    typed,
)
from ndpass.cli.progress import progress
from ndpass.errors import UsageError
from ndpass.files.model_path import check_model_path
from ndpass.files.output_paths import check_outputs
from ndpass.run.arguments import height_width, opener
from ndpass.run.next_steps import after_inspect


def inspect(
    model: Model,
    size: Size = None,
    json: Json = None,
    report: HtmlReport = None,
) -> None:
    """List every layer with weights: shape, MACs, share, and what each pass could make of it, or why no pass can.

    A pass's column is the share of the layer's MACs that is left where 95 % of the energy of its weights is kept, which
    is 1 - |W - W'|^2 / |W|^2. Wide tables and --json also have nd's energy at T=1..4 (Guo et al. 2018, Figure 3) and
    how much of each filter one k x k blueprint explains (BSConv).
    """
    check_model_path(model)
    check_outputs([model], {"--json": json, "--report": report})
    import json as jsonlib

    from ndpass.files.model_file import open_graph
    from ndpass.files.staging import Outputs
    from ndpass.measuring.readable import unreadable
    from ndpass.run.inspection import inspect as rows_of
    from ndpass.run.open_axes import assume_size, size_option
    from ndpass.run.study_pages import inspection_page

    graph = open_graph(model).graph
    if size is not None:
        assume_size(graph, size)
    with progress(quiet=False, stages=False) as listen:
        rows = list(rows_of(graph, listen))
    reading = unreadable(model, graph.sizes)
    steps = after_inspect(rows, model, size, reading)
    with Outputs() as outputs:
        if json:
            outputs.text(json, jsonlib.dumps([row.to_json() for row in rows], indent=1))
        if report:
            outputs.text(report, inspection_page(model.name, rows, graph, typed(), steps).html())
        outputs.commit()
    notes = [reading.text] if reading else []
    if graph.dynamic_hw and size is None:
        notes.append(f"open axes are assumed: {size_option(graph) or 'calibration data set them'}")
    terminal.inspection(rows, graph, steps, notes)


def evaluate(
    model: Model,
    data: Annotated[
        Path,
        typer.Option(help="A folder of images (class subfolders give labels), .npz or .npy.", rich_help_panel=DATA),
    ],
    preprocess: Preprocess = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Compare with this model, whether or not there are labels.", rich_help_panel=METRIC),
    ] = None,
    samples: Samples = None,
    batch: Batch = 32,
    threads: Threads = None,
    seed: Seed = 0,
) -> None:
    """Measure a model's accuracy on labelled data, or its agreement with another model, in OpenVINO at f32."""
    from ndpass.calibration.images import order_text
    from ndpass.cli.report_text import worst_text
    from ndpass.files.model_file import check_model, inputs_of, open_graph
    from ndpass.graph.comparison_outputs import shown
    from ndpass.measuring.evaluate import accuracy, stored
    from ndpass.measuring.evaluate import evaluate as compare
    from ndpass.measuring.heard import Heard
    from ndpass.measuring.metrics import Seen, default_metric
    from ndpass.measuring.output_errors import flat
    from ndpass.measuring.runtime import OpenVINO

    for path in filter(None, (model, against)):
        check_model(path)
    runner = OpenVINO(model, threads=threads)
    opened = opener(data, preprocess, samples, seed)
    assert opened is not None
    feeds = opened(inputs_of(against or model, runner.inputs))
    print(f"data       {feeds.description}")
    if text := order_text(feeds.class_names or (), feeds.labels):
        print(f"labels     {text}")
    if feeds.labels is None and against is None:
        raise UsageError(f"{data} has no labels: give --against MODEL to measure agreement instead")
    batches = -(-len(feeds) // batch)
    if feeds.labels is not None:
        with progress(quiet=False, stages=False) as listen:
            right = accuracy(Heard(runner, listen, f"running {model.name}", batches), feeds, batch)
        print(f"accuracy   {right:.2f} %")
    if against is None:
        return
    names = open_graph(against).compared
    with progress(quiet=False, stages=False) as listen:
        other = OpenVINO(shown(against, names), threads=threads)
        outputs = stored(Heard(other, listen, f"running {against.name}", batches), feeds, batch)
        del other
        runner = runner if names is None else OpenVINO(shown(model, names), threads=threads)
        metric = default_metric(Seen.of(outputs, feeds, batch))
        named = metric if names is None and metric.name not in ("top1", "top5") else None
        heard = Heard(runner, listen, f"comparing {model.name}", batches)
        both = compare(outputs, heard, feeds, batch, named.begin() if named else None)
    found = both.agreement
    if found.top1_agreement is not None:
        print(f"agreement  {found.top1_agreement:.2f} % of top-1 answers as {against}")
    if named and both.after and not (named.name == "agreement" and found.top1_agreement is not None):
        print(f"{named.name:10} {both.after.value:.2f} beside {against}: {named.reason}")
    print(f"error      {found.relative_error:.3g} of the outputs' norm, largest on '{found.worst_output}'")
    print(f"worst      {worst_text(flat(found.outputs))}")


def bench(
    models: Annotated[
        list[Path], typer.Argument(help="Two or more models. Ratios are to the first.", show_default=False)
    ],
    runtime: Annotated[
        list[Runtime] | None, typer.Option(help="Runtime. Repeatable. Default: both.", rich_help_panel=TARGET)
    ] = None,
    precision: Annotated[
        list[Precision] | None,
        typer.Option(help="Precision. Repeatable. Default: f32 and bf16.", rich_help_panel=TARGET),
    ] = None,
    threads: Threads = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch of models that leave it open.", rich_help_panel=TARGET)] = 1,
    size: Size = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds of timing for each runtime and precision.", rich_help_panel=EFFORT)
    ] = 10.0,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Latency of models side by side, measured in turns: medians, and ratios to the first with their spread.

    int8: a model that is not quantised yet is timed with the kernels that it would run with if it were.
    """
    for model in models:
        check_model_path(model)
    check_outputs(models, {"--json": json})
    import json as jsonlib

    from ndpass.files.model_file import check_model
    from ndpass.files.staging import write_text
    from ndpass.measuring.bench import bench as measure

    for model in models:
        check_model(model)
    names: list[Any] = [r.value for r in runtime or Runtime]
    kinds: list[Any] = [p.value for p in precision or (Precision.f32, Precision.bf16)]
    shape = None if size is None else height_width(size)
    with progress(quiet=False, stages=False) as listen:
        result = measure(
            models,
            runtimes=names,
            precisions=kinds,
            threads=threads,
            batch=batch,
            shape=shape,
            seconds=seconds,
            seed=seed,
            listen=listen,
        )
    if json:
        write_text(json, jsonlib.dumps(result.to_dict(), indent=1))
    terminal.bench(result, batch)
