"""VGG (Simonyan & Zisserman 2014, Table 1). SSD300 is built on the convolutions of VGG16, too."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.networks.layers import CLASSES, Network, tensor

CHANNELS = (64, 128, 256, 512, 512)  # a max-pool ends each block
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # by depth
LINEAR = 4096  # outputs of the first two linear layers


def vgg(depth: int = 16, width: float = 1.0, size: int = 224) -> Network:
    """`image` (batch, 3, size, size) -> `fc8` (batch, 1000): `depth` layers, of which 3 are linear.

    width: channels of every layer but the last, as a share of the paper's.
    """
    net = Network(f"vgg{depth}", [tensor("image", ["batch", 3, size, size])], [tensor("fc8", ["batch", CLASSES])])
    x, n_i = "image", 3
    for block, widths in enumerate(blocks(depth, width), 1):
        x = net.max_pool(f"pool{block}", vgg_block(net, block, x, n_i, widths), 2, 2)
        n_i = widths[-1]
    x, inner = net.node("Flatten", "features", x), round(width * LINEAR)
    x = net.relu(net.linear("fc6", x, n_i * (size // 32) ** 2, inner))
    x = net.relu(net.linear("fc7", x, inner, inner))
    net.linear("fc8", x, inner, CLASSES)
    return net


def blocks(depth: int, width: float = 1.0) -> tuple[tuple[int, ...], ...]:
    """Channels of each convolution, block by block, times `width`."""
    return tuple((round(width * n),) * count for n, count in zip(CHANNELS, CONVOLUTIONS[depth], strict=True))


def vgg_block(net: Network, block: int, x: str, n_i: int, widths: Sequence[int], gain: float = 1.0) -> str:
    """3x3 convolutions `conv<block>_1`, ... of these widths in channels, each with a ReLU; gain: of the first one."""
    for i, n_o in enumerate(widths, 1):
        x = net.relu(net.conv(f"conv{block}_{i}", x, n_i, n_o, gain=gain if i == 1 else 1.0))
        n_i = n_o
    return x
