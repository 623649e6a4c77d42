"""ResNeXt-50, 32 groups of 4 channels (Xie et al. 2017, Table 1): bottlenecks whose 3x3 convolutions are grouped."""

from __future__ import annotations

from benchmarks.networks.layers import CLASSES, Network, tensor

GROUPS = 32
BLOCKS = (3, 4, 6, 3)  # of each stage; every stage but the first halves the size in its first block
WIDTHS = (128, 256, 512, 1024)  # channels of the grouped convolutions; the stream has twice as many
BRANCH_GAIN = 0.35  # on a residual branch's last layer: with 1 the power would double at each of the 16 additions


def resnext50(size: int = 224) -> Network:
    """`image` (batch, 3, size, size) -> `fc` (batch, 1000), with BatchNorms folded as torch.onnx.export does.

    53 convolutions, the stride in a block's 3x3, 1x1 where a shortcut changes the shape, and 1 linear layer.
    """
    net = Network("resnext50", [tensor("image", ["batch", 3, size, size])], [tensor("fc", ["batch", CLASSES])])
    x = net.relu(net.conv("conv1", "image", 3, 64, 7, stride=2))
    x, n_i = net.max_pool("maxpool", x, 3, 2, 1), 64
    for stage, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), 1):
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            x, n_i = _bottleneck(net, f"layer{stage}.{block}", x, n_i, width, stride), 2 * width
    x = net.node("Flatten", "features", net.node("GlobalAveragePool", "avgpool", x))
    net.linear("fc", x, n_i, CLASSES)
    return net


def _bottleneck(net: Network, name: str, x: str, n_i: int, width: int, stride: int) -> str:
    """relu(F(x) + x), or with a projection of x where F changes its shape."""
    y = net.relu(net.conv(f"{name}.conv1", x, n_i, width, 1))
    y = net.relu(net.conv(f"{name}.conv2", y, width, width, stride=stride, group=GROUPS))
    y = net.conv(f"{name}.conv3", y, width, 2 * width, 1, gain=BRANCH_GAIN)
    if n_i != 2 * width:
        # no ReLU halves the power behind it, which He's factor of 2 makes up for
        x = net.conv(f"{name}.downsample", x, n_i, 2 * width, 1, stride=stride, gain=0.5**0.5)
    return net.relu(net.node("Add", f"{name}.add", y, x))
