"""`python -m benchmarks.errors`: what nd loses of every layer's response, fitted to the weights and to the data.

    python -m benchmarks.errors resnet20.onnx vgg16.onnx --calibration A.npz

For each layer, T and form: the relative error of the response with the factors of the paper (without data, Guo et al.
2018) and with those of `passes/decoupling_fit.py`, on the original network's own activations. Rows are printed as they
come and written to benchmarks/results/errors_<model>.json, the picture beside it (PNG and SVG); layers that are there
are not fitted again. `--quick`: 200 digits.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import onnx

from benchmarks import options
from benchmarks.candidate_cache import calibrated, sites_of
from benchmarks.results import plots, rows
from benchmarks.results.rows import Row
from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.moments import Moments
from ndpass.calibration.preprocess import Preprocess
from ndpass.graph.graph import Graph, Site
from ndpass.passes.base import block_error
from ndpass.passes.network_decoupling import FORMS, NetworkDecoupling
from ndpass.planning.threads import blas_threads

MINUTES = 20


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("models", type=options.existing, nargs="*")
    options.with_data(parser, measured=False)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 3])
    args = options.parse(parser, samples=200)
    for model in args.models:
        name = f"errors_{model.stem}{args.suffix}"
        for layer in errors(model, args, name):
            for row in layer:
                print(
                    "{layer:16} {shape:14} {form} T={rank}  {data_free:.4f} -> {calibrated:.4f}".format(**row),
                    flush=True,
                )
            rows.add(name, *layer)
        plots.draw(name)


def errors(path: Path, args: argparse.Namespace, name: str) -> Iterator[list[Row]]:
    """For each layer its rows, one for each form and T, where there are none yet."""
    graph = Graph(onnx.load(path))
    feeds = open_feeds(
        args.calibration, graph.inputs(), Preprocess.parse(args.preprocess), samples=args.samples, seed=args.seed
    )
    sites = sites_of(graph, "nd")
    calibration = calibrated(graph, sites, feeds, args.threads, args.seed)
    walk = calibration.walk(graph)
    for site in sites:
        keys = [
            {"layer": site.name, "form": form, "rank": rank, "samples": len(feeds), "seed": args.seed}
            for form in FORMS
            for rank in args.ranks
        ]
        todo = [key for key in keys if not rows.known(name, key)]
        if todo:
            moments = walk.moments(site)
            with blas_threads(site):
                yield [{**key, **error(site, moments, key)} for key in todo]


def error(site: Site, moments: Moments, key: Row) -> Row:
    """The errors of one form and T of a layer, without data and with."""
    setting, rule = {"rank": key["rank"], "form": key["form"]}, NetworkDecoupling()
    plain, fitted = (rule.rewrite(site.conv, setting, m) for m in (None, moments))
    return {
        "shape": "x".join(map(str, site.outline.weight.shape)),
        "data_free": block_error(site.conv, plain, moments),
        "calibrated": block_error(site.conv, fitted, moments),
    }


if __name__ == "__main__":
    main()
