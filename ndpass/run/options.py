"""What a run is asked for, grouped as a user thinks of it: data, target, output, effort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from ndpass.calibration.feeds import Feeds
    from ndpass.calibration.preprocess import Preprocess
    from ndpass.engine.address import Address
    from ndpass.graph.input_spec import InputSpec
    from ndpass.measuring.machine import Machine
    from ndpass.measuring.runtime import Precision
    from ndpass.measuring.target import Target
    from ndpass.passes import Pass
    from ndpass.planning.candidate import Budget
    from ndpass.refining.options import Refine
    from ndpass.run.judge import OwnMetric
    from ndpass.run.next_steps import Given

T = TypeVar("T")
OpenData: TypeAlias = "Callable[[Sequence[InputSpec]], Feeds]"


def this_machine(target: Target) -> Machine:
    """The computer that ndpass runs on."""
    from ndpass.measuring.machine import ThisMachine

    return ThisMachine(target)


def call_here(function: Callable[..., T], *given: Any) -> T:
    """What a function gives on the computer that ndpass runs on."""
    return function(*given)


def target_of(device: str, precision: Precision | None, threads: int | None, batch: int) -> Target:
    """A target as it is there. Raises UsageError for a device or precision that is not."""
    from ndpass.measuring.target import Target

    there = Target(device=device, threads=threads, batch=batch)
    target = replace(there, precision=precision or Target.default_precision(device))
    target.properties()
    return target


@dataclass(frozen=True, kw_only=True)
class Data:
    """The samples that layers are fitted to and the metric is measured on.

    calibration, validation: open the samples once the model's inputs are known; None where none are given. seed: of
    everything that is drawn at random. preprocess: what pixels go through, for the pictures that stand in for data.
    size: height and width where the model leaves them open, as 320x480.
    anyway: go on with a preprocessing with which the original is wrong far more often than with another.
    """

    calibration: OpenData | None = None
    validation: OpenData | None = None
    seed: int = 0
    preprocess: Preprocess | None = None
    anyway: bool = False
    size: str | None = None


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """The machine that the model is made fast for. None: precision and batch as the model and OpenVINO have them.

    threads: CPU threads, for timing and for all other inference; None leaves them to OpenVINO. machine: what models of
    a target are timed on; call_there: what calls a function there.
    """

    device: str = "CPU"
    precision: Precision | None = None
    threads: int | None = None
    batch: int | None = None
    machine: Callable[[Target], Machine] = this_machine
    call_there: Callable[..., Any] = call_here

    def resolved(self, inputs: Sequence[InputSpec]) -> Target:
        """The target for a model with these inputs. Raises UsageError for a device or precision that is not there."""
        from ndpass.graph.input_spec import static_batch

        own = static_batch(inputs)
        batch = self.batch or (own.size if own else 1)
        target: Target = self.call_there(target_of, self.device, self.precision, self.threads, batch)
        return target


@dataclass(frozen=True, kw_only=True)
class Output:
    """What is written besides the model, all of it together or nothing.

    compress: float16 weights in IR. int8: quantised by NNCF. save_plan: file of the choices. json: file of the report.
    report: the same as a page for a browser. model_server: folder that gets the model as IR in its next version.
    given: what was typed, which the page repeats.
    """

    compress: bool = False
    int8: bool = False
    save_plan: Path | None = None
    json: Path | None = None
    report: Path | None = None
    model_server: Path | None = None
    given: Given | None = None


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a run may take. memory: bytes of activations that calibration keeps; jobs: layers planned side by side,
    None: one for each core, as memory allows.

    cache: folder of remembered latencies. resume: go on where a run into the same output was cut off. latency: time the
    original and the result in turns at the end, whatever the budget. time_limit: seconds, after which what is known is
    made the best of. engine: the cluster that shards of the data are with, None: this process; shards: how many, None:
    as many as suit the engine, without one none; time_on: its worker that models are timed on, None: this computer.
    """

    memory: int = 1 << 30
    jobs: int | None = None
    engine: Address | None = None
    shards: int | None = None
    time_on: str | None = None
    cache: Path | None = None
    resume: bool = False
    latency: bool = True
    time_limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to do with a model.

    passes: in their order inside a layer. plan: a file whose choices are applied in the place of the budget. ignore:
    layers that are left alone, by name or re:REGEX. metric: what --max-drop is about (`ndpass.run.judge`). refine: how
    long weights are trained after they were fitted, None: not at all.
    """

    passes: Sequence[Pass]
    budget: Budget
    plan: Path | None = None
    ignore: Sequence[str] = ()
    metric: OwnMetric | None = None
    refine: Refine | None = None
    data: Data = field(default_factory=Data)
    target: TargetOptions = field(default_factory=TargetOptions)
    output: Output = field(default_factory=Output)
    effort: Effort = field(default_factory=Effort)

    def with_cache(self, folder: Path | None) -> Options:
        """The same, with latencies remembered in this folder."""
        return replace(self, effort=replace(self.effort, cache=folder))
