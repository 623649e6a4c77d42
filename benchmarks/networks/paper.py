"""The networks of the paper's Tables 1 and 3 (Guo et al. 2018), rewritten to the MACs that it gives.

Weights are seeded, so a network is rewritten without data: its milliseconds are those of the published shapes, its
accuracy has no meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from benchmarks.networks.by_name import PUBLISHED
from benchmarks.networks.layers import seeded
from ndpass.files.ir_file import write_ir
from ndpass.graph.graph import Found, Graph, Site
from ndpass.graph.input_spec import static_batch
from ndpass.measuring.fake_int8 import quantised
from ndpass.passes import Pass, parse
from ndpass.planning.candidate import Budget, Choice
from ndpass.planning.candidates import refused
from ndpass.planning.plan import Planner
from ndpass.rewriting.rewriter import Rewriter

PAPER = {  # network -> pipeline -> GMACs in convolutions
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
ORIGINAL = {"vgg16": 15.35, "ssd300": 31.37}  # GMACs in convolutions of the networks as published
TIMES_FEWER = {network: {p: ORIGINAL[network] / gmacs for p, gmacs in own.items()} for network, own in PAPER.items()}
SEED = 0  # of weights


@dataclass(frozen=True)
class Built:
    """A network in a file, ONNX and perhaps quantised IR beside it. pipeline: "" for the original.

    macs: of the whole network at batch 1. times_fewer: those of the original over them. batch: None if it is free, as
    that of SSD300 is not, whose boxes are picked in the graph.
    """

    path: Path
    pipeline: str
    macs: int
    times_fewer: float
    batch: int | None

    def file(self, precision: str) -> Path:
        """What is timed at this precision."""
        return self.path.with_suffix(".xml") if precision == "int8" else self.path


@dataclass(frozen=True)
class Planned:
    """A plan for a graph: all layers that it has, those that the passes take, the passes and the choice for each."""

    found: Sequence[Found]
    sites: list[Site]
    passes: list[Pass]
    plan: dict[str, Choice]


def built(folder: Path, network: str, pipeline: str = "", *, int8: bool = False) -> Built:
    """The network as ONNX and, with `int8`, as quantised IR in `folder`; made where it is not there yet."""
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{network}{'_' + pipeline.replace(',', '-') if pipeline else ''}.onnx"
    original = built(folder, network, int8=int8) if pipeline else None
    if not path.exists():
        print(f"building {path.name}", flush=True)
        model = rewritten(onnx.load(original.path), network, pipeline) if original else None
        onnx.save(model or seeded(PUBLISHED[network](), SEED), path)
    if int8 and not path.with_suffix(".xml").exists():
        quantise(path)
    graph = Graph(onnx.load(path))
    fixed, macs = static_batch(graph.inputs()), graph.macs()
    return Built(path, pipeline, macs, original.macs / macs if original else 1.0, fixed.size if fixed else None)


def rewritten(model: onnx.ModelProto, network: str, pipeline: str) -> onnx.ModelProto:
    """The model at the paper's MACs in convolutions; what is not a convolution is left alone."""
    graph = Graph(model)
    how = planned(graph, pipeline, PAPER[network][pipeline])
    Rewriter(graph, how.passes, None).rewrite(how.found, how.sites, how.plan, lambda *_: None)
    graph.tidy()
    made: onnx.ModelProto = graph.to_model()
    return made


def planned(graph: Graph, pipeline: str, gmacs: float) -> Planned:
    """What the planner chooses without data; gmacs: what is left in convolutions."""
    passes = parse(",".join("cp:criterion=l2" if p == "cp" else p for p in pipeline.split(",")))
    found = graph.sites()
    sites = [f for f in found if isinstance(f, Site) and f.op == "Conv" and refused(graph, f, passes, False) is None]
    convolutions = sum(f.macs(f.outline) or 0 for f in found if isinstance(f, Site) and f.op == "Conv")
    share = 1 - (convolutions - gmacs * 1e9) / graph.macs()
    return Planned(
        found, sites, passes, Planner(graph, passes, None).plan(sites, Budget("macs", share), lambda *_: None)
    )


def quantise(path: Path) -> None:
    """Writes the ONNX file as IR in int8, with ranges of no meaning; the batch stays open."""
    import openvino as ov

    model = ov.Core().read_model(path)
    model.reshape({p: [1 if d.is_dynamic else d.get_length() for d in p.get_partial_shape()] for p in model.inputs})
    quantised(model)
    model.reshape({p: [-1, *list(p.get_partial_shape())[1:]] for p in model.inputs})
    write_ir(model, path.with_suffix(".xml"), compress=False)
