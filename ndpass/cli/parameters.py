"""Parameters that several commands share."""

from __future__ import annotations

import logging
import shlex
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

DATA, BUDGET, METRIC, PASSES = "Data", "Budget", "Metric", "Passes"  # the panels of --help
TARGET, REFINE, EFFORT, OUTPUT = "Target", "Refine", "Effort", "Output"
PREPROCESS_HELP = (
    "How pixels become inputs: a preset (imagenet, caffe, cifar10, digits), or settings, or a preset and settings that "
    "change it, with commas between them: size=HxW crop=HxW scale=N mean=N std=N color=rgb|bgr|grey layout=nchw|nhwc "
    "white=N. ndpass help preprocess explains them."
)

Model = Annotated[Path, typer.Argument(help="ONNX file or OpenVINO IR (.xml).", show_default=False)]
Preprocess = Annotated[str | None, typer.Option(help=PREPROCESS_HELP, metavar="SPEC", rich_help_panel=DATA)]
Samples = Annotated[
    int | None,
    typer.Option(min=1, help="Use this many samples, drawn with the seed. Default: all.", rich_help_panel=DATA),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. Default: what the runtime picks.", rich_help_panel=TARGET)
]
Batch = Annotated[
    int, typer.Option(min=1, help="Samples per inference while the metric is measured.", rich_help_panel=EFFORT)
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.", rich_help_panel=DATA)]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the figures as JSON.", metavar="FILE", rich_help_panel=OUTPUT),
]
HtmlReport = Annotated[
    Path | None,
    typer.Option(
        "--report",
        help="Also write a page for a browser; it needs no network.",
        metavar="OUT.html",
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no table.", rich_help_panel=OUTPUT)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.", rich_help_panel=OUTPUT)]
Size = Annotated[
    str | None,
    typer.Option(
        help="Height and width where the model leaves them open, as 320x480.", metavar="HxW", rich_help_panel=DATA
    ),
]


RefineLabels = Annotated[
    bool,
    typer.Option("--refine-labels", help="Train to the labels of the calibration data, too.", rich_help_panel=REFINE),
]

RefineOrthonormal = Annotated[
    float,
    typer.Option(
        "--refine-orthonormal",
        min=0.0,
        help="Weight of BSConv-S's penalty, which holds the first of two pointwise factors orthonormal; 0.1 in the "
        "paper. Default: none.",
        metavar="WEIGHT",
        show_default=False,
        rich_help_panel=REFINE,
    ),
]


class Runtime(str, Enum):
    """A runtime that models are timed in."""

    openvino = "openvino"
    onnxruntime = "onnxruntime"


class Precision(str, Enum):
    """A precision that models are timed in."""

    f32 = "f32"
    bf16 = "bf16"
    int8 = "int8"


def typed() -> str:
    """The command, as a shell takes it again."""
    return shlex.join(["ndpass", *sys.argv[1:]])


def start_log(verbose: bool, quiet: bool) -> None:
    """Log to stderr: everything, warnings, or errors alone."""
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)
