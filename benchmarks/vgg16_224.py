"""Writes VGG16 for 224x224 images with seeded weights: 138,357,544 parameters, 553 MB, no download.

python -m benchmarks.vgg16_224 [-o vgg16_224.onnx]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx

from benchmarks.models import seeded, vgg16


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vgg16_224", description="Write VGG16 at 224x224.")
    parser.add_argument("-o", "--output", type=Path, default=Path("vgg16_224.onnx"), help="the ONNX file to write")
    output: Path = parser.parse_args().output
    onnx.save(seeded(vgg16()), output)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
