"""SSD300 on VGG16 (Liu et al. 2016, arXiv 1512.02325): from pixels to boxes, everything in the graph.

    image   (1, 3, 300, 300) float32, RGB, 0..255: any image resized to 300x300 (--preprocess size=300)
    boxes   (detections, 4)  x1, y1, x2, y2 as shares of the image's width and height
    scores  (detections,)    probability of the class, falling
    classes (detections,)    1..20, of Pascal VOC in alphabetical order; 0 would be the background

Six feature maps predict, at each of their positions and for each of its priors, four offsets and 21 class scores
(another data set's classes and one, where they are other ones). With a prior (x, y, w, h) in shares of the image and
offsets l a box is

    centre (x + 0.1 l0 w, y + 0.1 l1 h)    size (w exp(0.2 l2), h exp(0.2 l3))

Scores below 0.01 are dropped, then boxes that overlap a better one of their class by more than 0.45, then all but the
best 200 (section 3.1 and "Inference time"). Layers are named as in the paper's Figure 2: conv6 and conv7 are VGG16's
fc6 and fc7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.networks.layers import Network, tensor
from benchmarks.networks.vgg import blocks, vgg_block

SIZE, CLASSES = 300, 21
MEAN_BGR = (104.0, 117.0, 123.0)  # of ImageNet, subtracted from pixels 0..255 (Caffe's VGG16)
PIXEL_GAIN = 1 / 64  # on the first layer's seeded weights: pixels less the mean are about so much larger than 1
HEAD_GAIN = 0.3  # on the heads' seeded weights: offsets and scores of order one, no probability so near 1 that many tie
NORM_SCALE = 20.0  # conv4_3's channels are brought to this length at every position (section 3.1)
VARIANCES = (0.1, 0.2)
SCORE, OVERLAP, KEPT = 0.01, 0.45, 200


@dataclass(frozen=True)
class FeatureMap:
    """A map that boxes are predicted from; side: positions a row; step: pixels between positions.

    small, large: pixels, the scales s_k and s_{k+1} of section 2.2. ratios: aspect ratios beside 1 and their inverses.
    """

    name: str
    side: int
    step: int
    small: int
    large: int
    ratios: tuple[int, ...]

    @property
    def priors(self) -> int:
        """How many boxes there are at one position."""
        return 2 + 2 * len(self.ratios)


# s_k runs from 0.2 to 0.9 in steps of 0.17, before it 0.1 for conv4_3; steps are those of the authors' models, which
# are not 300 / side where the side was rounded
MAPS = (
    FeatureMap("conv4_3", 38, 8, 30, 60, (2,)),
    FeatureMap("conv7", 19, 16, 60, 111, (2, 3)),
    FeatureMap("conv8_2", 10, 32, 111, 162, (2, 3)),
    FeatureMap("conv9_2", 5, 64, 162, 213, (2, 3)),
    FeatureMap("conv10_2", 3, 100, 213, 264, (2,)),
    FeatureMap("conv11_2", 1, 300, 264, 315, (2,)),
)
EXTRA = (  # name, channels of its 1x1 and of its 3x3 convolution, stride and pad of the latter
    ("conv8", 256, 512, 2, 1),
    ("conv9", 128, 256, 2, 1),
    ("conv10", 128, 256, 1, 0),
    ("conv11", 128, 256, 1, 0),
)


def ssd300(width: float = 1.0, classes: int = CLASSES) -> Network:
    """The whole network; width: share of the channels in every layer but the heads, for a small one of equal form.

    classes: those that are told apart, the background among them.
    """
    outputs = [
        tensor("boxes", ["detections", 4]),
        tensor("scores", ["detections"]),
        tensor("classes", ["detections"], TensorProto.INT64),
    ]
    net = Network("ssd300", [tensor("image", [1, 3, SIZE, SIZE])], outputs)
    maps = _features(net, width)
    offsets, scores = [], []
    for spec, (x, n_i) in zip(MAPS, maps, strict=True):
        offsets.append(_head(net, f"{spec.name}.loc", x, n_i, spec.priors, 4))
        scores.append(_head(net, f"{spec.name}.conf", x, n_i, spec.priors, classes))
    boxes = _decode(net, net.node("Concat", "offsets", *offsets, axis=1))
    probabilities = net.node("Softmax", "probabilities", net.node("Concat", "logits", *scores, axis=1), axis=2)
    _select(net, boxes, probabilities, classes)
    return net


def prior_boxes() -> NDArray[np.float32]:
    """(8732, 4): centre x, centre y, width, height in shares of the image; positions row by row (section 2.2)."""
    return np.concatenate([_priors(spec) for spec in MAPS]).astype(np.float32)


def _priors(spec: FeatureMap) -> NDArray[np.float64]:
    """(side² · priors, 4). The sizes at a position: ratio 1 at both scales, then each ratio and its inverse."""
    between = math.sqrt(spec.small * spec.large)
    sizes = [(spec.small, spec.small), (between, between)]
    for ratio in (r for a in spec.ratios for r in (a, 1 / a)):
        sizes.append((spec.small * math.sqrt(ratio), spec.small / math.sqrt(ratio)))
    centres = (np.arange(spec.side) + 0.5) * spec.step
    y, x = np.meshgrid(centres, centres, indexing="ij")
    places = np.stack([x, y], axis=-1).reshape(-1, 1, 2)  # (side², 1, 2)
    shape = (len(places), len(sizes), 2)
    both = np.broadcast_to(places, shape), np.broadcast_to(np.array(sizes)[None], shape)
    return np.concatenate(both, axis=-1).reshape(-1, 4) / SIZE  # (side², priors, 4) -> (side² · priors, 4)


def _features(net: Network, width: float) -> list[tuple[str, int]]:
    """The six maps and their channels."""

    def narrow(channels: int) -> int:
        return max(round(width * channels), 1)

    x, n_i, maps = _pixels(net), 3, []
    for block, widths in enumerate(blocks(16), 1):
        x = vgg_block(net, block, x, n_i, [narrow(n) for n in widths], PIXEL_GAIN if block == 1 else 1.0)
        n_i = narrow(widths[-1])
        if block == 4:
            maps.append((_normalised(net, x, n_i), n_i))
        # pool3 rounds 37.5 up to 38; pool5 keeps the size, for which conv6 sees as far with a dilation
        x = net.max_pool(f"pool{block}", x, *((2, 2, 0) if block < 5 else (3, 1, 1)), ceil=block == 3)
    x = net.relu(net.conv("conv6", x, n_i, narrow(1024), dilation=6))
    x = net.relu(net.conv("conv7", x, narrow(1024), narrow(1024), 1))
    maps.append((x, narrow(1024)))
    for name, inner, outer, stride, pad in EXTRA:
        x = net.relu(net.conv(f"{name}_1", x, maps[-1][1], narrow(inner), 1))
        x = net.relu(net.conv(f"{name}_2", x, narrow(inner), narrow(outer), stride=stride, pad=pad))
        maps.append((x, narrow(outer)))
    return maps


def _pixels(net: Network) -> str:
    """RGB to BGR, less the mean."""
    bgr = _pick(net, "bgr", "image", [2, 1, 0], 1)
    mean = net.constant("bgr.mean", np.array(MEAN_BGR, np.float32).reshape(1, 3, 1, 1))
    return net.node("Sub", "pixels", bgr, mean)


def _normalised(net: Network, x: str, channels: int) -> str:
    """x / (‖x‖ over channels), times a learnt factor a channel (Liu et al. 2015, ParseNet)."""
    length = net.node("ReduceL2", "conv4_3_norm.length", x, axes=[1], keepdims=1)
    tiny = _number(net, "conv4_3_norm.tiny", 1e-10)  # where all channels are 0
    unit = net.node("Div", "conv4_3_norm.unit", x, net.node("Add", "conv4_3_norm.divisor", length, tiny))
    scale = net.constant("conv4_3_norm.scale", np.full((1, channels, 1, 1), NORM_SCALE, np.float32))
    return net.node("Mul", "conv4_3_norm", unit, scale)


def _head(net: Network, name: str, x: str, n_i: int, priors: int, numbers: int) -> str:
    """(1, n_i, side, side) -> (1, side² · priors, numbers)"""
    y = net.conv(name, x, n_i, priors * numbers, gain=HEAD_GAIN)
    rows = net.node("Transpose", f"{name}.rows", y, perm=[0, 2, 3, 1])
    return net.node("Reshape", f"{name}.flat", rows, net.constant(f"{name}.shape", np.array([0, -1, numbers])))


def _decode(net: Network, offsets: str) -> str:
    """Offsets (1, 8732, 4) -> corners (1, 8732, 4): x1, y1, x2, y2."""
    priors = prior_boxes()[None]  # (1, 8732, 4)
    centre, size = net.constant("priors.centre", priors[..., :2]), net.constant("priors.size", priors[..., 2:])
    shift, stretch = (
        net.node("Mul", f"{name}.scaled", _pick(net, name, offsets, columns, 2), _number(net, f"{name}.factor", factor))
        for name, columns, factor in (("shift", [0, 1], VARIANCES[0]), ("stretch", [2, 3], VARIANCES[1]))
    )
    middle = net.node("Add", "middle", net.node("Mul", "shift.sized", shift, size), centre)
    extent = net.node("Mul", "extent", net.node("Exp", "stretch.exp", stretch), size)
    half = net.node("Mul", "half", extent, _number(net, "half.factor", 0.5))
    low, high = net.node("Sub", "corner.low", middle, half), net.node("Add", "corner.high", middle, half)
    return net.node("Concat", "corners", low, high, axis=2)


def _select(net: Network, corners: str, probabilities: str, classes: int) -> None:
    """Corners (1, 8732, 4), probabilities (1, 8732, classes) -> the outputs."""
    by_class = net.node("Transpose", "by_class", probabilities, perm=[0, 2, 1])  # (1, classes, 8732)
    scores = _pick(net, "objects", by_class, range(1, classes), 1)
    most = net.constant("most", np.array([KEPT]))
    limits = _number(net, "nms.overlap", OVERLAP), _number(net, "nms.score", SCORE)
    # overlaps do not change when x and y swap their places, so corners need not be y1, x1, y2, x2 for it
    found = net.node("NonMaxSuppression", "found", corners, scores, most, *limits)  # (n, 3): image, class - 1, box
    count = _pick(net, "found.count", net.node("Shape", "found.shape", found), [0], 0)
    ranked = net.node("GatherND", "found.scores", scores, found), net.node("Min", "kept", count, most)
    net.nodes.append(helper.make_node("TopK", ranked, ["scores", "order"], "top"))
    best = net.node("Gather", "best", found, "order", axis=0)  # (k, 3)
    first = net.constant("background", np.array(1))
    net.node("Add", "classes", _pick(net, "best.class", best, 1, 1), first)
    places = net.node(
        "Gather", "best.corners", _pick(net, "image.corners", corners, 0, 0), _pick(net, "best.box", best, 2, 1), axis=0
    )  # (8732, 4) -> (k, 4)
    net.node("Clip", "boxes", places, _number(net, "left.top", 0.0), _number(net, "right.bottom", 1.0))


def _pick(net: Network, name: str, x: str, index: int | Sequence[int], axis: int) -> str:
    """One or several entries of x along an axis, known beforehand; one alone takes the axis away."""
    return net.node("Gather", name, x, net.constant(f"{name}.index", np.array(index)), axis=axis)


def _number(net: Network, name: str, value: float) -> str:
    return net.constant(name, np.array(value, np.float32))
