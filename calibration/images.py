"""Image files and pixels: find, decode, resize, mix to grey. All that needs Pillow, imported when it is used."""

from __future__ import annotations

import warnings
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


@dataclass(frozen=True)
class Listing:
    """The image files of a folder; labels (N,) index class_names, and both are None without class folders."""

    paths: list[Path]
    labels: NDArray[np.int64] | None
    class_names: list[str] | None


def list_images(folder: Path) -> Listing:
    """Find the images below a folder, sorted by path; whatever is hidden or has no image's extension is left out.

    The folders directly below are classes when there are several and every image lies in one of them.
    Raises InputError when there is no image, or none in one of the class folders (the later labels would be shifted).
    """
    shown = [path for path in sorted(folder.rglob("*")) if not _is_hidden(path.relative_to(folder))]
    paths = [path for path in shown if path.suffix.lower() in EXTENSIONS and path.is_file()]
    if not paths:
        raise InputError(f"{folder}: a folder of images holds at least one; looked for {', '.join(EXTENSIONS)}")
    owners = [path.relative_to(folder).parts for path in paths]
    names = sorted({parts[0] for parts in owners})
    if len(names) < 2 or any(len(parts) == 1 for parts in owners):
        return Listing(paths, None, None)
    for empty in (path for path in shown if path.parent == folder and path.is_dir() and path.name not in names):
        raise InputError(f"{empty}: every class folder holds an image, this one holds none; add one or remove it")
    return Listing(paths, np.array([names.index(parts[0]) for parts in owners], np.int64), names)


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


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _pixels(picture: Image.Image) -> NDArray[np.uint8]:
    from PIL import Image

    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, "white")
        grey = picture.mode in ("LA", "La", *_GREY)
        picture = Image.alpha_composite(ground, picture.convert("RGBA")).convert("L" if grey else "RGB")
    if picture.mode.startswith("I"):
        return _eight_bits(np.asarray(picture))[..., None]
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known white; save it with 8 bits a channel")
    pixels = np.asarray(picture.convert("L" if picture.mode in _GREY else "RGB"))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _eight_bits(deep: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Grey (H, W) with white at 65535 to white at 255, rounded (Pillow's own conversion clips in some versions)."""
    if deep.min() < 0 or deep.max() > 0xFFFF:
        raise ValueError("32-bit grey pixels beyond 65535 have no known white; save it with 8 or 16 bits")
    return ((deep.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)
