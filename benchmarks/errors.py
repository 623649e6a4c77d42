"""`python -m benchmarks.errors`: what nd loses of every layer's response, fitted to the weights and to the data.

    python -m benchmarks.errors resnet20.onnx vgg16.onnx --calibration A.npz

For each layer, T and form: the relative error of the response with the factors of the paper (data-free, Guo et al.
2018) and with those of `passes/decoupling_fit.py`, on the original network's own activations. The table is printed as
it goes and written to benchmarks/results/errors_<model>.json, the figure beside it (PNG and SVG).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import onnx

from benchmarks.rows import RESULTS
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.graph import Graph, Site
from ndpass.passes import parse
from ndpass.passes.base import block_error
from ndpass.passes.network_decoupling import FORMS, NetworkDecoupling
from ndpass.rewriting import Calibration, blas_threads, refused

MEMORY = 1 << 30

Row = dict[str, str | int | float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--preprocess", default="cifar10")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--samples", type=int)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    for model in args.models:
        rows: list[Row] = []
        for row in errors(model, args):
            print(
                "{layer:16} {shape:14} {form} T={rank}  {data_free:.4f} -> {calibrated:.4f}".format(**row), flush=True
            )
            rows.append(row)
        out = RESULTS / f"errors_{model.stem}"
        out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
        draw(rows, out, model.stem)


def errors(path: Path, args: argparse.Namespace) -> Iterator[Row]:
    """One row a layer, form and T."""
    graph = Graph(onnx.load(path))
    feeds = open_feeds(args.calibration, graph.inputs(), Preprocess.parse(args.preprocess), samples=args.samples)
    passes = parse("nd")
    sites = [s for s in graph.sites() if isinstance(s, Site) and refused(graph, s, passes, True) is None]
    calibration = Calibration.of(graph, sites, feeds, args.threads, 0, MEMORY)
    frontier, rule = calibration.frontier(graph), NetworkDecoupling()
    for site in sites:
        moments = calibration.moments(site, frontier)
        conv, shape = site.conv, "x".join(map(str, site.outline.weight.shape))
        with blas_threads(site):
            for form in FORMS:
                for rank in args.ranks:
                    plain, fitted = (rule.rewrite(conv, {"rank": rank, "form": form}, m) for m in (None, moments))
                    yield {
                        "layer": site.name,
                        "shape": shape,
                        "form": form,
                        "rank": rank,
                        "data_free": block_error(conv, plain, moments),
                        "calibrated": block_error(conv, fitted, moments),
                    }


def draw(rows: list[Row], out: Path, title: str) -> None:
    """Errors by layer, a panel a form; dashed: data-free."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    layers = list(dict.fromkeys(str(row["layer"]) for row in rows))
    figure, panels = plt.subplots(1, len(FORMS), figsize=(6.5 * len(FORMS), 4.5), sharey=True, layout="constrained")
    for panel, form in zip(panels, FORMS, strict=True):
        for i, rank in enumerate(sorted({int(row["rank"]) for row in rows})):
            for key, style in (("data_free", "--"), ("calibrated", "-")):
                line = [float(r[key]) for r in rows if r["form"] == form and r["rank"] == rank]
                panel.plot(range(len(line)), line, style, color=f"C{i}", marker=".",
                           label=f"T={rank}, {'data-free' if style == '--' else 'fitted to data'}")  # fmt: skip
        panel.set(yscale="log", title=f"{title}: {form}", ylabel="relative error of the response")
        panel.set_xticks(range(len(layers)), layers, rotation=90, fontsize=7)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    for suffix in (".png", ".svg"):
        figure.savefig(out.with_suffix(suffix), dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
