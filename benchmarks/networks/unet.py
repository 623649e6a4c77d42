"""U-Net (Ronneberger et al. 2015, Figure 1): 572x572 pixels to scores of 388x388, without padding."""

from __future__ import annotations

import numpy as np

from benchmarks.networks.layers import Network, tensor

WIDTHS = (64, 128, 256, 512, 1024)  # channels by level; a max-pool halves the size between two levels
CLASSES = 2
SIZE = 572  # pixels; with the paper's unpadded convolutions every max-pool has an even size


def unet(width: float = 1.0) -> Network:
    """`image` (batch, 1, 572, 572) -> `scores` (batch, 2, 388, 388); width: channels as a share of the paper's."""
    net = Network("unet", [tensor("image", ["batch", 1, SIZE, SIZE])], [tensor("scores", ["batch", CLASSES, 388, 388])])
    widths = [max(round(width * n), 1) for n in WIDTHS]
    x, n_i, side, skips = "image", 1, SIZE, []
    for level, n_o in enumerate(widths, 1):
        x, n_i, side = _block(net, f"down{level}", x, n_i, n_o), n_o, side - 4
        if level < len(widths):
            skips.append((x, n_o, side))
            x, side = net.max_pool(f"pool{level}", x, 2, 2), side // 2
    for level, (skip, n_o, size) in reversed(list(enumerate(skips, 1))):
        x, side = net.relu(net.up_conv(f"up{level}.conv", x, n_i, n_o)), 2 * side
        both = net.node("Concat", f"up{level}.both", _cropped(net, f"up{level}.skip", skip, size, side), x, axis=1)
        x, n_i, side = _block(net, f"up{level}", both, 2 * n_o, n_o), n_o, side - 4
    net.conv("scores", x, n_i, CLASSES, 1, gain=0.5**0.5)  # no ReLU follows
    return net


def _block(net: Network, name: str, x: str, n_i: int, n_o: int) -> str:
    """Two 3x3 convolutions without padding, each with a ReLU: four rows and columns fewer."""
    for i, channels in enumerate((n_i, n_o), 1):
        x = net.relu(net.conv(f"{name}_{i}", x, channels, n_o, pad=0))
    return x


def _cropped(net: Network, name: str, x: str, size: int, side: int) -> str:
    """The middle `side` of `size` rows and columns."""
    first = (size - side) // 2
    ends = {"starts": [first, first], "ends": [first + side, first + side], "axes": [2, 3]}
    return net.node("Slice", name, x, *(net.constant(f"{name}.{key}", np.array(v)) for key, v in ends.items()))
