"""The convolutions of VGG16 (Simonyan & Zisserman 2014, configuration D), which SSD300 is built on too."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.layers import Network

BLOCKS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)  # channels; a max-pool ends each block


def vgg_block(net: Network, block: int, x: str, n_i: int, widths: Sequence[int], gain: float = 1.0) -> str:
    """3x3 convolutions `conv<block>_1`, ... to so many channels, each with a ReLU; gain: of the first one."""
    for i, n_o in enumerate(widths, 1):
        x = net.relu(net.conv(f"conv{block}_{i}", x, n_i, n_o, gain=gain if i == 1 else 1.0))
        n_i = n_o
    return x
