"""What `ndpass run` does, from Python: a model in, a rewritten one and what became of it out."""

from __future__ import annotations

import copy
import html
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx

from ndpass.calibration.preprocess import Preprocess
from ndpass.engine.address import parse_engine
from ndpass.errors import UsageError, did_you_mean
from ndpass.files import model_file
from ndpass.files.output_paths import check_kind, check_outputs, default_output
from ndpass.files.own_folder import temporary_folder
from ndpass.files.staging import staged, write_text
from ndpass.listener import Listener
from ndpass.measuring.latency_cache import cache_folder
from ndpass.run import pipeline
from ndpass.run.arguments import (
    DEFAULT,
    ignore_patterns,
    metric_of,
    opener,
    optional_whole,
    parse_bytes,
    parse_limit,
    parsed,
    passes_and_budget,
    refinement_of,
    target_options,
    whole,
)
from ndpass.run.html_report import page_of
from ndpass.run.in_memory import converted, file_of, known_as, load, plan_file
from ndpass.run.judge import OwnMetric
from ndpass.run.options import Data, Effort, Options, Output
from ndpass.run.plan_file import PlanFile

if TYPE_CHECKING:
    import openvino as ov

    from ndpass.measuring.runtime import Precision
    from ndpass.passes import Pass
    from ndpass.report import Report

Model: TypeAlias = "str | Path | onnx.ModelProto | ov.Model"


@dataclass(frozen=True, repr=False)
class Result:
    """What `run` gives. model: of the kind that was given, for a path what its file holds (ModelProto or ov.Model).

    repr is a line, print shows the summary and the layers, a notebook the report as a page.
    """

    model: Any
    report: Report
    plan: PlanFile
    _inputs: tuple[Path, ...] = field(default=(), repr=False)  # what the run has read, which `save` leaves alone

    def __repr__(self) -> str:
        latency, metric, (before, after) = self.report.latency_ms, self.report.metric, self.report.model.macs
        done = sum(layer.status == "done" for layer in self.report.layers)
        parts = [
            *([f"{latency.speedup:.2f} times as fast"] if latency else []),
            *([f"{metric.name} {metric.before:.2f} -> {metric.after:.2f}"] if metric else []),
            f"{100 * after / max(before, 1):.1f} % of the MACs",
            f"{done} of {len(self.report.layers)} layers rewritten",
        ]
        return f"<ndpass.Result: {', '.join(parts)}>"

    def __str__(self) -> str:
        from ndpass.cli.report_text import plain

        return plain(self.report).rstrip("\n")

    def _repr_html_(self) -> str:
        """The report as a page inside a notebook, whose styles stay in their frame."""
        page = html.escape(page_of(self.report).html(), quote=True)
        return f'<iframe title="ndpass report" srcdoc="{page}" style="width:100%;height:40rem;border:0"></iframe>'

    def save_html(self, path: str | Path) -> None:
        """Write the report as one page for a browser, whole or not at all.

        Raises UsageError for a path that the run has read, OutputError where it cannot be written.
        """
        target = Path(path)
        check_outputs(self._inputs, {"save_html": target})
        write_text(target, page_of(self.report).html())

    def save(self, path: str | Path, *, compress_to_fp16: bool = False) -> None:
        """Write the model: .xml is OpenVINO IR, .onnx is ONNX; whole or not at all.

        compress_to_fp16: store the float32 weights of IR in half precision, which is never done unasked.
        Raises UsageError for ONNX of an OpenVINO model and for a path that the run has read, OutputError where the
        model cannot be written.
        """
        target, is_onnx = Path(path), isinstance(self.model, onnx.ModelProto)
        check_kind(target, from_ir=not is_onnx)
        if compress_to_fp16 and target.suffix != model_file.IR:
            raise UsageError(f"{target}: compress_to_fp16 is about OpenVINO IR: name an .xml as output")
        check_outputs(self._inputs, {}, target)
        with staged(target, compress_to_fp16) as stage:
            model = copy.deepcopy(self.model) if is_onnx else self.model  # writing takes external data out of it
            model_file.write(model, stage, as_external=False)
            stage.finish()
            stage.commit()


