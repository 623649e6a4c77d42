"""Inputs that networks of `benchmarks.real` know: cuttings of photographs, faces, pages, lines of text, brains, music.

They say whether a rewritten network agrees with the original, not how good it is at its task. One input depends on the
seed, its kind and its number alone.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.networks import registry
from benchmarks.networks.real_networks import BRAIN

Random = np.random.Generator
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "moon")  # of skimage.data
FACE = (64, 160, 240, 290)  # top, left, bottom and right of astronaut's
TEXT = "latency budget layer error kernel rank channel image model batch graph output input fast table plan"
WORDS = TEXT.split()
SIDE = 384  # pixels of a picture
BRAIN_SIDE = 240
LINE = (48, 320)  # height and width
RATE, SAMPLES = 22050, 43844  # of music: per second, and of one input
NIFTI_KINDS = {2: "u1", 4: "<i2", 16: "<f4"}  # data types of a NIfTI-1 file


def made(kind: str, folder: Path, count: int, seed: int = 0) -> Path:
    """A folder of `count` PNG files, or a .npy of music (count, 43844, 1), in `folder`; made where it is not there."""
    out = folder / (f"{kind}_{count}.npy" if kind == "music" else f"{kind}_{count}")
    if out.exists():
        return out
    folder.mkdir(parents=True, exist_ok=True)
    randoms = (np.random.default_rng([seed, zlib.crc32(kind.encode()), i]) for i in range(count))
    if kind == "music":
        np.save(out, np.stack([music(rng) for rng in randoms]))
        return out
    draw = KINDS.get(kind) or brain_of(registry.content(BRAIN, folder))
    part = out.with_name(f"{out.name}.part")  # a folder that is there is whole
    part.mkdir(exist_ok=True)
    for i, rng in enumerate(randoms):
        draw(rng).save(part / f"{i:04}.png")
    return part.rename(out)


def nature(rng: Random) -> Image.Image:
    """A square cut out of a photograph, 384x384."""
    photograph = _photograph(PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))])
    width, height = photograph.size
    side = int(rng.integers(min(160, width, height), min(width, height) + 1))
    left, top = (int(rng.integers(length - side + 1)) for length in (width, height))
    return photograph.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))


def face(rng: Random) -> Image.Image:
    """A face, moved, in half of the pictures, else what is none; 384x384."""
    if rng.random() < 0.5:
        return nature(rng)
    top, left, bottom, right = FACE
    side = int((bottom - top) * rng.uniform(0.8, 1.5))
    y, x = (middle + rng.normal(0, 12) - side / 2 for middle in ((top + bottom) / 2, (left + right) / 2))
    found = _photograph("astronaut").rotate(rng.uniform(-15, 15), center=((left + right) / 2, (top + bottom) / 2))
    found = found.crop((int(x), int(y), int(x) + side, int(y) + side)).resize((SIDE, SIDE))
    found = found.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else found
    return _image(np.asarray(found) * rng.uniform(0.6, 1.3))


def page(rng: Random) -> Image.Image:
    """Two to nine pieces of text on a photograph or on plain paper, turned a little; 384x384."""
    found = nature(rng) if rng.random() < 0.6 else Image.new("RGB", (SIDE, SIDE), _colour(rng, 150))
    draw = ImageDraw.Draw(found)
    for _ in range(rng.integers(2, 10)):
        place = (int(rng.integers(-10, 280)), int(rng.integers(360)))
        font = ImageFont.load_default(int(rng.integers(10, 45)))
        draw.text(place, " ".join(rng.choice(WORDS, rng.integers(1, 4))), fill=_colour(rng), font=font)
    return found.rotate(rng.uniform(-8, 8))


def line(rng: Random) -> Image.Image:
    """One line of text, sometimes upside down, 48x320."""
    height, width = LINE
    paper, ink = (_colour(rng, 170), _colour(rng, 0, 110))
    found = Image.new("RGB", (width, height), paper)
    text = " ".join(rng.choice(WORDS, rng.integers(1, 4)))
    ImageDraw.Draw(found).text((6, 8), text, fill=ink, font=ImageFont.load_default(int(rng.integers(22, 34))))
    pixels = np.asarray(found.rotate(rng.uniform(-2, 2), fillcolor=paper), np.float64)
    noisy = pixels + rng.normal(0, rng.uniform(0, 12), pixels.shape)
    return _image(noisy).rotate(180 if rng.random() < 0.3 else 0)


def brain_of(packed: bytes) -> Callable[[Random], Image.Image]:
    """Slices through a brain's T1 image, half of them with a bright spot, 240x240. packed: bytes of a .nii.gz."""
    volume = nifti(gzip.decompress(packed))
    volume = (volume / np.percentile(volume, 99.8)).clip(0, 1)

    def brain(rng: Random) -> Image.Image:
        axis = int(rng.integers(3))
        depth = volume.shape[axis]
        found = np.rot90(np.take(volume, rng.integers(depth // 4, 3 * depth // 4), axis))
        found = found ** rng.uniform(0.6, 1.4) * rng.uniform(0.7, 1) + rng.normal(0, 0.02, found.shape)
        if rng.random() < 0.5:
            found = found + _spot(rng, found)
        turned = _image(255 * found).convert("RGB").rotate(rng.uniform(-15, 15))
        return turned.resize((BRAIN_SIDE, BRAIN_SIDE))

    return brain


def nifti(raw: bytes) -> NDArray[np.float64]:
    """The volume (x, y, z) of a NIfTI-1 file of one byte order, without its scaling: its header has 348 bytes."""
    shape = np.frombuffer(raw, "<i2", 4, 40)[1:]
    kind = NIFTI_KINDS[int(np.frombuffer(raw, "<i2", 1, 70)[0])]
    start = int(np.frombuffer(raw, "<f4", 1, 108)[0])
    return np.frombuffer(raw, kind, int(np.prod(shape)), start).reshape(shape, order="F").astype(np.float64)


def music(rng: Random) -> NDArray[np.float32]:
    """(43844, 1), -1 to 1: two to six notes with overtones that fade, and a little noise."""
    seconds = np.arange(SAMPLES) / RATE
    found = rng.normal(0, 0.002, SAMPLES)
    for _ in range(rng.integers(2, 7)):
        pitch, since = 440 * 2 ** ((rng.integers(36, 85) - 69) / 12), seconds - rng.uniform(0, 1.5)
        fading = np.where(since > 0, np.exp(-rng.uniform(1, 6) * since.clip(0)), 0)
        tone = sum(np.sin(2 * np.pi * k * pitch * since) / k ** rng.uniform(1, 2) for k in range(1, 7))
        found = found + rng.uniform(0.1, 0.4) * fading * tone
    return (found / max(1.0, np.abs(found).max()))[:, None].astype(np.float32)


def _spot(rng: Random, picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """A bright spot inside the head; shapes (h, w)."""
    y, x = np.indices(picture.shape)
    middle = [rng.uniform(0.3, 0.7) * length for length in picture.shape]
    near = np.exp(-((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / rng.uniform(4, 20) ** 2)
    return np.asarray(rng.uniform(0.2, 0.6) * near * (picture > 0.1), np.float64)


@cache
def _photograph(name: str) -> Image.Image:
    import skimage.data

    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def _colour(rng: Random, low: int = 0, high: int = 256) -> tuple[int, ...]:
    return tuple(rng.integers(low, high, 3).tolist())


def _image(values: NDArray[np.float64]) -> Image.Image:
    """Of values 0 to 255."""
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


KINDS: dict[str, Callable[[Random], Image.Image]] = {"nature": nature, "face": face, "page": page, "line": line}
