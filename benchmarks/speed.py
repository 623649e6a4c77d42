"""`python -m benchmarks.speed`: the pipelines of the paper's Tables 1 and 3, at its own MACs, in milliseconds.

    python -m benchmarks.speed [--networks vgg16 ssd300] [--threads 1 2] [--batches 1 8] [--quick]

Builds VGG16@224 and SSD300 with seeded weights, rewrites them without data with every pipeline to the MACs that the
paper gives for it (Guo et al. 2018), and times all side by side: OpenVINO in f32, bf16 and int8 (ranges of no meaning),
onnxruntime, and OpenVINO with nothing newer than AVX2. Weights that are not trained make errors meaningless and so the
choice of ranks by layer; MACs and milliseconds are those of the shapes. SSD300 takes batch 1 alone. A column is times
as fast as the original under the same conditions; beside the MACs it shows where the papers' measure holds and where it
inverts. Rows are appended to benchmarks/results/speed.json as they come, those there are not measured again; --quick:
one condition, two pipelines. All of a network's pipelines are in memory at once, 15 GB for VGG16 with batch 8.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from benchmarks import options, plots, rows
from benchmarks.layers import seeded
from benchmarks.models import BUILDERS
from benchmarks.rows import Row
from ndpass.files.ir_file import write_ir
from ndpass.graph.graph import Found, Graph, Site
from ndpass.graph.input_spec import static_batch
from ndpass.measuring.environment import environment
from ndpass.measuring.fake_int8 import quantised
from ndpass.passes import Pass, parse
from ndpass.planning.candidate import Budget, Choice
from ndpass.planning.candidates import refused
from ndpass.planning.plan import Planner
from ndpass.rewriting.rewriter import Rewriter

PAPER = {  # pipeline -> GMACs in convolutions; Tables 1 and 3
    "vgg16": {
        "nd": 8.61,
        "sd": 7.20,
        "cd": 6.52,
        "cp": 9.89,
        "cd,nd": 4.72,
        "sd,nd": 4.15,
        "cp,nd": 8.49,
        "cd,sd": 4.32,
        "cd,sd,nd": 4.28,
        "cp,cd,nd": 5.45,
        "cp,cd,sd,nd": 4.70,
    },
    "ssd300": {"nd": 20.27, "cd": 18.69, "cd,nd": 15.01},
}
PAPER_ORIGINAL = {"vgg16": 15.35, "ssd300": 31.37}  # GMACs in convolutions of the networks as published
QUICK = ("nd", "sd")
SEED = 0  # of weights
CONDITIONS = {  # name -> runtime, precision, instruction set
    "OpenVINO f32": ("openvino", "f32", ""),
    "OpenVINO bf16": ("openvino", "bf16", ""),
    "OpenVINO int8": ("openvino", "int8", ""),
    "OpenVINO f32 AVX2": ("openvino", "f32", "AVX2"),
    "onnxruntime f32": ("onnxruntime", "f32", ""),
}


def main() -> None:
    args = arguments()
    file = f"speed{'_quick' if args.quick else ''}"
    for network in args.networks:
        pipelines = {p: g for p, g in PAPER[network].items() if not args.quick or p in QUICK}
        int8 = any(CONDITIONS[name][1] == "int8" for name in args.conditions)
        models = [built(args.models, network, p, gmacs, int8) for p, gmacs in {"": 0.0, **pipelines}.items()]
        for name, threads, batch in itertools.product(args.conditions, args.threads, args.batches):
            key = {"network": network, "condition": name, "threads": threads, "batch": batch, "cpu": rows.cpu()}
            if models[0]["batch"] not in (None, batch):
                print(f"{network}, batch {batch}: left out, its batch is fixed at {models[0]['batch']}", flush=True)
                continue
            if not rows.known(file, key):
                found = timed(models, *CONDITIONS[name], threads, batch, args.seconds)
                rows.add(file, *({**key, **row, "seed": SEED} for row in found))
            print_rows(rows.known(file, key), key)
    plots.draw(file)


def print_rows(found: list[Row], key: Row) -> None:
    print("{network}, {condition}, threads {threads}, batch {batch}".format(**key))
    for row in found:
        ratio = f"{row['speedup']:5.2f} ({row['spread'][0]:.2f} to {row['spread'][1]:.2f})" if row["pipeline"] else ""
        print(
            f"  {row['pipeline'] or 'original':12} {row['times_fewer']:5.2f} times fewer MACs  {row['ms']:8.2f} ms  "
            f"{ratio}",
            flush=True,
        )


def built(folder: Path, network: str, pipeline: str, gmacs: float, int8: bool) -> Row:
    """The network as ONNX and, with `int8`, as quantised IR in `folder`, made once; pipeline "": the original.

    batch: None if it is free, as that of SSD300 is not, whose boxes are picked in the graph.
    """
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{network}{'_' + pipeline.replace(',', '-') if pipeline else ''}.onnx"
    original = built(folder, network, "", 0, int8) if pipeline else None
    if not path.exists():
        print(f"building {path.name}", flush=True)
        made = rewritten(Graph(onnx.load(original["path"])), pipeline, gmacs) if original else None
        onnx.save(made or seeded(BUILDERS[network](), SEED), path)
    if int8 and not path.with_suffix(".xml").exists():
        quantise(path)
    graph = Graph(onnx.load(path))
    fixed, macs = static_batch(graph.inputs()), graph.macs()
    return {
        "path": str(path),
        "pipeline": pipeline,
        "macs": macs,
        "batch": fixed.size if fixed else None,
        "times_fewer": original["macs"] / macs if original else 1.0,
    }


def rewritten(graph: Graph, pipeline: str, gmacs: float) -> onnx.ModelProto:
    """To `gmacs` in convolutions, without data; what is not a convolution is left alone."""
    found, sites, passes, plan = planned(graph, pipeline, gmacs)
    Rewriter(graph, passes, None).rewrite(found, sites, plan, lambda *_: None)
    graph.tidy()
    made: onnx.ModelProto = graph.to_model()
    return made


def planned(
    graph: Graph, pipeline: str, gmacs: float
) -> tuple[Sequence[Found], list[Site], list[Pass], dict[str, Choice]]:
    """All that was found in the graph, the convolutions that the pipeline takes, its passes and the plan for them."""
    passes = parse(",".join("cp:criterion=l2" if p == "cp" else p for p in pipeline.split(",")))
    found = graph.sites()
    sites = [f for f in found if isinstance(f, Site) and f.op == "Conv" and refused(graph, f, passes, False) is None]
    convolutions = sum(f.macs(f.outline) or 0 for f in found if isinstance(f, Site) and f.op == "Conv")
    share = 1 - (convolutions - gmacs * 1e9) / graph.macs()
    plan = Planner(graph, passes, None).plan(sites, Budget("macs", share), lambda *_: None)
    return found, sites, passes, plan


def quantise(path: Path) -> None:
    import openvino as ov

    model = ov.Core().read_model(path)
    model.reshape({p: [1 if d.is_dynamic else d.get_length() for d in p.get_partial_shape()] for p in model.inputs})
    quantised(model)
    model.reshape({p: [-1, *list(p.get_partial_shape())[1:]] for p in model.inputs})
    write_ir(model, path.with_suffix(".xml"), compress=False)


def timed(
    models: list[Row], runtime: str, precision: str, isa: str, threads: int, batch: int, seconds: float
) -> list[Row]:
    """All models in turns, in a process of its own, for the instruction set is read when OpenVINO starts."""
    end = ".xml" if precision == "int8" else ".onnx"
    if precision == "int8":  # what is not quantised runs as OpenVINO would have it
        precision = "bf16" if "BF16" in environment().capabilities else "f32"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "bench.json"
        paths = [str(Path(m["path"]).with_suffix(end)) for m in models]
        command = [
            sys.executable,
            "-m",
            "ndpass",
            "bench",
            *paths,
            "--runtime",
            runtime,
            "--precision",
            precision,
            "--threads",
            str(threads),
            "--batch",
            str(batch),
            "--seconds",
            str(seconds * len(models)),
            "--json",
            str(report),
        ]
        around = os.environ | ({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})
        subprocess.run(command, check=True, env=around, stdout=subprocess.DEVNULL)
        found = json.loads(report.read_text())["rows"]
    return [
        {k: m[k] for k in ("pipeline", "macs", "times_fewer")}
        | {"ms": r["median_ms"], "speedup": r["speedup"], "spread": r["speedup_spread"]}
        for m, r in zip(models, found, strict=True)
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(PAPER), default=list(PAPER))
    parser.add_argument("--conditions", nargs="+", choices=list(CONDITIONS), default=list(CONDITIONS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each model under each condition")
    parser.add_argument("--models", type=Path, default=options.MODELS, help="folder where they are kept, about 15 GB")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.networks, args.conditions, args.threads, args.batches = ["vgg16"], ["OpenVINO f32"], [2], [1]
        args.seconds = min(args.seconds, 2.0)
    return args


if __name__ == "__main__":
    main()
