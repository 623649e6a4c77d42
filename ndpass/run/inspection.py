"""`ndpass inspect`: every layer with weights, what it costs, and how much of its weights nd keeps at each T."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ndpass.graph.graph import Graph, Site
from ndpass.passes import NetworkDecoupling
from ndpass.passes.network_decoupling import FORMS, blueprint_share, energy

RANKS = (1, 2, 3, 4)  # the T of Guo et al. 2018, Figure 3


@dataclass(frozen=True)
class Row:
    """A layer with weights.

    share: of the model's MACs; energy: form of nd -> share of ‖W‖² kept at T = 1…4; blueprint: the share that BSConv's
    blueprints explain; both None where nd cannot rewrite the layer, for the reason given.
    """

    name: str
    op: str
    shape: tuple[int, ...] | None
    in_hw: tuple[int, ...] | None
    macs: int | None
    share: float | None
    energy: dict[str, list[float]] | None
    blueprint: float | None
    reason: str | None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def inspect(graph: Graph) -> Iterator[Row]:
    """A row for every layer with weights, in graph order; `reason` says why nd leaves it alone."""
    total = graph.macs() or 1
    rule = NetworkDecoupling()
    for found in graph.sites():
        if not isinstance(found, Site):
            share = None if found.macs is None else found.macs / total
            yield Row(found.name, found.op, found.shape, None, found.macs, share, None, None, found.reason)
            continue
        macs = found.macs(found.outline)
        share = None if macs is None else macs / total
        reason = rule.refuse(found.outline)
        kept, blueprint = (None, None) if reason else _figures(found)
        shape = tuple(found.outline.weight.shape)
        yield Row(found.name, found.op, shape, found.in_hw, macs, share, kept, blueprint, reason)


def _figures(site: Site) -> tuple[dict[str, list[float]], float]:
    weight = site.conv.weight
    kept = {}
    for form in FORMS:
        shares = energy(weight, form)
        kept[form] = [float(shares[min(t, len(shares)) - 1]) for t in RANKS]
    return kept, blueprint_share(weight)
