"""A detector in the form of YOLO, made faster without a label: what counts is which of its own boxes are found again.

    python examples/detector.py [FOLDER]

The detector finds red and blue squares: seeded convolutions, and a head that is fitted to their features. It gives
(samples, 4 + 2, 400): x, y, width and height in pixels, and two scores, for each of 20x20 cells. Takes some seconds.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper, parser

import ndpass

SIZE, CELL, GRID = 160, 8, 20  # pixels of a picture and of a cell, cells of a side
WIDTHS = (3, 24, 48, 64, 64)  # channels of the backbone
NETWORK = f"""<ir_version: 8, opset_import: ["" : 17]>
detector (float[samples,3,{SIZE},{SIZE}] images) => (float[samples,6,{GRID * GRID}] output0) {{
    c0 = Conv<pads = [1,1,1,1], strides = [2,2]>(images, w0)  f0 = Relu(c0)
    c1 = Conv<pads = [1,1,1,1], strides = [2,2]>(f0, w1)  f1 = Relu(c1)
    c2 = Conv<pads = [1,1,1,1], strides = [2,2]>(f1, w2)  f2 = Relu(c2)
    c3 = Conv<pads = [1,1,1,1]>(f2, w3)  features = Relu(c3)
    raw = Conv(features, head, bias)  rows = Reshape(raw, shape)
    place, size, score = Split<axis = 1>(rows, parts)
    p = Sigmoid(place)  q = Mul(p, cell)  centre = Add(q, corners)
    s = Sigmoid(size)  extent = Mul(s, most)
    scores = Sigmoid(score)
    output0 = Concat<axis = 1>(centre, extent, scores)
}}"""

Floats = NDArray[np.float32]


def pictures(count: int, seed: int) -> tuple[Floats, Floats]:
    """Grey noise with a red and a blue square, (count, 3, SIZE, SIZE); x, y, side of both, (count, 2, 3)."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0.5, 0.1, (count, 1, SIZE, SIZE)).repeat(3, axis=1).astype(np.float32)
    squares = np.concatenate([rng.uniform(24, SIZE - 24, (count, 2, 2)), rng.uniform(16, 40, (count, 2, 1))], axis=2)
    for image, both in zip(images, squares, strict=True):
        for colour, (x, y, side) in zip((0, 2), both, strict=True):
            top, left = int(y - side / 2), int(x - side / 2)
            image[:, top : top + int(side), left : left + int(side)] = 0
            image[colour, top : top + int(side), left : left + int(side)] = 1
    return images, squares.astype(np.float32)


def targets(squares: Floats) -> Floats:
    """What `raw` should be: (count, 6, GRID, GRID); scores of -4, but of 4 in the cell of a square's centre."""
    wanted = np.zeros((len(squares), 6, GRID, GRID), np.float32)
    wanted[:, 4:] = -4
    for target, both in zip(wanted, squares, strict=True):
        for label, (x, y, side) in enumerate(both):
            cell = target[:, int(y) // CELL, int(x) // CELL]
            cell[2:4] = np.log(side / (64 - side))
            cell[4 + label] = 4
    return wanted


def detector(images: Floats, squares: Floats) -> onnx.ModelProto:
    """Seeded backbone; the head by weighted least squares, as cells with a square are few."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": rng.normal(0, (2 / (9 * n)) ** 0.5, (m, n, 3, 3)) for i, (n, m) in enumerate(pairwise(WIDTHS))}
    y, x = np.divmod(np.arange(GRID * GRID), GRID)
    weights |= {"corners": CELL * np.stack([x, y])[None], "cell": np.array(CELL), "most": np.array(64)}
    weights |= {"head": np.zeros((6, WIDTHS[-1], 1, 1)), "bias": np.zeros(6)}
    features = Session(built(weights), "features")(images).swapaxes(0, 1).reshape(WIDTHS[-1], -1).astype(np.float64)
    wanted = targets(squares).swapaxes(0, 1).reshape(6, -1)
    found = (wanted[4:] > 0).any(axis=0)
    A = np.concatenate([features, np.ones((1, features.shape[1]))])
    solutions = []
    for row in range(6):
        weight = np.where(found, 20.0, float(row >= 4))
        solutions.append(np.linalg.solve((A * weight) @ A.T + 1e-3 * np.eye(len(A)), (A * weight) @ wanted[row]))
    fitted = np.stack(solutions)
    return built({**weights, "head": fitted[:, :-1, None, None], "bias": fitted[:, -1]})


def built(weights: dict[str, NDArray[np.float64]]) -> onnx.ModelProto:
    model: onnx.ModelProto = parser.parse_model(NETWORK)
    arrays = {name: array.astype(np.float32) for name, array in weights.items()}
    whole = {"shape": np.array([0, 6, GRID * GRID]), "parts": np.array([2, 2, 2])}
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in {**arrays, **whole}.items())
    return model


class Session:
    """What onnxruntime computes of one tensor of a model."""

    def __init__(self, model: onnx.ModelProto, tensor: str) -> None:
        shown = onnx.ModelProto.FromString(model.SerializeToString())
        shown.graph.output.append(onnx.ValueInfoProto(name=tensor))
        self.session, self.tensor = ort.InferenceSession(shown.SerializeToString()), tensor

    def __call__(self, images: Floats) -> Floats:
        (found,) = self.session.run([self.tensor], {"images": images})
        return np.asarray(found)


def main(folder: Path) -> None:
    onnx.save(detector(*pictures(60, seed=1)), folder / "detector.onnx")
    unlabelled, _ = pictures(100, seed=2)
    # For milliseconds rather than MACs say max_drop=2: the fastest model with F1 within two points.
    result = ndpass.run(folder / "detector.onnx", passes="sd", calibration=unlabelled, metric="detection", macs=0.6)
    result.save(folder / "detector_fast.onnx")
    assert result.report.metric is not None
    print(f"{result.report.metric.name}: {result.report.metric.after:.1f} of 100 ({result.report.metric.reason})")
    print(f"MACs: {result.report.model.macs[0]:,} -> {result.report.model.macs[1]:,}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
