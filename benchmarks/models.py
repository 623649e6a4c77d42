"""`python -m benchmarks.models`: writes VGG16, ResNet-18, ResNeXt-50, SSD300 or U-Net, with seeded or trained weights.

    python -m benchmarks.models vgg16|resnet18|resnext50|ssd300|unet OUT.onnx [--weights FILE.onnx] [--seed N]

Needs neither torch nor a download. Seeded weights are for measurements that depend on sizes alone; they keep
activations of order one at every depth. Trained weights come from an ONNX file of the same network, whatever its layers
are called: docs/reproduce.md says how to export torchvision's weights and those of an SSD checkpoint.

VGG16, ResNet-18 and ResNeXt-50 take `image` (batch, 3, 224, 224), RGB, normalised with ImageNet's mean and deviation
(--preprocess imagenet). SSD300 takes pixels, see `benchmarks/networks/ssd300.py`; U-Net takes one channel of
572x572 and has seeded weights alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx

from benchmarks.networks.by_name import PUBLISHED
from benchmarks.networks.layers import filled, seeded
from benchmarks.options import existing

MINUTES = 1


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", choices=PUBLISHED)
    parser.add_argument("output", type=Path, metavar="OUT.onnx")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--weights", type=existing, metavar="FILE.onnx", help="a trained model of the same network")
    source.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    net = PUBLISHED[args.network]()
    onnx.save(filled(net, args.weights) if args.weights else seeded(net, args.seed), args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
