"""From PyTorch to a faster model in OpenVINO: train, export, rewrite, answer.

    pip install torch onnxscript
    python examples/torch_classifier.py [FOLDER]

A small network learns scikit-learn's digits in some seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

import ndpass


def data() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images (1797, 1, 8, 8) in 0..1 and labels, shuffled."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (pixels[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels[order]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 16, 10),
    )


def trained(images: NDArray[np.float32], labels: NDArray[np.int64], epochs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    return model.eval()


def main(folder: Path) -> None:
    images, labels = data()
    fit, test = slice(0, 1000), slice(1000, None)
    model = trained(images[fit], labels[fit])
    batch = torch.export.Dim("batch")
    example = torch.zeros(2, 1, 8, 8)
    path = folder / "digits.onnx"
    torch.onnx.export(model, (example,), str(path), dynamic_shapes=({0: batch},), external_data=False, verbose=False)

    # The calibration images need no labels. For milliseconds rather than MACs say max_drop=1.
    np.savez(folder / "test.npz", images=images[test], labels=labels[test])
    result = ndpass.run(path, passes="sd", calibration=images[fit], validation=folder / "test.npz", macs=0.5)
    result.save(folder / "digits_fast.xml")
    assert result.report.metric is not None
    print(f"accuracy: {result.report.metric.before:.2f} % -> {result.report.metric.after:.2f} %")

    compiled = ov.Core().compile_model(folder / "digits_fast.xml", "CPU")
    answer = compiled(images[1000:1001])[0].argmax()
    print(f"a {labels[1000]} is taken for a {answer}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
