"""Parameters that several commands have."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

PREPROCESS_HELP = "imagenet, caffe, cifar10, digits, or size=..,crop=..,mean=..,std=..,scale=..,color=..,layout=.."
Model = Annotated[Path, typer.Argument(help="an ONNX file or OpenVINO IR (.xml)", show_default=False)]
Preprocess = Annotated[str | None, typer.Option(help=PREPROCESS_HELP, metavar="SPEC")]
Samples = Annotated[int | None, typer.Option(min=1, help="use this many samples, drawn with the seed; default: all")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: what the runtime picks")]
Batch = Annotated[int, typer.Option(min=1, help="samples per inference while measuring the metric")]
Seed = Annotated[int, typer.Option(min=0, help="of everything that is drawn at random")]
Json = Annotated[Path | None, typer.Option("--json", help="also write the figures as JSON", metavar="FILE")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, no table")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="log what is done")]


class Runtime(str, Enum):
    openvino = "openvino"
    onnxruntime = "onnxruntime"


class Precision(str, Enum):
    f32 = "f32"
    bf16 = "bf16"
    int8 = "int8"


def open_data(path: Path | None, preprocess: str | None, samples: int | None, seed: int) -> Any:
    """How to open the samples once the inputs are known; None where none are given."""
    from ndpass.calibration.feeds import open_feeds
    from ndpass.calibration.preprocess import Preprocess as Spec

    spec = None if preprocess is None else Spec.parse(preprocess)
    if path is None:
        return None
    if not path.exists():
        from ndpass.errors import InputError

        raise InputError(f"{path}: no such file or folder")
    return lambda inputs: open_feeds(path, inputs, spec, samples=samples, seed=seed)


def start_log(verbose: bool, quiet: bool) -> None:
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)
