"""The convolutions of VGG (Simonyan & Zisserman 2014, Table 1); SSD300 is built on those of VGG16 too."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.layers import Network

CHANNELS = (64, 128, 256, 512, 512)  # a max-pool ends each block
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # by depth


def blocks(depth: int, width: float = 1.0) -> tuple[tuple[int, ...], ...]:
    """Channels of each convolution, block by block, times `width`."""
    return tuple((round(width * n),) * count for n, count in zip(CHANNELS, CONVOLUTIONS[depth], strict=True))


BLOCKS = blocks(16)


def vgg_block(net: Network, block: int, x: str, n_i: int, widths: Sequence[int], gain: float = 1.0) -> str:
    """3x3 convolutions `conv<block>_1`, ... to so many channels, each with a ReLU; gain: of the first one."""
    for i, n_o in enumerate(widths, 1):
        x = net.relu(net.conv(f"conv{block}_{i}", x, n_i, n_o, gain=gain if i == 1 else 1.0))
        n_i = n_o
    return x
