"""What feeds a model: every kind of source against the same pixels, and every refusal with its file and its remedy."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ndpass.calibration.archives import load_arrays
from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.images import decode
from ndpass.calibration.preprocess import Preprocess
from ndpass.calibration.survey import warnings_of
from ndpass.errors import InputError, UsageError
from ndpass.graph.input_spec import InputSpec

F32 = np.dtype(np.float32)
CIFAR = [InputSpec("image", (None, 3, 32, 32), F32)]
ANY_SIZE = [InputSpec("image", (None, 3, None, None), F32)]
TWO = [InputSpec("a", (None, 2), F32), InputSpec("b", (None, 3, 4, 4), F32)]
PIXELS = Preprocess()


def picture(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def everything(feeds: Feeds, size: int = 3, name: str = "image") -> NDArray[np.float32]:
    return np.concatenate([feed[name] for feed in feeds.batches(size)])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images in three class folders, 10, 3 and 8 pixels wide; image k is filled with k."""
    for k, place in enumerate(["b/0", "b/1", "b/deep/2", "a/3", "a/4", "c/5", "c/6"]):
        save(tmp_path / "photos" / f"{place}.png", np.full((32, 32, 3), k, np.uint8))
    return tmp_path / "photos"


# Folders


def test_class_folders_give_labels_in_sorted_order(photos: Path) -> None:
    feeds = open_feeds(photos, CIFAR, PIXELS)
    assert feeds.class_names == ["a", "b", "c"]
    assert feeds.labels is not None
    assert feeds.labels.dtype == np.int64
    assert feeds.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert everything(feeds)[:, 0, 0, 0].tolist() == [3, 4, 0, 1, 2, 5, 6]
    assert feeds.description == f"7 images from {photos}/ (3 classes)"


def test_other_files_are_ignored_and_one_class_or_a_loose_image_means_no_labels(photos: Path) -> None:
    (photos / "a" / "notes.txt").write_text("not an image")
    (photos / "a" / "._3.png").write_bytes(b"what a Mac leaves behind")
    (photos / ".thumbnails").mkdir()
    (photos / ".thumbnails" / "3.png").write_bytes(b"no image")
    save(photos / "loose.PNG", np.zeros((32, 32, 3), np.uint8))
    assert len(open_feeds(photos, CIFAR, PIXELS)) == 8
    for folder, count in ((photos, 8), (photos / "b", 3)):
        feeds = open_feeds(str(folder), CIFAR, PIXELS)
        assert len(feeds) == count
        assert feeds.labels is None
        assert feeds.class_names is None
    assert feeds.description == f"3 images from {photos / 'b'}/"


def test_an_empty_class_folder_would_shift_the_labels_and_is_refused(photos: Path) -> None:
    (photos / "bb").mkdir()
    with pytest.raises(InputError, match=r"bb: every class folder holds an image"):
        open_feeds(photos, CIFAR, PIXELS)


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (range(12), range(12), "by their numbers: '11' is class 11"),
        (range(1, 12), range(11), "by their numbers: '11' is class 10"),
        (range(10), range(10), ""),
        ((0, 2, 5, 11), (0, 2, 5, 11), "by their numbers: '11' is class 11, 8 of 12 classes have no folder"),
        ((2, 5, 10), (2, 5, 10), "by their numbers: '10' is class 10, 8 of 11 classes have no folder"),
        (("00", "01", "10"), (0, 1, 10), "'10' is class 10, 8 of 11"),
        (("1", "01", "10"), (1, 0, 2), ""),
        ((20210101, 20210102), (0, 1), ""),
        (("9", "10", "x"), (1, 0, 2), ""),
    ],
)
def test_class_folders_named_by_numbers_are_taken_by_them(
    names: Sequence[object], labels: Sequence[int], said: str, tmp_path: Path
) -> None:
    for name in names:
        save(tmp_path / str(name) / "a.png", np.full((32, 32, 3), 7, np.uint8))
    feeds = open_feeds(tmp_path, CIFAR, PIXELS)
    assert feeds.labels is not None
    assert feeds.class_names is not None
    by_path = {feeds.class_names[label]: int(label) for label in feeds.labels}
    assert by_path == {str(name): label for name, label in zip(names, labels, strict=True)}
    found = [text for text in warnings_of(feeds, "data") if "class folders" in text]
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_links_to_class_folders_are_followed_but_not_round_and_round(photos: Path, tmp_path: Path) -> None:
    """A folder may be there twice, a class of its own each time; what leads back into itself is no folder of images."""
    linked = tmp_path / "linked"
    (linked / "d").mkdir(parents=True)
    for name, target in (("a", photos / "a"), ("b", photos / "b"), ("d/deep", photos / "c"), ("e", photos / "a")):
        (linked / name).symlink_to(target)
    (photos / "b" / "up").symlink_to(photos / "b")
    (linked / "d" / "round").symlink_to(linked)
    (linked / "d" / "gone").symlink_to(tmp_path / "nowhere")
    feeds = open_feeds(linked, CIFAR, PIXELS)
    assert feeds.class_names == ["a", "b", "d", "e"]
    assert feeds.labels is not None
    assert feeds.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert everything(feeds)[:, 0, 0, 0].tolist() == [3, 4, 0, 1, 2, 5, 6, 3, 4]


