"""How much work a layer is, so that progress is counted in work and not in layers."""

from __future__ import annotations

from ndpass.graph.graph import Site

LEAST = 2e4  # weights; below this a layer takes as long as any other small one
KEPT = 0.01  # of the work of a rewritten layer: one that stays as it is is only walked through


def planning_work(site: Site) -> float:
    """Of trying every setting of a layer: about in proportion to the number of its weights."""
    return LEAST + site.outline.weight.size


def fitting_work(site: Site, rewritten: bool) -> float:
    """Of fitting a layer to one setting; rewritten: whether it becomes anything else."""
    return planning_work(site) * (1.0 if rewritten else KEPT)
