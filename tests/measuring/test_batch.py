"""How many samples are run at once."""

from __future__ import annotations

import math

import pytest
from models import network, normal

from ndpass.graph.graph import Graph
from ndpass.measuring.batch import SHARE, batch_within

WIDEST = 8 * 16 * 16  # elements of y


def wide(batch: str) -> Graph:
    """The weight of the second layer is its largest tensor, but no sample takes more room for it."""
    text = f"(float[{batch},3,16,16] x) => (float[{batch},900] z) {{ y = Conv<pads = [1,1,1,1]>(x, w)  f = Flatten(y)"
    return Graph(network(f"{text}  z = Gemm(f, v) }}", w=normal(8, 3, 3, 3), v=normal(WIDEST, 900)))


@pytest.mark.parametrize(
    ("samples", "batch"), [(0.5, 1), (1, 1), (5.9, 5), (32, 32), (1000, 32)], ids=lambda value: f"{value:g}"
)
def test_the_largest_tensor_takes_a_share_of_the_memory(samples: float, batch: int) -> None:
    graph = wide("batch")
    assert graph.widest() == WIDEST
    assert batch_within(graph, math.ceil(samples * SHARE * 4 * WIDEST), 32) == batch


def test_a_batch_that_the_model_fixes_stays() -> None:
    assert batch_within(wide("4"), 1, 32) == 32
