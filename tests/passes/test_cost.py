"""What settings cost on a large input, against counting on one, and the steps between numbers of channels."""

from __future__ import annotations

import pytest
from models import normal

from ndpass.calibration.moments import WIDE
from ndpass.conv import Block, Chain, Conv, Sum
from ndpass.passes import NetworkDecoupling
from ndpass.passes.cost import channel_step, macs_per_position

DENSE = Conv(normal(8, 4, 3, 3), strides=(2, 1))
BEFORE = Chain(Conv(normal(6, 4, 1, 1)), Conv(normal(8, 6, 3, 3), strides=(2, 1)))
BEHIND = Chain(Conv(normal(6, 4, 3, 3), strides=(2, 1)), Conv(normal(8, 6, 1, 1)))
SUM_BEFORE = Chain(
    Sum(Conv(normal(6, 4, 3, 3), strides=(2, 1)), Conv(normal(6, 4, 3, 3), strides=(2, 1))), BEHIND.blocks[1]
)


@pytest.mark.parametrize(
    ("block", "macs"),
    [
        (DENSE, 8 * 4 * 9),
        (BEFORE, 2 * 6 * 4 + 8 * 6 * 9),  # at both positions of each stride
        (BEHIND, 6 * 4 * 9 + 8 * 6),
        (SUM_BEFORE, 2 * 6 * 4 * 9 + 8 * 6),
        (Sum(BEFORE, BEHIND), 2 * 6 * 4 + 8 * 6 * 9 + 6 * 4 * 9 + 8 * 6),
    ],
    ids=["dense", "before a stride", "behind a stride", "behind a sum", "a sum"],
)
def test_macs_of_a_position(block: Block, macs: int) -> None:
    assert macs_per_position(block, DENSE) == macs


@pytest.mark.parametrize(("width", "step"), [(1, 1), (31, 1), (32, 8), (33, 8), (63, 8), (64, 16), (65, 16), (512, 16)])
def test_channels_come_in_the_blocks_that_runtimes_store(width: int, step: int) -> None:
    assert channel_step(width) == step


@pytest.mark.parametrize(("n_i", "forms"), [(WIDE // 16 - 1, {"pw-dw", "dw-pw"}), (WIDE // 16, {"dw-pw"})])
def test_behind_another_pass_wide_layers_get_one_form(n_i: int, forms: set[str]) -> None:
    """A layer of WIDE unknowns is wide."""
    conv = Conv(normal(32, n_i, 4, 4))
    inner = NetworkDecoupling().inner(conv)
    assert {setting["form"] for setting in inner} == forms
    assert {setting["rank"] for setting in inner} == {1, 2, 3}
    assert {setting["form"] for setting in NetworkDecoupling(form="pw-dw").inner(conv)} == {"pw-dw"}
