"""Writes VGG16, ResNet-18 or SSD300 at full size as ONNX, with seeded weights or those of a file.

    python -m benchmarks.models vgg16|resnet18|ssd300 OUT.onnx [--weights FILE.onnx] [--seed N]

It needs neither torch nor a download. Seeded weights are for measurements that depend on sizes and not on what was
learnt; they keep activations of order one at every depth. Trained ones come from an ONNX file of the same network,
whatever its layers are called: README says how torchvision's and those of an SSD's checkpoint get into one.

VGG16 and ResNet-18 take `image` (batch, 3, 224, 224), RGB, normalised with ImageNet's mean and deviation (--preprocess
imagenet); SSD300 takes pixels, see `benchmarks/ssd300.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import onnx

from benchmarks.layers import Network, filled, seeded, tensor
from benchmarks.options import existing
from benchmarks.ssd300 import ssd300
from benchmarks.vgg import blocks, vgg_block

CLASSES = 1000
VGG_LINEAR = 4096  # outputs of the first two linear layers
RESNET18_WIDTHS = (64, 128, 256, 512)  # channels of each stage of two blocks; every stage but the first halves the size
BRANCH_GAIN = 0.5  # on a residual branch's last layer: with 1 the power would double at each of the 8 additions


def vgg(depth: int = 16, width: float = 1.0, size: int = 224) -> Network:
    """VGG (Simonyan & Zisserman 2014) of `depth` layers, of which 3 are linear, `width` times the paper's channels."""
    net = Network(f"vgg{depth}", [tensor("image", ["batch", 3, size, size])], [tensor("fc8", ["batch", CLASSES])])
    x, n_i = "image", 3
    for block, widths in enumerate(blocks(depth, width), 1):
        x = net.max_pool(f"pool{block}", vgg_block(net, block, x, n_i, widths), 2, 2)
        n_i = widths[-1]
    x, inner = net.node("Flatten", "features", x), round(width * VGG_LINEAR)
    x = net.relu(net.linear("fc6", x, n_i * (size // 32) ** 2, inner))
    x = net.relu(net.linear("fc7", x, inner, inner))
    net.linear("fc8", x, inner, CLASSES)
    return net


def resnet18(size: int = 224) -> Network:
    """ResNet-18 (He et al. 2016, Table 1) with the BatchNorms folded, as torch.onnx.export leaves a model in eval mode.

    20 convolutions, the stride in a block's first one, 1x1 where a shortcut changes the size, and 1 linear layer.
    """
    net = Network("resnet18", [tensor("image", ["batch", 3, size, size])], [tensor("fc", ["batch", CLASSES])])
    x = net.relu(net.conv("conv1", "image", 3, 64, 7, stride=2))
    x, n_i = net.max_pool("maxpool", x, 3, 2, 1), 64
    for stage, n_o in enumerate(RESNET18_WIDTHS, 1):
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


BUILDERS: dict[str, Callable[[], Network]] = {"vgg16": vgg, "resnet18": resnet18, "ssd300": ssd300}


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", choices=BUILDERS)
    parser.add_argument("output", type=Path, metavar="OUT.onnx")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--weights", type=existing, metavar="FILE.onnx", help="a trained model of the same network")
    source.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    net = BUILDERS[args.network]()
    onnx.save(filled(net, args.weights) if args.weights else seeded(net, args.seed), args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
