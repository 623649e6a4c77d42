"""ResNet-18 (He et al. 2016, Table 1)."""

from __future__ import annotations

from benchmarks.networks.layers import CLASSES, Network, tensor

WIDTHS = (64, 128, 256, 512)  # channels of each stage of two blocks; every stage but the first halves the size
BRANCH_GAIN = 0.5  # on a residual branch's last layer: with 1 the power would double at each of the 8 additions


def resnet18(size: int = 224) -> Network:
    """`image` (batch, 3, size, size) -> `fc` (batch, 1000), with BatchNorms folded as torch.onnx.export does.

    20 convolutions, the stride in a block's first one, 1x1 where a shortcut changes the size, and 1 linear layer.
    """
    net = Network("resnet18", [tensor("image", ["batch", 3, size, size])], [tensor("fc", ["batch", CLASSES])])
    x = net.relu(net.conv("conv1", "image", 3, 64, 7, stride=2))
    x, n_i = net.max_pool("maxpool", x, 3, 2, 1), 64
    for stage, n_o in enumerate(WIDTHS, 1):
        for block in range(2):
            x = _basic_block(net, f"layer{stage}.{block}", x, n_i, n_o)
            n_i = n_o
    x = net.node("Flatten", "features", net.node("GlobalAveragePool", "avgpool", x))
    net.linear("fc", x, n_i, CLASSES)
    return net


def _basic_block(net: Network, name: str, x: str, n_i: int, n_o: int) -> str:
    """relu(F(x) + x), or with a projection of x where F halves the size (He et al. 2016, section 3.3, option B)."""
    stride = 1 if n_i == n_o else 2
    y = net.relu(net.conv(f"{name}.conv1", x, n_i, n_o, stride=stride))
    y = net.conv(f"{name}.conv2", y, n_o, n_o, gain=BRANCH_GAIN)
    if n_i != n_o:
        # no ReLU halves the power behind it, which He's factor of 2 makes up for
        x = net.conv(f"{name}.downsample", x, n_i, n_o, 1, stride=stride, gain=0.5**0.5)
    return net.relu(net.node("Add", f"{name}.add", y, x))
