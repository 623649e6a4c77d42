"""Parameters that several commands share."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

PREPROCESS_HELP = (
    "How pixels become inputs: imagenet, caffe, cifar10, digits, or size=..,crop=..,mean=..,std=..,scale=..,color=..,"
    "layout=.."
)

Model = Annotated[Path, typer.Argument(help="ONNX file or OpenVINO IR (.xml).", show_default=False)]
Preprocess = Annotated[str | None, typer.Option(help=PREPROCESS_HELP, metavar="SPEC", rich_help_panel="Data")]
Samples = Annotated[
    int | None,
    typer.Option(min=1, help="Use this many samples, drawn with the seed. Default: all.", rich_help_panel="Data"),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads. Default: what the runtime picks.", rich_help_panel="Target")
]
Batch = Annotated[int, typer.Option(min=1, help="Samples per inference while the metric is measured.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.", rich_help_panel="Data")]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the figures as JSON.", metavar="FILE", rich_help_panel="Output"),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no table.", rich_help_panel="Output")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.", rich_help_panel="Output")]
Size = Annotated[
    str | None, typer.Option(help="Height and width where the model leaves them open, as 320x480.", metavar="HxW")
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


def start_log(verbose: bool, quiet: bool) -> None:
    """Log to stderr: everything, warnings, or errors alone."""
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)
