"""`python -m benchmarks.scaling`: time and memory of a calibrated run against the number of images.

    python -m benchmarks.scaling vgg16_224.onnx --calibration images/ --preprocess imagenet --images 100 200 400

Each row is `ndpass run` as a process of its own on so many images, stage by stage, and one forward pass of the original
over the same images (OpenVINO, f32, batches of 8, images decoded beforehand), timed before and after it; ratio: the
whole run over the mean of the two. Rows are appended to benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import rows
from benchmarks.rows import Row
from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.runtime import OpenVINO

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--preprocess", default="imagenet")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 200, 400])
    parser.add_argument("--options", default="--passes cd,nd --macs 0.4", help="of ndpass run")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    for images in args.images:
        row = one(args, images)
        stages = ", ".join(f"{name} {s:.0f} s" for name, s in row["seconds"].items() if s is not None)
        print(f"{images} images: {row['ratio']:.1f} forward passes of {row['forward_s']:.1f} s ({stages}), "
              f"{row['peak_memory_bytes'] / 1e9:.2f} GB", flush=True)  # fmt: skip
        rows.add("scaling", row)


def one(args: argparse.Namespace, images: int) -> Row:
    """A run on `images` images between two forward passes over them."""
    found = len(opened(args, images))
    if found < images:
        raise SystemExit(f"{args.calibration} holds {found} images, {images} were asked for")
    before = forward(args, images)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "ndpass.cli", "run", str(args.model), "-q", "--calibration",
                   str(args.calibration), "--preprocess", args.preprocess, "--samples", str(images), "--json",
                   str(report), "-o", str(Path(folder) / "out.onnx"), *args.options.split()]  # fmt: skip
        command += ["--threads", str(args.threads)] if args.threads else []
        start = time.perf_counter()
        subprocess.run(command, check=True)
        whole = time.perf_counter() - start
        found = json.loads(report.read_text())
    passes = (before, forward(args, images))
    mean = sum(passes) / 2
    return {
        "model": args.model.stem,
        "options": args.options,
        "images": images,
        "whole_s": whole,
        "forward_s": mean,
        "forward_both_s": passes,
        "ratio": whole / mean,
        "seconds": found["seconds"],
        "peak_memory_bytes": found["peak_memory_bytes"],
        "macs": found["model"]["macs"],
        "threads": args.threads,
    }


def opened(args: argparse.Namespace, images: int) -> Feeds:
    inputs = OpenVINO(args.model, threads=args.threads).inputs
    return open_feeds(args.calibration, inputs, Preprocess.parse(args.preprocess), samples=images, seed=0)


def forward(args: argparse.Namespace, images: int) -> float:
    """Seconds of one pass of the original over the images, without decoding them."""
    runner, batches = OpenVINO(args.model, threads=args.threads), list(opened(args, images).batches(BATCH))
    runner(batches[0])
    start = time.perf_counter()
    for batch in batches:
        runner(batch)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
