"""`python -m benchmarks.refine`: points lost before and after training without labels, by epochs and images.

    python -m benchmarks.refine resnet20.onnx --calibration A.npz --validation B.npz --passes nd:rank=1 nd:rank=2

Guo et al. 2018 (Table 4) train a network again that was decoupled in every layer, on all labelled images. Here each
pipeline is fitted once with `ndpass run` and kept in built/, then trained by `ndpass refine` to the original's outputs
for each of `--epochs`, on each number of `--images` of the calibration data, whose labels are not used. Rows are
appended to benchmarks/results/refine_<model>.json as they come; those already there are not run again. Points are of
accuracy on as many of the validation data. `--quick`: cd:rank=4 on 200 digits, 5 epochs. Needs torch.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

from benchmarks import ndpass_command, options
from benchmarks.ndpass_command import RefusedError
from benchmarks.results import rows
from benchmarks.results.rows import Row
from ndpass.files.staging import write_text

MINUTES = 240
HEAD = "passes      images  epochs  times fewer MACs  lost before  lost after  held out            rate     seconds"


def main() -> None:
    args = arguments()
    name = f"refine_{args.model.stem}{args.suffix}"
    print(HEAD)
    for passes, images, epochs in itertools.product(args.passes, args.images, args.epochs):
        key = {
            "passes": passes,
            "images": images,
            "epochs": epochs,
            "threads": args.threads,
            "seed": args.seed,
            "cpu": rows.cpu(),
        }
        if not rows.known(name, key):
            rows.add(name, {**key, **measured(passes, images, epochs, args)})
        print(line(rows.known(name, key)[-1]), flush=True)


def measured(passes: str, images: int, epochs: int, args: argparse.Namespace) -> Row:
    """Fits the pipeline where that was not done yet, and trains the result."""
    fitted, before = fit(passes, images, args)
    out = fitted.with_name(f"{fitted.stem}_refined.onnx")
    given = {**_data(images, args), "original": args.model, "for": epochs}
    row: Row = {"lost_before": _lost(before), "times_fewer": before["model"]["macs"][0] / before["model"]["macs"][1]}
    try:
        report, seconds = ndpass_command.run(fitted, out, ["--no-latency"], given, command="refine")
    except RefusedError as e:
        return {**row, "refused": str(e), "seconds": e.seconds}
    return {**row, "lost_after": _lost(report), "refinement": report["refinement"], "seconds": seconds}


def fit(passes: str, images: int, args: argparse.Namespace) -> tuple[Path, Row]:
    """The fitted model, kept among the models that benchmarks make, and the report of the run that wrote it."""
    folder = options.MODELS / "refine"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{args.model.stem}{args.suffix}_{passes.replace(':', '-').replace(',', '-')}_{images}_{args.seed}"
    path, kept = folder / f"{stem}.onnx", folder / f"{stem}.json"
    if not kept.exists():
        report, _ = ndpass_command.run(args.model, path, ["--no-latency", "--passes", passes], _data(images, args))
        write_text(kept, json.dumps(report))
    found: Row = json.loads(kept.read_text(encoding="utf-8"))
    return path, found


def _data(images: int, args: argparse.Namespace) -> Row:
    return {
        "calibration": args.calibration,
        "validation": args.validation,
        "preprocess": args.preprocess,
        "samples": images,
        "seed": args.seed,
        "threads": args.threads,
    }


def _lost(report: Row) -> float:
    return float(report["metric"]["before"] - report["metric"]["after"])


def line(row: Row) -> str:
    """One row as printed."""
    start = f"{row['passes']:11} {row['images']:6} {row['epochs']:7} {row['times_fewer']:17.2f}"
    if "refused" in row:
        return f"{start} {row['lost_before']:12.2f}  {row['refused']}"
    done = row["refinement"]
    held = f"{done['before']:.3f} -> {done['after']:.3f}"
    figures = f"{row['lost_before']:12.2f} {row['lost_after']:11.2f}  {held:18}"
    return f"{start} {figures} {done['rate']:8.2g} {done['seconds']:8.0f}"


def arguments() -> argparse.Namespace:
    parser = options.parser(__doc__)
    parser.add_argument("model", type=options.existing, nargs="?")
    options.with_data(parser)
    parser.add_argument("--passes", nargs="+", default=["nd:rank=1", "nd:rank=2"])
    parser.add_argument("--epochs", nargs="+", type=int, default=[6, 30])
    parser.add_argument("--images", nargs="+", type=int, default=[4500])
    return options.parse(parser, passes=["cd:rank=4"], epochs=[5], images=[200])


if __name__ == "__main__":
    main()
