"""`python -m benchmarks.scaling`: time and memory of a calibrated run against images, width, depth and threads.

    python -m benchmarks.scaling [--studies images width depth threads] [--quick]
    python -m benchmarks.scaling model.onnx --calibration images/ --preprocess imagenet --images 100 200 400

The first command runs the studies below on networks with seeded weights and random pixels; the second takes a model and
images of your own. Each row is `ndpass run` as a process of its own on so many images, stage by stage, and one forward
pass of the original over the same images before it and after it (OpenVINO, f32, batches of 8, images decoded
beforehand). ratio: the whole run over the mean of the two passes. Rows are appended to benchmarks/results/scaling.json
as they come; those there are not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from benchmarks import ndpass_command, options
from benchmarks.networks.by_name import sized
from benchmarks.networks.layers import seeded
from benchmarks.results import plots, rows
from benchmarks.results.rows import Row
from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.measuring.runtime import OpenVINO

MINUTES = 40
BATCH = 8
IMAGES = (50, 100, 200, 400, 800)
PINNED = "--passes cd:rank=64,nd:rank=2:form=dw-pw"  # every layer gets the same: nothing is searched
CHOSEN = "--passes cd,nd --macs 0.4"  # every candidate of every layer is fitted, and the plan chosen among them


@dataclass(frozen=True)
class Study:
    """Every network with every number of images and of threads."""

    networks: Sequence[str]
    images: Sequence[int] = (200,)
    threads: Sequence[int | None] = (2,)
    run: str = CHOSEN


STUDIES = {
    "images": Study(["vgg16_224"], IMAGES, [None], PINNED),
    "width": Study(["vgg16x0.25_64", "vgg16x0.5_64", "vgg16_64"]),
    "depth": Study(["vgg11x0.5_64", "vgg13x0.5_64", "vgg16x0.5_64", "vgg19x0.5_64", "resnet18_64"]),
    "threads": Study(["vgg16x0.5_64"], threads=[1, 2]),
}
QUICK = Study(["vgg11x0.125_32"], [50, 100], [1])


@dataclass(frozen=True)
class Case:
    """One run of ndpass."""

    model: Path
    calibration: Path
    preprocess: str
    run: str
    images: int
    threads: int | None
    seed: int

    @property
    def key(self) -> Row:
        return {
            "model": self.model.stem,
            "options": self.run,
            "images": self.images,
            "threads": self.threads,
            "seed": self.seed,
            "cpu": rows.cpu(),
        }


def main() -> None:
    args = arguments()
    name = f"scaling{args.suffix}"
    for case in given(args) if args.model else drawn(args):
        if not rows.known(name, case.key):
            if not args.model:
                build(case)
            rows.add(name, {**case.key, **one(case)})
        print(line(rows.known(name, case.key)[-1]), flush=True)
    plots.draw(name)


def line(row: Row) -> str:
    return (
        f"{row['model']:14} {row['images']:4} images, {row['threads'] or 'all'} threads: {row['ratio']:.1f} "
        f"passes of {row['forward_s']:.2f} s, {row['peak_memory_bytes'] / 1e9:.2f} GB "
        f"({ndpass_command.stages_text(row['seconds'])})"
    )


def given(args: argparse.Namespace) -> Iterator[Case]:
    """The runs of the model given. Raises SystemExit where its data are missing or too few."""
    if args.calibration is None:
        raise SystemExit("a model of your own needs --calibration")
    for images in args.images:
        case = Case(args.model, args.calibration, args.preprocess, args.options, images, args.threads, args.seed)
        found = len(opened(case))
        if found < images:
            raise SystemExit(f"{args.calibration} holds {found} images, {images} were asked for")
        yield case


def drawn(args: argparse.Namespace) -> Iterator[Case]:
    """The runs of the studies asked for, with the files that `build` writes."""
    folder = options.MODELS / f"seed{args.seed}"
    for study in [QUICK] if args.quick else [STUDIES[name] for name in args.studies]:
        for network in study.networks:
            model, size = folder / f"{network}.onnx", network.partition("_")[2]
            pixels = folder / f"pixels_{size}_{max(study.images)}.npy"
            for images, threads in itertools.product(study.images, study.threads):
                yield Case(model, pixels, f"imagenet,size={size}", study.run, images, threads, args.seed)


def build(case: Case) -> None:
    """Writes the network and random images, unless they are there: time depends on the shapes alone."""
    case.model.parent.mkdir(parents=True, exist_ok=True)
    if not case.model.exists():
        onnx.save(seeded(sized(case.model.stem), case.seed), case.model)
    if not case.calibration.exists():
        size, count = map(int, case.calibration.stem.split("_")[1:])
        pixels = np.random.default_rng(case.seed).integers(0, 256, (count, size, size, 3), np.uint8)
        np.save(case.calibration, pixels)


def one(case: Case) -> Row:
    """Measures a run between two forward passes over its images."""
    before = forward(case)
    given = {
        "calibration": case.calibration,
        "preprocess": case.preprocess,
        "samples": case.images,
        "seed": case.seed,
        "threads": case.threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            found, whole = ndpass_command.run(case.model, Path(folder) / "out.onnx", case.run.split(), given)
        except ndpass_command.RefusedError as e:
            raise SystemExit(str(e)) from e
    passes = (before, forward(case))
    mean = sum(passes) / 2
    return {
        "whole_s": whole,
        "forward_s": mean,
        "forward_both_s": passes,
        "ratio": whole / mean,
        "seconds": found["seconds"],
        "peak_memory_bytes": found["peak_memory_bytes"],
        "macs": found["model"]["macs"],
        "params": found["model"]["params"],
        "layers": sum(layer["status"] != "skipped" for layer in found["layers"]),
    }


def opened(case: Case) -> Feeds:
    inputs = OpenVINO(case.model, threads=case.threads).inputs
    preprocess = Preprocess.parse(case.preprocess)
    return open_feeds(case.calibration, inputs, preprocess, samples=case.images, seed=case.seed)


def forward(case: Case) -> float:
    """Seconds of one pass of the original over the images, without decoding them."""
    runner, batches = OpenVINO(case.model, threads=case.threads), list(opened(case).batches(BATCH))
    runner(batches[0])
    start = time.perf_counter()
    for batch in batches:
        runner(batch)
    return time.perf_counter() - start


def arguments() -> argparse.Namespace:
    parser = options.parser(__doc__)
    parser.add_argument("model", type=options.existing, nargs="?", help="default: the networks of the studies")
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--calibration", type=options.existing)
    parser.add_argument("--preprocess", default="imagenet")
    parser.add_argument("--images", type=int, nargs="+", default=list(IMAGES))
    parser.add_argument("--options", default=CHOSEN, help="of ndpass run")
    return options.parse(parser, model_needed=False, model=None)


if __name__ == "__main__":
    main()
