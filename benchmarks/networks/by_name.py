"""The networks by the names that commands, files and rows have for them."""

from __future__ import annotations

import re
from collections.abc import Callable

from benchmarks.networks.layers import Network
from benchmarks.networks.resnet18 import resnet18
from benchmarks.networks.resnext50 import resnext50
from benchmarks.networks.ssd300 import ssd300
from benchmarks.networks.unet import unet
from benchmarks.networks.vgg import vgg

PUBLISHED: dict[str, Callable[[], Network]] = {  # at full size
    "vgg16": vgg,
    "resnet18": resnet18,
    "resnext50": resnext50,
    "ssd300": ssd300,
    "unet": unet,
}


def sized(name: str) -> Network:
    """`vgg<depth>[x<width>]_<size>` or `resnet18_<size>`: vgg16x0.5_64 is VGG16 with half the channels at 64x64.

    Raises SystemExit for another name.
    """
    found = re.fullmatch(r"(?:vgg(\d+)(?:x([\d.]+))?|resnet18)_(\d+)", name)
    if found is None:
        raise SystemExit(f"networks are called vgg16_224, vgg16x0.5_64 or resnet18_64; got {name}")
    depth, width, size = found.groups()
    return vgg(int(depth), float(width or 1), int(size)) if depth else resnet18(int(size))
