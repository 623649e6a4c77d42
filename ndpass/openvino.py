"""ndpass where OpenVINO's own tools stand: passes for `openvino.passes.Manager`, and `optimize`, called as NNCF is.

manager = openvino.passes.Manager()
manager.register_pass(ndpass.openvino.NetworkDecoupling(rank=2))
manager.run_passes(model)

fast = ndpass.openvino.optimize(model, nncf.Dataset(images), passes="cd,nd", max_drop=1.0)
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import openvino as ov
from openvino.passes import ModelPass

from ndpass import passes as rules
from ndpass.api import run, show_options
from ndpass.errors import UsageError
from ndpass.graph.graph import Site
from ndpass.graph.openvino.graph import OvGraph
from ndpass.planning.candidate import Budget
from ndpass.planning.candidates import is_pinned, refused
from ndpass.planning.plan import Planner
from ndpass.report import Layer
from ndpass.rewriting.rewriter import Rewriter

log = logging.getLogger(__name__)

ENERGY = 0.95  # of each layer's weights that is kept where the setting is left open


class _Rewriting(ModelPass):  # type: ignore[misc] # OpenVINO's types are not followed
    """One pass of ndpass on a whole model, in place and without data.

    layers: after a run, what became of every layer.
    """

    def __init__(self, rule: rules.Decomposition, energy: float, ignored_scope: Any) -> None:
        super().__init__()
        self.rule, self.energy, self.ignored_scope = rule, energy, ignored_scope
        self.layers: list[Layer] = []

    def run_on_model(self, model: ov.Model) -> bool:
        """Rewrite what the pass can rewrite; whether that is anything."""
        left = set(ignored(model, self.ignored_scope))
        graph = OvGraph(model, in_place=True)
        found = [f.skipped("ignored, as asked") if isinstance(f, Site) and f.name in left else f for f in graph.sites()]
        sites = [f for f in found if isinstance(f, Site) and refused(graph, f, [self.rule], False) is None]
        budget = Budget("pinned") if is_pinned([self.rule]) else Budget("energy", self.energy)
        plan = Planner(graph, [self.rule], None).plan(sites, budget, lambda *_: None)
        self.layers = Rewriter(graph, [self.rule], None).rewrite(found, sites, plan, lambda *_: None)
        done = [layer.name for layer in self.layers if layer.status == "done"]
        if done:
            graph.tidy()
            graph.to_model()
        log.info("%s: %d of %d layers rewritten", self.rule.name, len(done), len(self.layers))
        return bool(done)


class NetworkDecoupling(_Rewriting):
    """Depthwise and pointwise convolutions in the place of each k x k one (`ndpass.passes.NetworkDecoupling`).

    options: rank and form; without a rank each layer keeps `energy` of its weights' energy. ignored_scope: layers that
    are left alone, as of `optimize`. UsageError for an option that there is not.

    >>> import openvino as ov
    >>> from openvino.passes import Manager
    >>> from ndpass.run import digits
    >>> model, manager = ov.Core().read_model(digits.model_path()), Manager()
    >>> rule = manager.register_pass(NetworkDecoupling(rank=2))
    >>> manager.run_passes(model)
    >>> sum("Group" in op.get_type_name() for op in model.get_ops())
    10
    """

    def __init__(self, *, energy: float = ENERGY, ignored_scope: Any = None, **options: Any) -> None:
        super().__init__(rules.NetworkDecoupling(**options), energy, ignored_scope)


class ChannelDecomposition(_Rewriting):
    """A narrower k x k convolution and a 1 x 1 one (`ndpass.passes.ChannelDecomposition`); as NetworkDecoupling."""

    def __init__(self, *, energy: float = ENERGY, ignored_scope: Any = None, **options: Any) -> None:
        super().__init__(rules.ChannelDecomposition(**options), energy, ignored_scope)


class SpatialDecomposition(_Rewriting):
    """A k x 1 and a 1 x k convolution (`ndpass.passes.SpatialDecomposition`); as NetworkDecoupling."""

    def __init__(self, *, energy: float = ENERGY, ignored_scope: Any = None, **options: Any) -> None:
        super().__init__(rules.SpatialDecomposition(**options), energy, ignored_scope)


def optimize(
    model: ov.Model,
    calibration: Any = None,
    *,
    passes: str | Sequence[rules.Pass] = "cd,nd",
    ignored_scope: Any = None,
    **options: Any,
) -> ov.Model:
    """A model with its convolutions rewritten, fitted to the calibration data; the one that is given stays as it is.

    calibration: an nncf.Dataset or what `ndpass.run` takes. ignored_scope: an nncf.IgnoredScope or anything with
    names, patterns and types of its kind, or a sequence of names. options: those of `ndpass.run`, a budget for one.
    Raises as `ndpass.run`, and UsageError for a scope that names what the model does not have.

    >>> import openvino as ov
    >>> from ndpass.run import digits
    >>> (images, _), _ = digits.images()
    >>> model = ov.Core().read_model(digits.model_path())
    >>> smaller = optimize(model, images, passes="cd:rank=8", latency=False, ignored_scope=["stem"])
    """
    return run(model, passes, calibration=calibration, ignore=ignored(model, ignored_scope), **options).model


show_options(optimize, without=["ignore"])


def ignored(model: ov.Model, scope: Any) -> list[str]:
    """The names of the layers in a scope: names, patterns that a name begins with, types of operators.

    Raises UsageError for subgraphs, and, unless the scope says validate=False, for what is not in the model.
    """
    if scope is None:
        return []
    names = list(getattr(scope, "names", scope if isinstance(scope, list | tuple | set) else ()))
    patterns, types = list(getattr(scope, "patterns", ())), list(getattr(scope, "types", ()))
    if getattr(scope, "subgraphs", None):
        raise UsageError("ignored_scope: subgraphs are not known here: give names, patterns or types")
    ops = [(op.get_friendly_name(), op.get_type_name()) for op in model.get_ops()]
    hits = {("name", n): {name for name, _ in ops if name == n} for n in names}
    hits |= {("pattern", p): {name for name, _ in ops if _begins(p, name)} for p in patterns}
    hits |= {("type", t): {name for name, kind in ops if kind == t} for t in types}
    for (what, text), found in hits.items():
        if not found and getattr(scope, "validate", True):
            raise UsageError(f"ignored_scope: no operator of the model has the {what} '{text}'")
    layers = {found.name for found in OvGraph(model).sites()}
    return sorted(layers & {name for found in hits.values() for name in found})


def _begins(pattern: str, name: str) -> bool:
    try:
        return re.match(pattern, name) is not None
    except re.error as e:
        raise UsageError(f"ignored_scope: '{pattern}' is not a regular expression: {e}") from e
