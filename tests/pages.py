"""README and the pages of docs/: their code blocks and commands, and a folder with the files that these speak of.

A block of `sh` holds commands and one of `python` a script, both to be run in that folder; `text` is only shown.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from conftest import small_network
from models import ROOT, network, normal
from PIL import Image

README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WIDE = """(float[n,3,224,224] image) => (float[n,10] scores) {
    a = Conv<pads = [3,3,3,3], strides = [4,4]>(image, w1)  r = Relu(a)
    b = Conv<pads = [1,1,1,1], strides = [2,2]>(r, w2)  s = Relu(b)
    c = Conv<pads = [1,1,1,1]>(s, w3)  t = Relu(c)
    p = GlobalAveragePool(t)  f = Flatten(p)  scores = Gemm(f, w4)
}"""


class Block(NamedTuple):
    """A code block of a page."""

    page: Path
    language: str
    text: str

    @property
    def name(self) -> str:
        lines = [line for line in self.text.splitlines() if line and not line.startswith(("import", "from"))]
        return f"{self.page.stem}: {lines[0][:60]}"


def blocks(page: Path, language: str) -> list[Block]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(page, kind, text) for kind, text in found if kind == language]


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a block of sh, which ends with its line or at `&&`."""
    text = block.text.replace("\\\n", " ").replace("&&", "\n")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def quick(script: str) -> str:
    """The script without milliseconds, which are the machine's and take seconds: by MACs in their place."""
    return re.sub(r"\b(max_drop|macs)=[\d.]+", "macs=0.6, latency=False", script)


def put_small(folder: Path, count: int = 100) -> None:
    """model.onnx, data.npz and images.npy: a small network, noise in the place of images, its answers as labels."""
    onnx.save(small_network(), folder / "model.onnx")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
    (scores,) = ort.InferenceSession(folder / "model.onnx").run(None, {"image": images})
    np.savez(folder / "data.npz", images=images, labels=np.asarray(scores).argmax(axis=1))
    np.save(folder / "images.npy", images)


def put_pictures(folder: Path, name: str = "wide.onnx", count: int = 40) -> None:
    """A network of pictures of 224x224 with seeded weights, and images/, pictures without labels."""
    weights = {"w1": normal(16, 3, 7, 7), "w2": normal(32, 16, 3, 3), "w3": normal(32, 32, 3, 3), "w4": normal(32, 10)}
    onnx.save(network(WIDE, **weights), folder / name)
    (folder / "images").mkdir()
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(coarse).resize((64, 64)).save(folder / "images" / f"{i:03}.jpg")
