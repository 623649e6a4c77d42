"""What to do after a command, as commands to paste."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ndpass.measuring.readable import Unreadable
    from ndpass.report import Report
    from ndpass.run.inspection import Row
    from ndpass.run.studies import Slope


DEFAULT = "nd"  # what --passes is if nobody says


class NextStep(NamedTuple):
    """A command and what it is good for."""

    command: str
    why: str


class Given(NamedTuple):
    """What a run was given, as typed: the model (None: the embedded one), the files and the preprocessing.

    command: what repeats the run, as a shell takes it; size, samples, seed, threads, precision, batch: as the options.
    kept: all other options that a further run keeps, in words.
    """

    model: Path | None
    output: Path
    calibration: Path | None = None
    validation: Path | None = None
    preprocess: str | None = None
    command: str = ""
    size: str | None = None
    samples: int | None = None
    threads: int | None = None
    precision: str | None = None
    seed: int = 0
    batch: int | None = None
    kept: tuple[str, ...] = ()


def words_of(options: Mapping[str, object]) -> tuple[str, ...]:
    """Options that were given as words of a command: a list repeats its name, True is a switch, None and False none."""
    words: list[str] = []
    for name, value in options.items():
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words += [word for one in (value if isinstance(value, list) else [value]) for word in (name, str(one))]
    return tuple(words)


def command(*words: object) -> str:
    """An ndpass command that a shell takes as it stands. None and empty words are left out."""
    return shlex.join(["ndpass", *(str(word) for word in words if word not in (None, ""))])


def after_run(done: Report, given: Given) -> list[NextStep]:
    """At most three steps, the one that promises most first."""
    model, output = given.model, given.output
    if model is None:
        return [
            NextStep(command("inspect", "MODEL.onnx"), "what can be rewritten in a model of yours"),
            NextStep(
                command("run", "MODEL.onnx", "--calibration", "DATA"), "make it fast, within a point of the metric"
            ),
        ]
    steps = []
    threads, batch = _option("--threads", given.threads), _option("--batch", given.batch)
    size, precision = _option("--size", given.size), _option("--precision", given.precision)
    passes, kept = _passes(done), [*threads, *batch, *_seed(given), *given.kept]
    data = [*_data(given), *size, *precision, *kept, *passes]
    if given.calibration is None:
        fit = command("run", model, "--calibration", "DATA", *size, *precision, *kept, *passes)
        steps.append(NextStep(fit, "fit the layers to your data (images, .npz, .npy), and measure what is lost"))
    elif done.latency_ms is not None and done.latency_ms.is_slower:
        within = command("run", model, *data, *_usual(done))
        steps.append(NextStep(within, "what is fastest within a small drop of the metric"))
    elif not done.variants:
        quantised = [*_data(given), *size, *kept, *passes, "--int8", *_limit(done)]
        steps.append(NextStep(command("run", model, *quantised), "faster still: int8 by NNCF"))
    if given.calibration is not None or given.validation is not None:
        steps.append(_check(given))
    bench = command("bench", model, output, *size, *precision, *threads, *batch)
    steps.append(NextStep(bench, "time both on the machine that it is for"))
    return steps


def _passes(done: Report) -> list[str]:
    """The passes that were given; all where the default could rewrite less than half of the model."""
    if list(done.passes) != [DEFAULT]:
        return ["--passes", ",".join(done.passes)]
    macs = {layer.name: layer.macs[0] for layer in done.layers if layer.macs}
    out = sum(macs[layer.name] for layer in done.layers if layer.status == "skipped" and layer.name in macs)
    return ["--passes", "auto"] if 2 * out > sum(macs.values()) else []


def _seed(given: Given) -> list[str]:
    return _option("--seed", given.seed or None)


def _option(name: str, value: object) -> list[str]:
    return [] if value is None else [name, str(value)]


def _limit(done: Report) -> list[str]:
    """The budget of a loss that was given, or what is usual for the metric."""
    for option, name in (("--max-error", "max_error"), ("--max-drop", "max_drop")):
        if (value := done.budget.get(name)) is not None:
            return [option, f"{value:g}"]
    return _usual(done)


def _usual(done: Report) -> list[str]:
    """A point; nothing of pictures, for which the run finds what goes with them."""
    return [] if done.metric is not None and done.metric.name == "psnr" else ["--max-drop", "1"]


def after_refine(given: Given) -> list[NextStep]:
    """What the trained model is worth, and how fast it is. given: the original as its model."""
    bench = command("bench", given.model, given.output, *_option("--threads", given.threads))
    return [_check(given), NextStep(bench, "time both on the machine that it is for")]


def _check(given: Given) -> NextStep:
    """Of the data that the result is judged by, as they were drawn."""
    drawn = [*_option("--samples", given.samples), *_seed(given), *_option("--threads", given.threads)]
    data = given.validation or given.calibration
    check = command("evaluate", given.output, "--data", data, *_preprocess(given), *drawn, "--against", given.model)
    return NextStep(check, "measure the written model beside the original, here on the same data")


def after_inspect(
    rows: Sequence[Row], model: Path, size: str | None = None, reading: Unreadable | None = None
) -> list[NextStep]:
    """Without data and with data, where there is anything to rewrite. size: as it was given, of open axes.

    reading: why a run cannot read the model; then the command that mends that, where one does.
    """
    sized = _option("--size", size)
    if not any(row.passes and not row.note for row in rows) or (reading and reading.remedy is None):
        return []
    if reading and reading.remedy:
        return [NextStep(reading.remedy, "no run reads the model with open axes: fix them, and run what this writes")]
    return [
        NextStep(command("run", model, *sized), "without data: only what is faster, accuracy not known"),
        NextStep(
            command("run", model, "--calibration", "DATA", *sized),
            "fitted to your data (images, .npz, .npy), within a point of the metric",
        ),
    ]


def after_slopes(rows: Sequence[Slope], model: Path, calibration: Path, kept: Sequence[str]) -> list[NextStep]:
    """Leaves the most sensitive layer alone. kept: options that further commands keep, in words."""
    steepest = max(rows, key=lambda row: row.slope)
    data = ["--calibration", calibration, *kept]
    run = command("run", model, *data, "--ignore", steepest.layer)
    return [
        NextStep(run, f"leave the most sensitive layer, {steepest.layer}, as it is"),
        NextStep(
            command("sensitivity", model, *data, "--study", "ranks", "--passes", "nd"),
            "what each setting of each layer loses",
        ),
    ]


def _data(given: Given) -> list[str]:
    paths = [*_option("--calibration", given.calibration), *_option("--validation", given.validation)]
    return [*paths, *_preprocess(given), *_option("--samples", given.samples)]


def _preprocess(given: Given) -> list[str]:
    return ["--preprocess", given.preprocess] if given.preprocess else []
