"""`python -m benchmarks.speed`: the pipelines of the paper's Tables 1 and 3, at its own MACs, in milliseconds.

    python -m benchmarks.speed [--networks vgg16 ssd300] [--threads 1 2] [--batches 1 8] [--quick]

Builds VGG16 at 224x224 and SSD300 with seeded weights, rewrites them without data with every pipeline to the MACs that
the paper gives for it (Guo et al. 2018), and times all of them in turns: OpenVINO in f32, bf16 and int8 (ranges of no
meaning), onnxruntime, and OpenVINO with nothing newer than AVX2. Seeded weights say nothing of accuracy nor of the best
rank of a layer; MACs and milliseconds are those of the shapes. SSD300 takes batch 1 alone. Speedups are over the
original under the same conditions: beside the MACs they show where the paper's measure holds. Rows are appended to
benchmarks/results/speed.json as they come; those of this kind of CPU are not measured again. --quick: one condition and
two pipelines. All pipelines of a network are in memory at once, 15 GB for VGG16 with batch 8.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import options
from benchmarks.engine import Condition, time_models
from benchmarks.networks.paper import PAPER, SEED, Built, built
from benchmarks.results import plots, rows
from benchmarks.results.rows import Row
from ndpass.measuring.environment import environment

MINUTES = 100
QUICK = ("nd", "sd")
CONDITIONS = {
    "OpenVINO f32": Condition(),
    "OpenVINO bf16": Condition(precision="bf16"),
    "OpenVINO int8": Condition(precision="int8"),
    "OpenVINO f32 AVX2": Condition(isa="AVX2"),
    "onnxruntime f32": Condition("onnxruntime"),
}


def main() -> None:
    args = arguments()
    name = f"speed{args.suffix}"
    for network in args.networks:
        pipelines = ["", *(p for p in PAPER[network] if not args.quick or p in QUICK)]
        int8 = any(CONDITIONS[label].precision == "int8" for label in args.conditions)
        models = [built(args.models, network, pipeline, int8=int8) for pipeline in pipelines]
        for label, threads, batch in itertools.product(args.conditions, args.threads, args.batches):
            key = {"network": network, "condition": label, "threads": threads, "batch": batch, "cpu": rows.cpu()}
            if models[0].batch not in (None, batch):
                print(f"{network}, batch {batch}: left out, its batch is fixed at {models[0].batch}", flush=True)
                continue
            if not rows.known(name, key):
                condition = replace(CONDITIONS[label], threads=threads, batch=batch)
                rows.add(name, *({**key, **row, "seed": SEED} for row in timed(models, condition, args.seconds)))
            print_rows(rows.known(name, key), key)
    plots.draw(name)


def timed(models: Sequence[Built], condition: Condition, seconds: float) -> list[Row]:
    """All models under one condition. What int8 does not quantise runs in bf16 where the CPU has it."""
    files = [model.file(condition.precision) for model in models]
    if condition.precision == "int8":
        condition = replace(condition, precision="bf16" if "BF16" in environment().capabilities else "f32")
    found = [each.figures() for each in time_models(files, condition, seconds)]
    return [
        {"pipeline": model.pipeline, "macs": model.macs, "times_fewer": model.times_fewer}
        | {key: figures[key] for key in ("ms", "speedup", "spread")}
        for model, figures in zip(models, found, strict=True)
    ]


def print_rows(found: Sequence[Row], key: Row) -> None:
    print("{network}, {condition}, threads {threads}, batch {batch}".format(**key))
    for row in found:
        ratio = f"{row['speedup']:5.2f} ({row['spread'][0]:.2f} to {row['spread'][1]:.2f})" if row["pipeline"] else ""
        print(
            f"  {row['pipeline'] or 'original':12} {row['times_fewer']:5.2f} times fewer MACs  {row['ms']:8.2f} ms  "
            f"{ratio}",
            flush=True,
        )


def arguments() -> argparse.Namespace:
    parser = options.described(__doc__)
    parser.add_argument("--networks", nargs="+", choices=list(PAPER), default=list(PAPER))
    parser.add_argument("--conditions", nargs="+", choices=list(CONDITIONS), default=list(CONDITIONS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each model under each condition")
    parser.add_argument("--models", type=Path, default=options.MODELS, help="folder where they are kept, about 15 GB")
    options.add_quick(parser, "one condition and two pipelines")
    return options.parse(
        parser,
        on_digits=False,
        networks=["vgg16"],
        conditions=["OpenVINO f32"],
        threads=[2],
        batches=[1],
        seconds=2.0,
    )


if __name__ == "__main__":
    main()
