"""A small trained network and its images, so that every command can be tried without a download.

The images are scikit-learn's copy of the UCI "Optical Recognition of Handwritten Digits" test set: 1,797 grey
images of 8x8 pixels. The network is made by `benchmarks/training/digits.py`, which takes its split from here: the
calibration images are the ones that the network was trained on, the validation images it has never seen.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Labelled: TypeAlias = "tuple[NDArray[np.float32], NDArray[np.int64]]"  # images (N, 1, 8, 8) and labels (N,)

CALIBRATION_IMAGES = 1000
_SPLIT_SEED = 0
_WHITE = 16.0  # pixels count the dark points of a 4x4 cell, so they lie in 0..16


def model_path() -> Path:
    """Where the trained network lies: input `image` (N, 1, 8, 8), output `logits` (N, 10), both float32."""
    return Path(str(files("ndpass.run"))) / "digits.onnx"


def images() -> tuple[Labelled, Labelled]:
    """The images and labels for calibration (1,000) and for validation (797); the same at every call.

    Returns:
        ((calibration_images, calibration_labels), (validation_images, validation_labels)): images as float32
        (N, 1, 8, 8) in 0..1, which is what the network expects; labels as int64 (N,) in 0..9.
    """
    import numpy as np
    from sklearn.datasets import load_digits  # half a second to import: only for those who want images

    pixels, labels = load_digits(return_X_y=True)  # (1797, 64) and (1797,)
    scaled = (pixels / _WHITE).astype(np.float32).reshape(-1, 1, 8, 8)
    # Shuffled because the file lists one writer after another.
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(scaled))
    calibration, validation = order[:CALIBRATION_IMAGES], order[CALIBRATION_IMAGES:]
    return (scaled[calibration], labels[calibration]), (scaled[validation], labels[validation])