def run(
    model: Model,
    passes: str | Sequence[str | Pass] = "nd",
    *,
    calibration: Any = None,
    validation: Any = None,
    preprocess: str | Preprocess | None = None,
    size: str | None = None,
    anyway: bool = False,
    max_drop: float | str | None = None,
    max_error: float | str | None = None,
    speedup: float | str | None = None,
    macs: float | str | None = None,
    energy: float | str | None = None,
    plan: str | Path | PlanFile | None = None,
    metric: OwnMetric | None = None,
    precision: Precision | None = None,
    device: str = "CPU",
    int8: bool = False,
    threads: int | None = None,
    batch: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    memory: int | str = 1 << 30,
    jobs: int | None = None,
    engine: str | None = None,
    shards: int | None = None,
    time_on: str | None = None,
    time_limit: str | float | None = None,
    refine: str | float | None = None,
    refine_labels: bool = False,
    refine_orthonormal: float = 0.0,
    latency: bool = True,
    ignore: str | Iterable[str] = (),
    progress: Listener | None = None,
) -> Result:
    """Rewrite a model's convolutions into cheaper ones and verify the result; the model that is given stays as it is.

    model: path of an .onnx or .xml file, ModelProto or ov.Model. passes: as of `--passes`, or passes as objects.
    calibration, validation: a path (folder of images, .npz, .npy), an array, any iterable of arrays or of
    {input name: array}, or an nncf.Dataset; what is an iterator is read once. One budget of max_drop (points of the
    metric), max_error (largest error of any output over its variance, 0..1), speedup (times as fast), macs (share
    left, 0..1), energy (share of each layer's response kept, 0..1); left out: max_drop 1.0 with data (of pictures
    60 dB of 100), energy 0.95 without. metric: its name (top1, top5, agreement, iou, psnr, detection or explained;
    left out: the one that goes with the outputs) or a function of a compiled OpenVINO model. int8: quantise the
    result by NNCF, which makes it an ov.Model. memory: bytes of activations that are kept; jobs: layers that are
    planned side by side, None: one for each core, as far as a quarter of the machine's memory goes; engine: a Dask
    cluster that calibration is spread over, as "dask://HOST:PORT" (explained in the guide "Many machines"); shards:
    parts that the calibration data are cut into, one machine and many come to the same bytes with as many;
    time_on: the worker of the cluster that models are made fast for, by its name or address, None: this machine;
    time_limit: about how long the run may take, in seconds or as "10min". refine: then train the weights to the
    original's outputs, for a time, as "10min", or a number of epochs; refine_labels: to labels, too;
    refine_orthonormal: weight of a penalty that holds pointwise factors of low rank orthonormal, as 0.1.
    progress: called with (stage, steps done, steps in all); left out: a bar on a terminal and in a notebook, else
    nothing. size: height and width where the model leaves them open, as "320x480". anyway: go on although another
    preprocessing makes the original right far more often. latency: time the original and the result at the end.
    Raises UsageError, InputError, BudgetError or VerificationError (`ndpass.errors`).

    >>> import ndpass
    >>> from ndpass.run import digits
    >>> (images, _), (unseen, labels) = digits.images()
    >>> result = ndpass.run(digits.model_path(), "cd:rank=8", calibration=images, latency=False)
    >>> [layer.name for layer in result.report.layers if layer.status == "done"]
    ['block1.conv1', 'block1.conv2', 'down', 'block2.conv1', 'block2.conv2', 'head']
    """
    with temporary_folder() as folder:
        source, known = file_of(model, folder), plan_file(plan, folder)
        given = {"max_drop": max_drop, "max_error": max_error, "speedup": speedup, "macs": macs, "energy": energy}
        default = DEFAULT[calibration is not None or validation is not None]
        rules, budget = passes_and_budget(passes, given, known, default, calibrated=calibration is not None)
        seed = whole("seed", seed, 0)
        fit, measured = (
            opener(data, preprocess, optional_whole("samples", samples), seed) for data in (calibration, validation)
        )
        output, saved = folder / default_output(source, int8), folder / "plan.json"
        options = Options(
            passes=rules,
            budget=budget,
            plan=known,
            ignore=ignore_patterns(ignore),
            metric=metric_of(metric),
            refine=refinement_of(refine, refine_labels, refine_orthonormal, calibration=fit is not None),
            data=Data(
                calibration=fit, validation=measured, seed=seed, preprocess=parsed(preprocess), anyway=anyway, size=size
            ),
            target=target_options(device, precision, threads, batch, int8=int8),
            output=Output(int8=int8, save_plan=saved),
            effort=Effort(
                memory=parse_bytes(memory),
                jobs=optional_whole("jobs", jobs),
                engine=parse_engine(engine),
                shards=optional_whole("shards", shards),
                time_on=time_on,
                cache=cache_folder(),
                latency=latency,
                time_limit=parse_limit(time_limit, budget),
            ),
        )
        names = {source: "the model in memory", output: "the rewritten model", folder / "given.json": "the plan"}
        with known_as(names, folder), _listening(progress) as listen:
            report = pipeline.run(source, output, options, listen)
        inputs = tuple(Path(p) for p in (model, calibration, validation, plan) if isinstance(p, str | Path))
        return Result(load(output), report, PlanFile.read(saved), inputs)


