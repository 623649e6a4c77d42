"""Image files and pixels: find, decode, resize, mix to grey. All that needs Pillow, imported when it is used."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ndpass.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (
    *(".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)

# Only these decoders run, whatever a file is called: PostScript named .jpg would start Ghostscript.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

_GREY = ("1", "L", "I;16", "I;16L", "I;16B", "I;16N", "I")


MOST_GAPS = 20  # times as many classes as there are folders, up to which numbers are taken for labels

# What a PNG's tRNS has to be multiplied by to be of Pillow's pixels, which have 8 bits.
_TRANSPARENT = {"L;2": 255 / 3, "L;4": 255 / 15, "RGB;16B": 1 / 256}


@dataclass(frozen=True)
class Listing:
    """The image files of a folder; labels (N,) index class_names, and both are None without class folders."""

    paths: list[Path]
    labels: NDArray[np.int64] | None
    class_names: list[str] | None


def list_images(folder: Path) -> Listing:
    """Find the images below a folder, sorted by path; whatever is hidden or has no image's extension is left out.

    Links are followed. The folders directly below are classes when there are several and every image lies in one of
    them, in the order of `ordered`. Raises InputError when there is no image, or none in one of the class folders (the
    later labels would be shifted), and for a folder that cannot be read.
    """
    shown = sorted(_below(folder))
    paths = [path for path in shown if path.suffix.lower() in EXTENSIONS and path.is_file()]
    if not paths:
        raise InputError(f"{folder}: a folder of images holds at least one; looked for {', '.join(EXTENSIONS)}")
    owners = [path.relative_to(folder).parts for path in paths]
    names = {parts[0] for parts in owners}
    if len(names) < 2 or any(len(parts) == 1 for parts in owners):
        return Listing(paths, None, None)
    for empty in (path for path in shown if path.parent == folder and path.is_dir() and path.name not in names):
        raise InputError(f"{empty}: every class folder holds an image, this one holds none; add one or remove it")
    classes = ordered(names)
    places = {name: place for place, name in enumerate(classes)}
    return Listing(paths, np.array([places[parts[0]] for parts in owners], np.int64), classes)


def ordered(names: Iterable[str]) -> list[str]:
    """Names of classes in the order of their labels: of the alphabet, but that of numbers where all are numbers.

    Those from 1 to n count from 0 on; others are labels themselves, so that a class without a folder leaves a gap.

    >>> ordered(["10", "9", *"876543210"])[-2:], ordered("312"), ordered("031")
    (['9', '10'], ['1', '2', '3'], ['0', '1', '2', '3'])
    """
    found = sorted(names)
    if not all(_is_number(name) for name in found):
        return found
    numbered = {int(name): name for name in found}
    last = max(numbered)
    if len(numbered) < len(found) or last > MOST_GAPS * len(found):
        return found  # two names of one number, or numbers that count something else
    if min(numbered) == 1 and last == len(found):
        return [numbered[number] for number in sorted(numbered)]
    return [numbered.get(number, str(number)) for number in range(last + 1)]


def order_text(names: Sequence[str], labels: Sequence[int] | NDArray[np.int64] | None) -> str:
    """Which labels class folders named by whole numbers have; empty where there are no gaps and the alphabet agrees.

    names: in the order of the labels; labels: of samples, which tell the classes that have a folder.
    """
    if labels is None or not names or not all(_is_number(name) for name in names):
        return ""
    there = [names[label] for label in np.unique(labels)]
    if there == list(names) == sorted(names):
        return ""
    last = max(there, key=int)
    gaps = len(names) - len(there)
    missing = f", {gaps} of {len(names)} classes have no folder" if gaps else ""
    how = "by their numbers" if list(names) == sorted(names, key=int) else "in the order of the alphabet"
    return f"class folders are taken {how}: '{last}' is class {list(names).index(last)}{missing}"


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _below(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """All that is in a folder and in those below, through links, too, but not through one to a folder that it is in.

    above: what tells the folders that it is in. What is hidden is left out.
    """
    try:
        found, about = list(folder.iterdir()), folder.stat()
    except OSError as e:
        raise InputError(f"{folder}: cannot be read: {e.strerror}; allow it or move it") from e
    known = (*above, (about.st_dev, about.st_ino))
    for path in (path for path in found if not path.name.startswith(".")):
        if not path.is_dir():
            yield path
        elif ((inner := path.stat()).st_dev, inner.st_ino) not in known:
            yield path
            yield from _below(path, known)


def decode(path: Path) -> NDArray[np.uint8]:
    """Read an image file as pixels (H, W, 3) in RGB, or (H, W, 1) where it is grey; white is 255.

    The first frame, upright as EXIF says; transparent parts lie on white, as a browser shows them; 16-bit grey is
    scaled to 8 bits. Raises InputError, naming the file, when it is damaged, not an image, far too large or in
    floating point.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as picture:
                _scale_transparency(picture)
                return _pixels(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as e:
        law = f"an image has at most {Image.MAX_IMAGE_PIXELS} pixels"
        raise InputError(f"{path}: {law}, this one has more; shrink or remove it") from e
    except Exception as e:  # a decoder raises whatever the damaged bytes lead it to
        raise InputError(f"{path}: cannot be read as an image ({e}); repair or remove it") from e


def resample(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3|1) to (h, w, 3|1): bilinear, antialiased when it shrinks."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)).reshape(*size, -1)


def luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB (..., 3) to grey (..., 1) by ITU-R BT.601, in the 16-bit fixed point of Pillow so that both agree."""
    red, green, blue = (pixels[..., c].astype(np.uint32) for c in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)[..., None]


def _scale_transparency(picture: Image.Image) -> None:
    """Let the colour that a PNG names transparent be one of the pixels as they are read; it has the file's own depth.

    Before the picture is read, which forgets its depth.
    """
    clear, parts = picture.info.get("transparency"), getattr(picture, "tile", None)  # of pictures out of files alone
    raw = parts[0][3] if parts else ""
    share = _TRANSPARENT.get(raw[0] if isinstance(raw, tuple) else raw)
    if share is not None and isinstance(clear, (int, tuple)):
        scaled = tuple(int(value * share) for value in np.atleast_1d(clear))
        picture.info["transparency"] = scaled if isinstance(clear, tuple) else scaled[0]


def _pixels(picture: Image.Image) -> NDArray[np.uint8]:
    from PIL import Image

    clear = picture.info.get("transparency")
    if picture.mode.startswith("I"):
        deep = np.asarray(picture)
        return _eight_bits(np.where(deep == clear, 0xFFFF, deep) if isinstance(clear, int) else deep)[..., None]
    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, "white")
        grey = picture.mode in ("LA", "La", *_GREY)
        picture = Image.alpha_composite(ground, picture.convert("RGBA")).convert("L" if grey else "RGB")
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known white; save it with 8 bits a channel")
    pixels = np.asarray(picture.convert("L" if picture.mode in _GREY else "RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _eight_bits(deep: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Grey (H, W) with white at 65535 to white at 255, rounded (Pillow's own conversion clips in some versions)."""
    if deep.min() < 0 or deep.max() > 0xFFFF:
        raise ValueError("32-bit grey pixels beyond 65535 have no known white; save it with 8 or 16 bits")
    return ((deep.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)
