"""The report of a run: the pydantic model of report.json and its renderings as a table and as plain text.

Keys are a promise to scripts: they are added, not renamed. What was not measured is null, and so is a number that
is not finite, which JSON does not have.
"""

from __future__ import annotations

import json
import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Pair = tuple[int, int]  # before, after
Status = Literal["done", "kept", "skipped", "reverted"]


BEYOND = " beyond the input"  # behind the name of an output: of what the network adds to its input there
RUINED = 0.5  # of an output's variance: the error is as large as half of what the output says
SHARES = ("top1", "top5", "agreement", "iou", "detection", "explained")  # metrics of which nothing is left at 0


class Part(BaseModel):
    """What all parts have in common: a misspelt key is an error, not a silent addition."""

    model_config = ConfigDict(extra="forbid")


class Machine(Part):
    """The target that latencies are of; threads: null where they were left to OpenVINO."""

    cpu: str
    device: str = "CPU"
    precision: Literal["f32", "bf16", "int8"]
    threads: int | None
    batch: int
    openvino: str


class ModelSize(Part):
    """Of the whole model, before and after; bytes of the files, external data included."""

    macs: Pair
    params: Pair
    bytes: Pair


class MetricChange(Part):
    """The metric of the original and of the rewritten model, in points or as the user's own function has it.

    samples: null of a function of the user's own. reason: what of the outputs makes it the metric.
    """

    name: str
    before: float
    after: float
    samples: int | None
    higher_is_better: bool = True
    reason: str = ""


class Latency(Part):
    """Milliseconds of an inference before and after, timed in turns.

    speedup: the median over paired rounds of the original's time over the result's; spread: its 10th and 90th
    percentile; before: the median of the original's rounds; after: before / speedup, so that the three agree.
    is_slower, is_faster: whether the rounds prove that the result is slower, or faster.
    """

    before: float
    after: float
    speedup: float
    spread: tuple[float, float]
    is_slower: bool = False
    is_faster: bool = True


class Variant(Part):
    """One of the four that a run with --int8 measures side by side: the original and the rewritten model, each as it
    is, in f32 or bf16, and in int8.

    metric: as in `MetricChange`, without labels the per cent of samples with the original's best class; speedup: times
    as fast as the original as it is, the median of paired rounds, spread its 10th and 90th percentile; latency_ms: the
    median of the original's rounds over speedup.
    """

    name: str
    precision: Literal["f32", "bf16", "int8"]
    metric: float | None
    latency_ms: float
    speedup: float
    spread: tuple[float, float]


class Seconds(Part):
    """Wall-clock time of each stage; null where there was none, as calibration without data.

    stages: the same by the stages that progress shows, in their order.
    """

    calibrate: float | None = None
    plan: float | None = None
    rewrite: float | None = None
    refine: float | None = None
    verify: float | None = None
    total: float
    stages: dict[str, float] = Field(default_factory=dict)


class Verified(Part):
    """How close two models, or one model in two runtimes, are; null what the outputs do not have (see `evaluate`).

    outputs: name -> E|y − ŷ|² / Var(y), and label, as 'output0[4:84]', -> that of each group of channels of one scale;
    'y beyond the input' -> the share that is lost of what the network adds to its input, where output y is a picture of
    that; null where it is not finite. relative_errors: ‖y − ŷ‖ / ‖y‖ under the same names and labels of groups.
    """

    samples: int
    relative_error: float | None
    top1_agreement: float | None = None
    kl: float | None = None
    worst_output: str | None = None
    outputs: dict[str, float | None] = Field(default_factory=dict)
    relative_errors: dict[str, float | None] = Field(default_factory=dict)


class Layer(Part):
    """One convolution, Gemm or MatMul with a constant weight, whatever became of it.

    setting: {pass: {option: value}} as applied, empty if left alone. macs: null where the spatial size is not known.
    latency_us: microseconds inside the whole model, the same twice where the layer did not change, null where the
    runtime's counters do not show it. latency_predicted_us: what the plan expected of the rewritten layer.
    error_predicted, error_measured: relative error of the layer's response on the calibration data, without data of its
    weights.
    """

    name: str
    status: Status
    reason: str = ""
    setting: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    macs: Pair | None = None
    latency_us: tuple[float, float] | None = None
    latency_predicted_us: float | None = None
    error_predicted: float | None = None
    error_measured: float | None = None
    op: str = ""
    shape: str = ""


