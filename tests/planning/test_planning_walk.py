"""How many patches a plan looks at, of those that a fit is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from models import residual

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.patches import Sample
from ndpass.calibration.reference import Calibration
from ndpass.conv import Conv
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.planning import planning_walk
from ndpass.planning.planning_walk import PlanningWalk, every


def sites(graph: Graph) -> list[Site]:
    return [site for site in graph.sites() if isinstance(site, Site)]


@pytest.mark.parametrize(
    ("channels", "images", "each", "wanted"),
    [
        (512, 96, 417, 2),  # 40,032 rows of 4,608 unknowns: 20,000 are enough
        (512, 96, 225, 1),  # 21,600: all
        (128, 96, 209, 2),  # 20,064 of 1,152 unknowns: 10,000
        (3, 5_000, 4, 2),
        (3, 20_000, 1, 1),  # one in each image
        (3, 100, 64, 1),
    ],
)
def test_a_plan_looks_at_as_many_patches_as_it_needs(channels: int, images: int, each: int, wanted: int) -> None:
    weight = np.broadcast_to(np.float32(0), (8, channels, 3, 3))
    site = replace(sites(Graph(residual()))[0], outline=Conv(weight))
    sample = Sample(np.broadcast_to(np.arange(each), (images, each)))
    assert every(site, sample) == wanted
    assert sample.thinned(wanted).rows <= sample.rows


def test_what_is_planned_on_and_what_is_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning_walk, "FEWEST", 300)
    graph = Graph(residual())
    images = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    calibration = Calibration.of(graph, sites(graph), open_feeds(images, graph.inputs()), 1, 0, 1 << 30)
    planned, fitted = PlanningWalk(calibration, graph, parse("cd")), calibration.walk(graph)
    for site in sites(graph):
        few, all_of_them = planned.moments(site), fitted.moments(site)
        assert few is not None
        assert all_of_them.count == calibration.chosen[site.name].rows
        one_of = every(site, calibration.chosen[site.name])
        assert few.count == calibration.chosen[site.name].thinned(one_of).rows
        assert (few.count < all_of_them.count) == (one_of > 1)
    assert every(sites(graph)[0], calibration.chosen[sites(graph)[0].name]) > 1