class Pipeline:
    """Passes in their order inside a layer, ready to be run on models.

    >>> from ndpass.passes import ChannelDecomposition, NetworkDecoupling
    >>> from ndpass.run import digits
    >>> pipeline = Pipeline([ChannelDecomposition(rank=8), NetworkDecoupling(rank=2)])
    >>> result = pipeline(digits.model_path(), latency=False)
    >>> before, after = result.report.model.macs
    >>> after < before
    True
    """

    def __init__(self, passes: Sequence[Pass]) -> None:
        self.passes = list(passes)

    def __call__(self, model: Model, **options: Any) -> Result:
        """`run` with these passes and any of its other options."""
        return run(model, self.passes, **options)


@contextmanager
def _listening(progress: Listener | None) -> Iterator[Listener]:
    """The caller's own listener, else a bar where somebody can see it."""
    if progress is not None:
        yield progress
        return
    from ndpass.cli import progress as bars

    with bars.progress(quiet=not bars.is_seen()) as listen:
        yield listen


def convert_model(source: Any, **options: Any) -> ov.Model:
    """`openvino.convert_model`, and the convolutions rewritten: to stand where that stood.

    source: what OpenVINO converts (path of a model, a torch.nn.Module with example_input, ...), an .xml or an ov.Model.
    options: those of `run`, as passes, calibration and a budget; all others are openvino.convert_model's own.
    Raises as `run`, UsageError for an option of neither, and InputError for what OpenVINO cannot convert.

    >>> from ndpass.run import digits
    >>> model = convert_model(digits.model_path(), passes="sd:rank=4", latency=False)
    >>> model.inputs[0].get_partial_shape()
    <PartialShape: [?,1,8,8]>
    """
    import openvino as ov

    own, theirs = _own_options(), inspect.signature(ov.convert_model).parameters
    for name in options:
        if name not in own and name not in theirs:
            near = did_you_mean(name, [*own, *theirs])
            raise UsageError(f"convert_model has no option {name}, and neither has openvino.convert_model{near}")
    ours = {key: options.pop(key) for key in own if key in options}
    known = isinstance(source, ov.Model) or (isinstance(source, str | Path) and Path(source).suffix == model_file.IR)
    if known and options:
        raise UsageError(f"{', '.join(options)}: there is nothing to convert, the model is OpenVINO's already")
    model = source if known else converted(source, options)
    return run(model, **ours).model


def _own_options() -> dict[str, inspect.Parameter]:
    """The keywords of `run`: all but the model."""
    parameters = dict(inspect.signature(run).parameters)
    del parameters["model"]
    return parameters


def show_options(function: Callable[..., Any], *, without: Collection[str] = (), more: bool = False) -> None:
    """Have help and editors show the options of `run` that a function hands on in the place of its **options.

    without: those that it sets itself. more: whether it takes others besides, in `**conversion`.
    """
    kinds, signature = inspect.Parameter, inspect.signature(function)
    own = {name: p for name, p in signature.parameters.items() if p.kind is not kinds.VAR_KEYWORD}
    taken = {*own, *without}
    options = [p.replace(kind=kinds.KEYWORD_ONLY) for name, p in _own_options().items() if name not in taken]
    last = [kinds("conversion", kinds.VAR_KEYWORD, annotation="Any")] if more else []
    shown = signature.replace(parameters=[*own.values(), *options, *last])
    function.__signature__ = shown  # type: ignore[attr-defined] # a function takes one, says `inspect`


show_options(convert_model, more=True)
show_options(Pipeline.__call__, without=["passes"])
