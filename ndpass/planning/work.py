"""How much work a layer is, so that progress is counted in work and not in layers.

Measured with 300 and 500 images on VGG16 and ResNet-20 for CIFAR-10: seconds of a layer go with the power POWER of the
number of its weights, within a quarter, from 2,000 to 2,000,000 of them.
"""

from __future__ import annotations

import math

from ndpass.graph.graph import Site

LEAST = 5_000  # weights; below this a layer takes as long as any other small one
POWER = 0.65
KEPT = 0.01  # of the work of a rewritten layer: one that stays as it is is only walked through


def planning_work(site: Site) -> float:
    """Of trying the settings of a layer, in a unit of its own."""
    return math.pow(LEAST + site.outline.weight.size, POWER)


def fitting_work(site: Site, rewritten: bool) -> float:
    """Of fitting a layer to one setting; rewritten: whether it becomes anything else."""
    return planning_work(site) * (1.0 if rewritten else KEPT)