class TriedPlan(Part):
    """A plan that was fitted on the way to the result, for a budget in points.

    speedup: times as fast as the original, timed in place with random weights; loss: points of the metric that it lost,
    or with --max-error the worst output's error in per cent; chosen: whether it became the result. refined: whether the
    loss is that after --refine.
    """

    speedup: float
    loss: float
    chosen: bool
    refined: bool = False


class Orthonormal(Part):
    """Pointwise factors V of low rank that were held orthonormal in training.

    weight: of the penalty in the loss. factors: how many there are. before, after: the penalty, the sum of
    ‖V Vᵀ − I‖²_F, as the factors were fitted and as they are trained.
    """

    weight: float
    factors: int
    before: float
    after: float


class Refinement(Part):
    """What --refine came to: weights trained to the original's answers.

    asked: for how long. images: that it was trained on. epochs, steps, seconds, rate (the highest), batch: of training;
    null where it did not begin. measure: what `before` and `after` are, on samples that were held out: KL at
    temperature 2 of class scores, else error over variance. kept: whether the model has the trained weights; reason:
    why, or why not. interrupted: whether Ctrl-C ended it. orthonormal: with --refine-orthonormal, what it came to.
    """

    asked: str
    images: int
    epochs: float | None = None
    steps: int | None = None
    seconds: float | None = None
    rate: float | None = None
    batch: int | None = None
    measure: str | None = None
    before: float | None = None
    after: float | None = None
    kept: bool = False
    interrupted: bool = False
    reason: str = ""
    orthonormal: Orthonormal | None = None


class Furthest(Part):
    """A sample on which the result differs much from the original.

    sample: its number among those that were measured; name: its file, or its number in the data. error: the sum over
    the outputs of |y − ŷ|² over the mean |y|² of a sample; null where it is not finite. picture: a data address of a
    small PNG for the page, which report.json is without.
    """

    sample: int
    name: str
    error: float | None
    picture: str = Field(default="", exclude=True)


class Report(Part):
    """report.json. verified: {what the rewritten model was compared with: result}; plans: as they were fitted.

    furthest: the samples on which the result differs most from the original, the furthest first; of given data alone.
    """

    ndpass: str
    passes: list[str]
    budget: dict[str, JsonValue]
    target: Machine
    model: ModelSize
    metric: MetricChange | None = None
    latency_ms: Latency | None = None
    variants: list[Variant] = Field(default_factory=list)
    plans: list[TriedPlan] = Field(default_factory=list)
    refinement: Refinement | None = None
    seconds: Seconds
    peak_memory_bytes: int | None = None
    layers: list[Layer]
    verified: dict[str, Verified] = Field(default_factory=dict)
    furthest: list[Furthest] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)

    @property
    def ruined(self) -> str | None:
        """The worst output, group of its channels, or what it adds to the input, that is RUINED or more of it off.

        On the inputs that there were, which may be made up.
        """
        found = [
            (math.inf if error is None else error, name)
            for against, result in self.verified.items()
            if against.startswith("the original")
            for name, error in result.outputs.items()
        ]
        error, name = max(found, default=(0.0, ""))
        return name if error >= RUINED else None

    @property
    def is_collapsed(self) -> bool:
        """Whether the metric has lost half of what the original has, where it is a share: of answers, of masks."""
        metric = self.metric
        return metric is not None and metric.name in SHARES and metric.after < metric.before / 2

    def to_json(self) -> str:
        """Every key, in the order above, with a newline at the end."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def json_schema(cls) -> str:
        """The JSON schema of what `to_json` writes."""
        return json.dumps(cls.model_json_schema(mode="serialization"), indent=2) + "\n"


def ruined_text(label: str) -> str:
    """What is left of an output with this label in the report."""
    output = label.removesuffix(BEYOND)
    says = "says" if output == label else "adds to its input"
    return f"output '{output}' has little left of what the original {says}"
