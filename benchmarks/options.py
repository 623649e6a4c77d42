"""Options that several benchmarks have in common, and `--quick`: the digits network, in under two minutes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ndpass.run import digits

MODELS = Path(__file__).parents[1] / "built"  # models and data that benchmarks make; git ignores them
AUTO = "cp,cd,sd,nd"  # what --passes auto is with data
STAGES = ("build", "time", "plot")
PIXELS = 16.0  # scikit-learn's digits hold 0..16, and --preprocess digits expects this range


def existing(text: str) -> Path:
    """The path given as an argument. Raises ArgumentTypeError if nothing is there."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return path


def described(doc: str | None) -> argparse.ArgumentParser:
    """A parser of a command, whose docstring begins with "`python -m benchmarks.NAME`: what it does"."""
    command, _, what = (doc or "").partition("\n")[0].strip("`").partition("`: ")
    return argparse.ArgumentParser(prog=command, description=what[:1].upper() + what[1:])


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that most benchmarks have: --quick, --threads and --seed."""
    made = described(doc)
    add_quick(made, "little of it on the digits network")
    made.add_argument("--threads", type=int)
    made.add_argument("--seed", type=int, default=0)
    return made


def add_quick(made: argparse.ArgumentParser, what: str) -> None:
    """Add --quick; what: describes what it measures."""
    made.add_argument("--quick", action="store_true", help=f"{what}; rows in *_quick.json")


def with_data(made: argparse.ArgumentParser, *, measured: bool = True) -> None:
    """Add the data that the model is fitted to and, with `measured`, those that its accuracy is measured on."""
    made.add_argument("--calibration", type=existing)
    if measured:
        made.add_argument("--validation", type=existing)
    made.add_argument("--preprocess", default="cifar10")
    made.add_argument("--samples", type=int, help="of the calibration data; default: all")


def parse(
    made: argparse.ArgumentParser, *, on_digits: bool = True, model_needed: bool = True, **quick: Any
) -> argparse.Namespace:
    """The arguments. With --quick the defaults are those in `quick` and, with `on_digits`, the digits' model and data.

    `suffix` ends the names of the files that rows go to, so that quick figures never lie among the others.
    """
    if "--quick" in sys.argv[1:]:
        made.set_defaults(**{**(digits_data() if on_digits else {}), **quick})
    args = made.parse_args()
    for name in ("model", "models"):
        if model_needed and getattr(args, name, True) in (None, []):
            made.error("give an ONNX model, or --quick for the digits network")
    args.suffix = "_quick" if args.quick else ""
    return args


def staged(doc: str | None, folder: str, seconds: float) -> argparse.ArgumentParser:
    """A parser of a command that works on several models in STAGES; folder: of its models, within MODELS.

    The second stage measures time: nothing else should run beside it.
    """
    made = described(doc)
    made.add_argument("model", type=existing, nargs="+")
    with_data(made)
    made.add_argument("--threads", type=int, default=2)
    add_quick(made, "little of it on the model given")
    made.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES))
    made.add_argument("--models", type=Path, default=MODELS / folder, help="folder that keeps them, 2 GB")
    made.add_argument("--seconds", type=float, default=seconds, help="of timing for each model")
    return made


def parse_staged(made: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """The arguments; with --quick the defaults are those in `quick`. Data are needed where models are built."""
    args = parse(made, on_digits=False, **quick)
    if "build" in args.stage and not (args.calibration and args.validation):
        made.error("--stage build reads --calibration and --validation")
    return args


def run_stages(args: argparse.Namespace, **stages: Callable[[Path, str, argparse.Namespace], None]) -> None:
    """Calls the stages asked for with each model's file, the name that its rows go by and the arguments."""
    for model in args.model:
        for name, run in stages.items():
            if name in args.stage:
                run(model, f"{model.stem}{args.suffix}", args)


def digits_data() -> dict[str, Any]:
    """The model that ndpass ships, and its images in files; written where they are not there yet."""
    MODELS.mkdir(exist_ok=True)
    paths = {part: MODELS / f"digits_{part}.npz" for part in ("calibration", "validation")}
    for path, (images, labels) in zip(paths.values(), digits.images(), strict=True):
        if not path.exists():
            np.savez(path, images=PIXELS * images, labels=labels)
    model = digits.model_path()
    return {"model": model, "models": [model], "preprocess": "digits", **paths}