def png(depth: int, colours: int, rows: bytes, width: int, clear: Sequence[int]) -> bytes:
    """One row of a PNG as it is stored; clear: the colour of its tRNS. colours: 0 for grey, 2 for RGB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colours, 0, 0, 0))
    transparent = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    return b"\x89PNG\r\n\x1a\n" + head + transparent + chunk(b"IDAT", zlib.compress(b"\0" + rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "colours", "row", "clear", "wanted"),
    [
        (2, 0, b"\x1b", [1], [0, 255, 170, 255]),
        (4, 0, b"\x05\xaf", [5], [0, 255, 170, 255]),
        (8, 0, bytes([0, 100, 101, 255]), [100], [0, 255, 101, 255]),
        (16, 0, struct.pack(">4H", 0, 0x6464, 0x6465, 0xFFFF), [0x6465], [0, 100, 255, 255]),
        (16, 2, struct.pack(">6H", *[0x6464] * 3, 0, 0, 0x6464), [0x6464] * 3, [255, 255, 255, 0, 0, 100]),
        (16, 2, struct.pack(">6H", *[0x6464] * 3, 0, 0, 0x6464), [0x0064] * 3, [100, 100, 100, 0, 0, 100]),
    ],
)
def test_the_colour_that_a_png_names_transparent_is_white(
    depth: int, colours: int, row: bytes, clear: list[int], wanted: list[int], tmp_path: Path
) -> None:
    """Whatever its bits: Pillow compared it as it is stored with pixels of 8 bits, and clipped 16 of them."""
    path = tmp_path / "p.png"
    path.write_bytes(png(depth, colours, row, len(wanted) // max(colours + 1, 1), clear))
    assert decode(path).reshape(-1).tolist() == wanted


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(InputError, match=rf"{tmp_path}: .*looked for \.bmp, .*\.webp"):
        open_feeds(tmp_path, CIFAR, PIXELS)


def test_files_are_decoded_when_their_batch_is_read(photos: Path) -> None:
    feeds = open_feeds(photos, CIFAR, PIXELS)
    (photos / "c" / "6.png").unlink()
    batches = feeds.batches(3)
    next(batches)
    next(batches)
    with pytest.raises(InputError, match=r"6\.png: cannot be read as an image"):
        next(batches)


def test_pixels_without_preprocessing_are_refused(photos: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", picture(2, 32, 32, 3))
    for source in (photos, tmp_path / "x.npy", picture(2, 32, 32, 3), [picture(32, 32, 3)]):
        with pytest.raises(InputError, match="add --preprocess, presets are imagenet, caffe, cifar10, digits"):
            open_feeds(source, CIFAR)


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    save(tmp_path / "1.png", picture(20, 30, 3))
    save(tmp_path / "2.png", picture(20, 31, 3))
    feeds = open_feeds(tmp_path, ANY_SIZE, PIXELS)
    assert [feed["image"].shape for feed in feeds.batches(1)] == [(1, 3, 20, 30), (1, 3, 20, 31)]
    with pytest.raises(InputError, match=r"1\.png has \(3, 20, 30\), .*2\.png has \(3, 20, 31\); set size="):
        everything(feeds)
    assert everything(open_feeds(tmp_path, ANY_SIZE, Preprocess(size=(8, 9)))).shape == (2, 3, 8, 9)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        (
            "size=20",
            (None, 3, 32, 24),
            r"\(batch, 3, 32, 24\); got \(batch, 3, 20, 20\); give --preprocess size=32x24$",
        ),
        ("imagenet", (4, 3, 32, 32), r"got \(batch, 3, 224, 224\); give --preprocess imagenet,size=32x32"),
        (
            "size=32",
            (None, 1, 32, 32),
            r"got \(batch, 3, 32, 32\); give --preprocess size=32x32,color=grey$",
        ),
        ("size=32,color=grey", (None, 3, 32, 32), r"give --preprocess size=32x32$"),
        ("size=32", (None, 32, 32, 3), r"give --preprocess size=32x32,layout=nhwc$"),
        ("size=32,layout=nhwc", (None, 3, 32, 32), r"give --preprocess size=32x32$"),
        ("size=32", (None, 3072), r"give arrays of that shape"),
        ("size=50,crop=60", (None, 3, 60, 60), r"crop fits into size"),
        ("crop=60", (None, 3, 60, 60), r"0\.png: a crop fits into the image"),
    ],
)
def test_a_mismatch_names_the_file_both_shapes_and_the_remedy(
    tmp_path: Path, spec: str, shape: tuple[int | None, ...], message: str
) -> None:
    save(tmp_path / "0.png", picture(40, 50, 3))
    with pytest.raises((InputError, UsageError), match=message) as refusal:
        open_feeds(tmp_path, [InputSpec("x", shape, F32)], Preprocess.parse(spec))
    assert "0.png" in str(refusal.value) or isinstance(refusal.value, UsageError)


# Image files


def test_grey_palette_alpha_and_cmyk(tmp_path: Path) -> None:
    rgb = picture(6, 7, 3)
    np.testing.assert_array_equal(decode(save(tmp_path / "rgb.png", rgb)), rgb)
    np.testing.assert_array_equal(decode(save(tmp_path / "grey.png", rgb[..., 0])), rgb[..., :1])
    Image.fromarray(rgb).quantize(16).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(decode(tmp_path / "palette.png"), Image.fromarray(rgb).quantize(16).convert("RGB"))
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.tiff")
    np.testing.assert_array_equal(decode(tmp_path / "cmyk.tiff"), rgb)
    Image.fromarray(rgb[..., 0] > 127).save(tmp_path / "bits.png")
    assert decode(tmp_path / "bits.png").tolist() == (255 * (rgb[..., :1] > 127)).tolist()


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([np.full((2, 2, 3), 100, np.uint8), np.array([[0, 255], [128, 0]], np.uint8)])
    expected = [[255, 100], [177, 255]]
    got = decode(save(tmp_path / "a.png", rgba))
    assert got.shape == (2, 2, 3)
    np.testing.assert_allclose(got[..., 0], expected, atol=1)
    grey = Image.merge("LA", [Image.fromarray(rgba[..., i]) for i in (0, 3)])
    grey.save(tmp_path / "la.png")
    assert decode(tmp_path / "la.png").shape == (2, 2, 1)
    np.testing.assert_allclose(decode(tmp_path / "la.png")[..., 0], expected, atol=1)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "p.png", transparency=bytes([255, 0]))
    assert decode(tmp_path / "p.png").tolist() == np.full((2, 2, 3), 255).tolist()


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, name: str) -> None:
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    got = decode(save(tmp_path / name, deep))
    np.testing.assert_array_equal(got[..., 0], np.round(deep / 257))
    assert got.shape == (8, 8, 1)


@pytest.mark.parametrize("pixels", [np.full((4, 4), 70000, np.int32), np.full((4, 4), 0.5, np.float32)])
def test_pixels_without_a_known_white_are_refused(tmp_path: Path, pixels: NDArray[Any]) -> None:
    save(tmp_path / "deep.tif", pixels)
    with pytest.raises(InputError, match=r"deep\.tif: .*no known white"):
        decode(tmp_path / "deep.tif")


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: upright is a quarter to the right
    pixels = picture(4, 6, 3)
    got = decode(save(tmp_path / "turned.png", pixels, exif=exif))
    np.testing.assert_array_equal(got, np.rot90(pixels, -1))


def test_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    assert np.unique(decode(tmp_path / "two.tif")).tolist() == [10]


def truncated(path: Path) -> None:
    save(path, picture(64, 64, 3))
    path.write_bytes(path.read_bytes()[:2000])


def text(path: Path) -> None:
    path.write_text("no image at all")


def postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another_format(path: Path) -> None:
    Image.fromarray(picture(32, 32, 3)).save(path, format="PCX")


@pytest.mark.parametrize("damage", [truncated, text, postscript, empty, another_format])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: Any, suffix: str) -> None:
    damage(tmp_path / f"bad{suffix}")
    with pytest.raises(InputError, match=rf"bad\{suffix}: cannot be read as an image .*; repair or remove it"):
        open_feeds(tmp_path, CIFAR, Preprocess.parse("cifar10"))


@pytest.mark.parametrize("side", [10_000, 60_000])  # Pillow warns of the first and raises for the second
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"")
    chunk += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(InputError, match=r"bomb\.png: an image has at most \d+ pixels"):
        decode(tmp_path / "bomb.png")


# Files of arrays


def test_npz_npy_and_arrays_give_the_same_as_the_folder(tmp_path: Path) -> None:
    images, labels = picture(5, 32, 32, 3), np.array([3, 0, 2, 2, 1], np.uint8)
    for i, image in enumerate(images):
        save(tmp_path / "folder" / f"{i}.png", image)
    np.savez(tmp_path / "named.npz", other=np.zeros(3), images=images, labels=labels)
    np.savez_compressed(tmp_path / "only.npz", pixels=images)
    np.save(tmp_path / "a.npy", images)
    p = Preprocess.parse("cifar10")
    expected = np.stack([p.apply(image) for image in images])
    sources: list[Any] = [tmp_path / name for name in ("folder", "named.npz", "only.npz", "a.npy")]
    sources += [images, list(images), iter(images), {"image": images}, [{"image": image} for image in images]]
    sources += [[images[:2], images[2], images[3:]], map(Image.fromarray, images)]
    for source in sources:
        feeds = open_feeds(source, CIFAR, p)
        for size in (1, 2, 5, 100):
            np.testing.assert_array_equal(everything(feeds, size), expected)
    named = open_feeds(tmp_path / "named.npz", CIFAR, p)
    assert named.labels is not None
    assert named.labels.tolist() == labels.tolist()
    assert named.labels.dtype == np.int64
    assert named.description == f"5 images from {tmp_path / 'named.npz'} (4 classes)"
    assert open_feeds(tmp_path / "only.npz", CIFAR, p).labels is None


def test_an_archive_feeds_several_inputs_by_their_names(tmp_path: Path) -> None:
    """As from Python a dict does; a state without a batch axis of its own gets one value a sample."""
    specs = [InputSpec("x", (None, 4), np.dtype("f4")), InputSpec("state", (2, 1, 3), np.dtype("f4"), batched=False)]
    rng = np.random.default_rng(0)
    arrays = {"x": rng.random((5, 4), np.float32), "state": rng.random((5, 2, 1, 3), np.float32)}
    np.savez(tmp_path / "data.npz", **arrays, labels=np.arange(5), other=np.zeros(2))
    feeds = open_feeds(tmp_path / "data.npz", specs)
    assert (len(feeds), list(feeds.labels if feeds.labels is not None else ())) == (5, [0, 1, 2, 3, 4])
    from_python = open_feeds(arrays, specs)
    for a, b in zip(feeds.batches(1), from_python.batches(1), strict=True):
        assert a.keys() == b.keys() == {"x", "state"}
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_grey_pixels_and_resizing_in_arrays() -> None:
    images = picture(4, 40, 48)
    p = Preprocess.parse("imagenet,size=32")
    expected = np.stack([p.apply(image[..., None]) for image in images])
    for source in (images, images[..., None], list(images)):
        np.testing.assert_array_equal(everything(open_feeds(source, CIFAR, p)), expected)


def test_colour_pictures_with_their_channels_first_are_pictures() -> None:
    """As `torchvision.io.read_image` gives them: they were three grey pictures each."""
    images = picture(4, 40, 48, 3)
    first = images.transpose(0, 3, 1, 2)
    p = Preprocess.parse("imagenet,size=32")
    expected = np.stack([p.apply(image) for image in images])
    for source in (list(first), first, iter(first), {"image": first}, [first[:2], first[2], images[3]]):
        feeds = open_feeds(source, CIFAR, p)
        assert len(feeds) == 4
        np.testing.assert_array_equal(everything(feeds), expected)
        np.testing.assert_array_equal(everything(feeds.take([2, 3]).alone()), expected[2:])
    grey = Preprocess.parse("size=8,color=grey")
    inputs = [InputSpec("image", (None, 1, 8, 8), F32)]
    np.testing.assert_array_equal(
        everything(open_feeds([image[..., None] for image in images[..., 0]], inputs, grey)),
        everything(open_feeds(first[:, :1], inputs, grey)),
    )
    with pytest.raises(InputError, match=r"element 0: .*one picture in colour or three grey ones; got \(3, 40, 48\)"):
        open_feeds(list(first), inputs, grey)


@pytest.mark.parametrize("shape", [(40, 48, 3), (3, 40, 48), (40, 48, 1), (1, 40, 48), (40, 48)])
def test_one_picture_is_one_sample_alone_as_in_a_list(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """An array (40, 48, 3) was 40 grey pictures."""
    one = picture(*shape)
    p = Preprocess(size=(32, 32))
    image = one.transpose(1, 2, 0) if shape[0] == 3 else one.reshape(40, 48, -1)
    np.save(tmp_path / "a.npy", one)
    for source in (one, [one], tmp_path / "a.npy"):
        feeds = open_feeds(source, CIFAR, p)
        np.testing.assert_array_equal(everything(feeds), p.apply(image)[None])
        np.testing.assert_array_equal(everything(feeds.alone()), p.apply(image)[None])


def test_three_grey_pictures_in_one_array_are_three_for_a_model_of_one_channel() -> None:
    inputs = [InputSpec("image", (None, 1, 8, 8), F32)]
    got = everything(open_feeds(picture(3, 8, 8), inputs, Preprocess(color="grey")))
    np.testing.assert_array_equal(got, picture(3, 8, 8)[:, None])


def test_digits_arrays_whatever_their_dtype() -> None:
    values = picture(5, 8, 8) % 17
    inputs = [InputSpec("image", (None, 1, 8, 8), F32)]
    sources = (values, values.astype(np.float64), values.astype(np.int64), values[:, None].astype(np.float32))
    for source in sources:
        got = everything(open_feeds(source, inputs, Preprocess.parse("digits")))
        np.testing.assert_allclose(got, values[:, None] / 16, rtol=1e-6)


def test_digits_files_are_white_at_255(tmp_path: Path) -> None:
    save(tmp_path / "0.png", np.full((8, 8), 255, np.uint8))
    inputs = [InputSpec("image", (None, 1, 8, 8), F32)]
    np.testing.assert_allclose(everything(open_feeds(tmp_path, inputs, Preprocess.parse("digits"))), 1, rtol=1e-6)


def test_float_arrays_are_taken_as_they_are_or_standardised() -> None:
    images = np.random.default_rng(0).random((5, 3, 32, 32))
    feeds = open_feeds(images, CIFAR)
    assert everything(feeds).dtype == np.float32
    np.testing.assert_array_equal(everything(feeds), images.astype(np.float32))
    got = everything(open_feeds(images, CIFAR, Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2,), scale=3.0)))
    expected = (3 * images - np.reshape([0.5, 0.4, 0.3], (3, 1, 1))) / 0.2
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert feeds.description == "5 samples from an array"


def test_npy_is_memory_mapped_and_the_file_is_not_changed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 3, 32, 32), np.float32))
    mapped, _ = load_arrays(tmp_path / "a.npy")
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    before = (tmp_path / "a.npy").read_bytes()
    feed = next(open_feeds(tmp_path / "a.npy", CIFAR).batches(3))
    feed["image"] += 1
    assert (tmp_path / "a.npy").read_bytes() == before


def test_a_batch_does_not_alias_the_users_array() -> None:
    images = np.zeros((2, 3, 32, 32), np.float32)
    next(open_feeds(images, CIFAR).batches(2))["image"] += 1
    next(open_feeds([images[0]], CIFAR).batches(2))["image"] += 1
    assert not images.any()


def archive(**arrays: Any) -> Any:
    return lambda path: np.savez(path, **arrays)


ONE = picture(2, 32, 32, 3)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.npz", archive(a=ONE, b=ONE), "found a, b; name one array `images`"),
        ("x.npz", archive(labels=np.zeros(2, int)), "found labels; name one array"),
        ("x.npz", archive(images=ONE, labels=np.zeros(3, int)), r"2 samples have labels \(2,\); got \(3,\)"),
        ("x.npz", archive(images=ONE, labels=np.zeros((2, 1), int)), r"got \(2, 1\)"),
        ("x.npz", archive(images=ONE, labels=np.zeros(2)), "integers from 0; they are float64"),
        ("x.npz", archive(images=ONE, labels=np.array([0, -1])), "the smallest is -1"),
        ("x.npz", archive(images=ONE, labels=np.array(["a", "b"])), "labels: data are arrays of numbers"),
        ("x.npz", archive(images=np.array([{}, {}])), "cannot be read as arrays"),
        ("x.npz", archive(images=np.array(["a", "b"])), "data are arrays of numbers"),
        ("x.npz", archive(images=ONE[:0]), "at least one sample; found none"),
        ("x.npz", archive(images=picture(2, 32, 32, 4)), r"got \(2, 32, 32, 4\); .*channels last"),
        ("x.npz", archive(images=np.float32(3)), r"takes \(batch, 3, 32, 32\); got \(\)"),
        ("x.npz", text, "cannot be read as arrays"),
        ("x.npy", text, "cannot be read as arrays"),
        ("x.npy", lambda path: np.save(path, np.array([{}])), "cannot be read as arrays"),
        ("x.csv", text, "a folder of images, .npz or .npy; this is neither"),
        ("x.npy", lambda _path: None, "there is no such file or folder"),
    ],
)
def test_a_file_that_is_no_data_is_refused_by_name(tmp_path: Path, name: str, write: Any, message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=message) as refusal:
        open_feeds(tmp_path / name, CIFAR, Preprocess.parse("cifar10"))
    assert str(tmp_path / name) in str(refusal.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_the_sample_that_is_not_finite_is_named(value: float) -> None:
    images = np.zeros((9, 3, 32, 32))
    images[7, 1, 2, 3] = value
    for source in (images, list(images)):
        feeds = open_feeds(source, CIFAR)
        with pytest.raises(InputError, match="sample 7: 'image' has NaN or Inf"):
            everything(feeds, 4)


def test_arrays_of_another_shape_or_dtype_are_refused() -> None:
    with pytest.raises(InputError, match=r"takes \(batch, 3, 32, 32\); got \(batch, 3, 8, 8\); give arrays of that"):
        open_feeds(np.zeros((2, 3, 8, 8)), CIFAR)
    with pytest.raises(InputError, match="'ids' takes int64; got float64"):
        open_feeds(np.zeros((2, 4)), [InputSpec("ids", (None, 4), np.dtype(np.int64))])
    with pytest.raises(InputError, match="leave out --preprocess"):
        open_feeds(np.zeros((2, 4)), [InputSpec("x", (None, 4), F32)], PIXELS)
    with pytest.raises(InputError, match=r"element 0: data are arrays of numbers.*give the images alone"):
        open_feeds([(np.zeros((3, 32, 32)), 1)], CIFAR)
    for pair in ((np.zeros((3, 32, 32)), np.ones((3, 32, 32))), [np.zeros((2, 3, 32, 32)), np.zeros((2, 3, 32, 32))]):
        with pytest.raises(InputError, match=r"element 0: .*got a (tuple|list) of 2; give the images alone"):
            open_feeds([pair], CIFAR)  # as noisy and clean ones, which were two samples
    with pytest.raises(InputError, match="got a int"):
        open_feeds(3, CIFAR)  # type: ignore[arg-type]


def test_the_dtype_of_the_input_is_kept() -> None:
    half = [InputSpec("image", (None, 3, 32, 32), np.dtype(np.float16))]
    assert next(open_feeds(ONE, half, PIXELS).batches(2))["image"].dtype == np.float16
    whole = [InputSpec("image", (None, 32, 32, 3), np.dtype(np.uint8))]  # the preprocessing is inside the model
    np.testing.assert_array_equal(everything(open_feeds(ONE, whole)), ONE)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_pixels_are_rounded_for_a_model_that_takes_integers(tmp_path: Path, dtype: type[np.integer[Any]]) -> None:
    """As one with its preprocessing inside: files and resized arrays were refused as float32."""
    specs = [InputSpec("image", (None, 20, 24, 3), np.dtype(dtype))]
    p = Preprocess.parse("size=20x24,layout=nhwc")
    images = picture(3, 40, 48, 3)
    for i, image in enumerate(images):
        save(tmp_path / f"{i}.png", image)
    expected = np.stack([np.asarray(Image.fromarray(image).resize((24, 20), Image.BILINEAR)) for image in images])
    for source in (tmp_path, images):
        feeds = open_feeds(source, specs, p)
        assert everything(feeds).dtype == dtype
        np.testing.assert_array_equal(everything(feeds), expected)
    with pytest.raises(InputError, match=r"no preprocessing given; give --preprocess size=20x24,layout=nhwc$"):
        open_feeds(tmp_path, specs)
    for wrong in ("scale=1/255", "std=50"):
        with pytest.raises(InputError, match=r"which scale and std leave little of; give --preprocess .*layout=nhwc$"):
            open_feeds(images, specs, Preprocess.parse(f"size=20x24,layout=nhwc,{wrong}"))


def test_pixels_that_an_integer_does_not_hold_are_refused() -> None:
    specs = [InputSpec("image", (None, 3, 32, 32), np.dtype(np.int8))]
    np.testing.assert_array_equal(
        everything(open_feeds(ONE, specs, Preprocess(mean=(128.0,)))), ONE.transpose(0, 3, 1, 2).astype(int) - 128
    )
    with pytest.raises(InputError, match=r"takes int8, which holds -128\.\.127; pixels become 0\.\.255"):
        open_feeds(ONE, specs, PIXELS)


# Several inputs


def test_several_inputs_take_dicts() -> None:
    a, b = np.arange(10.0).reshape(5, 2), np.arange(240.0).reshape(5, 3, 4, 4)
    sources: list[Any] = [{"a": a, "b": b}, [{"b": b[i], "a": a[i]} for i in range(5)]]
    sources.append({"a": a[i : i + 2], "b": b[i : i + 2]} for i in (0, 2, 4))
    for source in sources:
        feeds = open_feeds(source, TWO)
        assert len(feeds) == 5
        np.testing.assert_array_equal(everything(feeds, 2, "a"), a)
        np.testing.assert_array_equal(everything(feeds, 2, "b"), b)


def test_several_inputs_refuse_all_else(photos: Path) -> None:
    a, b = np.zeros((5, 2)), np.zeros((5, 3, 4, 4))
    cases: Sequence[tuple[Any, str]] = [
        (b, "a model with 2 inputs is fed with {input name: array}; got one array; name the inputs a, b"),
        ([b], "element 0: a model with 2 inputs"),
        (photos, "a folder of images feeds a model with one input; this one has 2"),
        ([{"a": a}], "inputs are a, b; got a;"),
        ([{"a": a, "b": b, "c": b}], "inputs are a, b; got a, b, c;"),
        ({"a": a[:3], "b": b}, "all inputs have the same batch; found 3 of 'a', 5 of 'b'"),
    ]
    for source, message in cases:
        with pytest.raises(InputError, match=message):
            open_feeds(source, TWO)
    with pytest.raises(InputError, match="a model with one input of images"):
        open_feeds({"a": a, "b": b}, TWO, PIXELS)


# Feeds


@pytest.fixture
def numbered() -> Feeds:
    """Sample k is filled with k and has label k."""
    images = np.broadcast_to(np.arange(50.0).reshape(-1, 1, 1, 1), (50, 3, 32, 32))
    return open_feeds(images, CIFAR, labels=np.arange(50))


def numbers(feeds: Feeds) -> list[int]:
    found = [int(value) for value in everything(feeds, 7)[:, 0, 0, 0]]
    assert feeds.labels is not None
    assert feeds.labels.tolist() == found
    assert len(feeds) == len(found)
    return found


def test_feeds_can_be_read_again_and_the_last_batch_is_smaller(numbered: Feeds) -> None:
    assert [len(feed["image"]) for feed in numbered.batches(20)] == [20, 20, 10]
    assert numbers(numbered) == numbers(numbered) == list(range(50))


def test_a_one_shot_iterator_can_be_read_again() -> None:
    def images() -> Iterator[NDArray[np.uint8]]:
        yield from picture(4, 32, 32, 3)

    feeds = open_feeds(images(), CIFAR, PIXELS)
    np.testing.assert_array_equal(everything(feeds), everything(feeds))
    assert feeds.description == "4 samples from a generator"


def test_take_counts_in_its_own_feeds(numbered: Feeds) -> None:
    part = numbered.take([9, 3, 30])
    assert numbers(part) == [9, 3, 30]
    assert numbers(part.take(np.array([2, 0]))) == [30, 9]
    assert part.description == "3 of 50 samples from an array (3 classes)"
    with pytest.raises(IndexError):
        part.take([3])


def test_split_is_disjoint_complete_and_repeatable(numbered: Feeds) -> None:
    fit, held_out = numbered.take(range(5, 45)).split(0.25, seed=1)
    assert len(held_out) == 10
    assert sorted(numbers(fit) + numbers(held_out)) == list(range(5, 45))
    assert numbers(fit) == sorted(numbers(fit))
    assert numbers(held_out) == numbers(numbered.take(range(5, 45)).split(0.25, seed=1)[1])
    assert numbers(held_out) != numbers(numbered.take(range(5, 45)).split(0.25, seed=2)[1])
    assert [len(part) for part in numbered.take([0, 1]).split(0.01, seed=0)] == [1, 1]
    assert [len(part) for part in numbered.take([0, 1]).split(0.99, seed=0)] == [1, 1]


def test_samples_are_drawn_with_the_seed_in_their_order() -> None:
    images = np.broadcast_to(np.arange(50.0).reshape(-1, 1, 1, 1), (50, 3, 32, 32))
    drawn = [open_feeds(images, CIFAR, labels=range(50), samples=8, seed=seed) for seed in (0, 0, 1)]
    found = [numbers(feeds) for feeds in drawn]
    assert found[0] == found[1] == sorted(set(found[0]))
    assert len(found[0]) == 8
    assert found[0] != found[2]
    assert len(open_feeds(images, CIFAR, samples=60)) == 50


def test_counts_that_make_no_sense_are_refused(numbered: Feeds) -> None:
    with pytest.raises(UsageError, match="a batch has at least one sample; got 0"):
        numbered.batches(0)
    with pytest.raises(UsageError, match="samples is at least 1; got 0"):
        open_feeds(ONE, CIFAR, PIXELS, samples=0)
    for fraction in (0, 1, -0.5, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            numbered.split(fraction, seed=0)
    with pytest.raises(InputError, match="holding out a part needs two samples"):
        numbered.take([0]).split(0.5, seed=0)
    with pytest.raises(InputError, match="found none"):
        open_feeds([], CIFAR, PIXELS)
    with pytest.raises(InputError, match=r"2 samples have labels \(2,\); got \(3,\)"):
        open_feeds(ONE, CIFAR, PIXELS, labels=[0, 1, 2])


def test_reading_leaves_the_warning_filters_alone(photos: Path) -> None:
    before = list(warnings.filters)
    everything(open_feeds(photos, CIFAR, PIXELS))
    assert list(warnings.filters) == before


def test_feeds_in_memory_are_the_same_samples_without_their_files(tmp_path: Path) -> None:
    for i in range(5):
        Image.fromarray(np.full((6, 6, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    inputs = [InputSpec("image", (None, 3, 6, 6), F32)]
    feeds = open_feeds(tmp_path, inputs, Preprocess.parse("scale=1/255")).take([4, 1, 3])
    before = list(feeds.batches(2))
    kept = feeds.in_memory()
    for file in tmp_path.iterdir():
        file.unlink()
    assert kept.nbytes == sum(a.nbytes for feed in before for a in feed.values())
    for found, wanted in zip(kept.batches(2), before, strict=True):
        for name, array in wanted.items():
            np.testing.assert_array_equal(found[name], array)
    one = next(kept.take([2]).alone().batches(1))
    np.testing.assert_array_equal(one["image"], before[1]["image"])
