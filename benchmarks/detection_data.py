"""`python -m benchmarks.detection_data`: makes a detection set of CIFAR-10 objects pasted on textures, as Pascal VOC.

    python -m benchmarks.detection_data FOLDER --train cifar10_train.npz --test cifar10_test.npz

writes FOLDER/JPEGImages/train_00000.jpg ..., Annotations/train_00000.xml ... and ImageSets/Main/{train,test}.txt: 2,000
training and 500 test images of 300x300 pixels, each with one to four objects of 40 to 220 pixels that hardly overlap.
The .npz files hold `images` uint8 (N, 32, 32, 3), RGB, and `labels` (N,), 0..9 in the order of `NAMES`; an object is
one of these images as a whole, enlarged, so its box is known exactly. Training objects come from the one file, test
objects from the other. An image depends on the seed, its set and its number alone: the same command writes the same
images.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import options

MINUTES = 3
# classes of CIFAR-10 (Krizhevsky 2009), whose order is alphabetical; a network's class 0 is the background
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 300  # pixels a side
COUNTS = {"train": 2000, "test": 500}
OBJECTS = (1, 4)  # an image, both inclusive
SIDES = (40, 220)  # pixels of an object
RATIO = 1.4  # an object's width over its height is between this and its inverse
COVERED = 0.1  # share of the smaller of two objects that the other may cover
TRIES = 20  # places that are tried for an object before it is left out
QUALITY = 92  # of the JPEG

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """An image and its objects. boxes: (objects, 4) x1, y1, x2, y2 in pixels, the far edge outside; labels: 1..10."""

    path: Path
    boxes: Floats
    labels: Ints

    def pixels(self) -> Image.Image:
        """RGB."""
        return Image.open(self.path).convert("RGB")


def main() -> None:
    args = arguments()
    for number, (part, source) in enumerate((("train", args.train), ("test", args.test))):
        count = getattr(args, f"{part}_images")
        make(args.folder, part, source, count, (args.seed, number))
        print(f"{count} {part} images, objects of {source.name}")
    print(f"wrote {args.folder}")


def arguments() -> argparse.Namespace:
    parser = options.described(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=options.existing, required=True, metavar="FILE.npz")
    parser.add_argument("--test", type=options.existing, required=True, metavar="FILE.npz")
    for part, count in COUNTS.items():
        parser.add_argument(f"--{part}-images", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make(folder: Path, part: str, source: Path, count: int, seed: Sequence[int]) -> None:
    """Write one set; part: its name, source: the .npz of its objects."""
    stored = np.load(source)
    images, labels = stored["images"], stored["labels"]
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    stems = [f"{part}_{i:05}" for i in range(count)]
    for i, stem in enumerate(stems):
        canvas, boxes, chosen = scene(np.random.default_rng([*seed, i]), images)
        Image.fromarray(canvas).save(folder / "JPEGImages" / f"{stem}.jpg", quality=QUALITY)
        annotation(stem, boxes, [NAMES[labels[c]] for c in chosen]).write(folder / "Annotations" / f"{stem}.xml")
    (folder / "ImageSets/Main" / f"{part}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def read(folder: Path, part: str) -> list[Example]:
    """The images of ImageSets/Main/<part>.txt in its order, with the objects of their annotations."""
    stems = (folder / "ImageSets/Main" / f"{part}.txt").read_text().split()
    return [_read_one(folder, stem) for stem in stems]


def _read_one(folder: Path, stem: str) -> Example:
    objects = ElementTree.parse(folder / "Annotations" / f"{stem}.xml").getroot().findall("object")
    labels = [NAMES.index(o.findtext("name", "")) + 1 for o in objects]
    corners = [[float(o.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
    boxes = np.array(corners).reshape(-1, 4) - (1, 1, 0, 0)  # VOC counts pixels from 1 and includes the last
    return Example(folder / "JPEGImages" / f"{stem}.jpg", boxes, np.array(labels, np.int64))


def scene(rng: np.random.Generator, images: Pixels) -> tuple[Pixels, Ints, list[int]]:
    """Pixels (300, 300, 3), boxes (objects, 4) as in `Example`, and which of `images` (N, 32, 32, 3) they are."""
    canvas = texture(rng)
    boxes: list[Ints] = []
    chosen: list[int] = []
    for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        box = _place(rng, boxes)
        if box is None:
            continue
        boxes.append(box)
        chosen.append(int(rng.integers(len(images))))
        x1, y1, x2, y2 = box
        canvas[y1:y2, x1:x2] = _enlarged(images[chosen[-1]], x2 - x1, y2 - y1)
    return canvas, np.array(boxes, np.int64), chosen


def texture(rng: np.random.Generator) -> Pixels:
    """(300, 300, 3): smooth noise of random roughness in random colours, in half of the images with a grating."""
    roughness, canvas = rng.uniform(0.4, 1.0), np.zeros((SIZE, SIZE, 3))
    for octave in range(1, 8):  # cells of 150 down to 2 pixels
        noise = rng.standard_normal((2**octave + 1,) * 2).astype(np.float32)
        fine = np.asarray(Image.fromarray(noise).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        canvas += roughness**octave * fine[..., None] * rng.uniform(-1, 1, 3)
    if rng.random() < 0.5:
        canvas += canvas.std() * _grating(rng)[..., None] * rng.uniform(-1.5, 1.5, 3)
    contrast, colour = rng.uniform(15, 60), rng.uniform(50, 205, 3)
    return np.asarray((canvas / canvas.std() * contrast + colour).clip(0, 255), np.uint8)


def _grating(rng: np.random.Generator) -> Floats:
    """(300, 300): waves of 8 to 80 pixels in a random direction, smooth or as stripes."""
    angle, period, phase = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(8), np.log(80))), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:SIZE, :SIZE]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + phase)
    return np.asarray(np.sign(wave) if rng.random() < 0.5 else wave, np.float64)


def _place(rng: np.random.Generator, others: Sequence[Ints]) -> Ints | None:
    """A box (4,) that hardly overlaps the others, None if none was found. Every size is as likely on a log scale."""
    for _ in range(TRIES):
        side, ratio = np.exp(rng.uniform(*np.log(SIDES))), RATIO ** rng.uniform(-0.5, 0.5)
        size = np.round([side * ratio, side / ratio]).clip(*SIDES).astype(np.int64)
        corner = rng.integers(0, SIZE - size + 1)
        box = np.concatenate([corner, corner + size])
        if all(_covered(box, other) <= COVERED for other in others):
            return box
    return None


def _covered(box: Ints, other: Ints) -> float:
    """Their common area over that of the smaller one."""
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    common = np.prod(np.maximum(high - low, 0))
    return float(common / min(np.prod(b[2:] - b[:2]) for b in (box, other)))


def _enlarged(image: Pixels, width: int, height: int) -> Pixels:
    """(32, 32, 3) -> (height, width, 3)"""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def annotation(stem: str, boxes: Ints, names: Sequence[str]) -> ElementTree.ElementTree:
    """The file of one image in the form of VOC, as far as detection goes."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"{stem}.jpg"
    _children(ElementTree.SubElement(root, "size"), {"width": SIZE, "height": SIZE, "depth": 3})
    for (x1, y1, x2, y2), name in zip(boxes.tolist(), names, strict=True):
        item = ElementTree.SubElement(root, "object")
        _children(item, {"name": name, "difficult": 0})
        _children(ElementTree.SubElement(item, "bndbox"), {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2})
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _children(parent: ElementTree.Element, texts: dict[str, object]) -> None:
    for key, text in texts.items():
        ElementTree.SubElement(parent, key).text = str(text)


if __name__ == "__main__":
    main()
