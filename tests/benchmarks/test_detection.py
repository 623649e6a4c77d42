"""The detection benchmark: the set that it makes, the mAP that it counts, and the network that it trains."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import Arrays

from benchmarks.detection_data import COVERED, NAMES, OBJECTS, SIDES, SIZE, Example, _covered, make, read, scene
from benchmarks.networks.ssd300 import ssd300


def needs(library: str) -> pytest.MarkDecorator:
    """The extra `bench` brings what the tests do without."""
    missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(missing, reason=f"{library}, of the extra bench, is not installed")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of 32x32, those of a class in a colour of their own."""
    labels = np.arange(40) % len(NAMES)
    images = np.broadcast_to((20 * labels).astype(np.uint8)[:, None, None, None], (40, 32, 32, 3))
    path = tmp_path_factory.mktemp("source") / "objects.npz"
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(scope="module")
def folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("voc")
    for number, (part, count) in enumerate((("train", 8), ("test", 4))):
        make(path, part, source, count, (0, number))
    return path


def test_the_set_is_laid_out_as_pascal_voc(folder: Path) -> None:
    for part, count in (("train", 8), ("test", 4)):
        stems = (folder / "ImageSets/Main" / f"{part}.txt").read_text().split()
        assert stems == [f"{part}_{i:05}" for i in range(count)]
        assert all((folder / "JPEGImages" / f"{s}.jpg").exists() for s in stems)
    text = (folder / "Annotations/train_00000.xml").read_text()
    assert all(f"<{key}>" in text for key in ("annotation", "filename", "size", "object", "name", "bndbox", "xmin"))


def test_the_set_is_read_as_it_was_made(folder: Path, source: Path) -> None:
    """Boxes and classes are those of `scene`, and the pixels in a box are those of its class."""
    stored = np.load(source)
    for i, example in enumerate(read(folder, "train")):
        canvas, boxes, chosen = scene(np.random.default_rng([0, 0, i]), stored["images"])
        np.testing.assert_array_equal(example.boxes, boxes)
        np.testing.assert_array_equal(example.labels, stored["labels"][chosen] + 1)
        x1, y1, x2, y2 = boxes[-1]  # which no other object covers
        assert (canvas[y1:y2, x1:x2] == 20 * (example.labels[-1] - 1)).all()
        assert example.pixels().size == (SIZE, SIZE)


def test_objects_lie_inside_and_hardly_overlap() -> None:
    images = np.zeros((5, 32, 32, 3), np.uint8)
    counts = set()
    for i in range(16):
        canvas, boxes, chosen = scene(np.random.default_rng(i), images)
        assert canvas.shape == (SIZE, SIZE, 3)
        counts.add(len(boxes))
        sizes = boxes[:, 2:] - boxes[:, :2]
        assert boxes.min() >= 0
        assert boxes.max() <= SIZE
        assert SIDES[0] <= sizes.min() <= sizes.max() <= SIDES[1]
        assert all(_covered(a, b) <= COVERED for a in boxes for b in boxes if a is not b and (a != b).any())
        assert len(chosen) == len(boxes)
    assert counts == set(range(OBJECTS[0], OBJECTS[1] + 1))


def test_the_set_depends_on_the_seed_alone(folder: Path, source: Path, tmp_path: Path) -> None:
    make(tmp_path, "test", source, 4, (0, 1))
    for kind in ("JPEGImages/*.jpg", "Annotations/*.xml"):
        again = sorted(tmp_path.glob(kind))
        assert len(again) == 4
        assert all(p.read_bytes() == (folder / p.relative_to(tmp_path)).read_bytes() for p in again)
    make(tmp_path, "test", source, 4, (1, 1))
    assert any(p.read_bytes() != (folder / p.relative_to(tmp_path)).read_bytes() for p in again)


def examples() -> list[Example]:
    """Two images: a class 1 and a class 2, then another class 1."""
    boxes = np.array([[10.0, 10, 110, 90], [150, 120, 290, 280], [30, 40, 200, 220]])
    labels = np.array([1, 2, 1])
    return [Example(Path("a.jpg"), boxes[:2], labels[:2]), Example(Path("b.jpg"), boxes[2:], labels[2:])]


def perfect(example: Example) -> Any:
    return np.column_stack([example.boxes, np.full(len(example.labels), 0.9), example.labels])


@needs("pycocotools")
def test_map_of_perfect_detections_is_one() -> None:
    from benchmarks.mean_ap import mean_ap

    assert mean_ap([perfect(e) for e in examples()], examples()) == 1


@needs("pycocotools")
def test_map_of_a_planted_miss() -> None:
    """Class 1 is found once of two: precision 1 at the 51 of 101 recalls up to a half, class 2 wholly."""
    from benchmarks.mean_ap import mean_ap

    first, second = examples()
    assert mean_ap([perfect(first), np.zeros((0, 6))], [first, second]) == pytest.approx((51 / 101 + 1) / 2)


@needs("pycocotools")
def test_map_counts_wrong_places_and_wrong_classes() -> None:
    from benchmarks.mean_ap import mean_ap

    moved, other = [perfect(e) for e in examples()], [perfect(e) for e in examples()]
    moved[1][:, :4] += 90  # overlap below a half
    other[1][:, 5] = 2
    assert mean_ap(moved, examples()) == pytest.approx((51 / 101 + 1) / 2)
    assert mean_ap(other, examples()) < 0.8
    assert mean_ap([np.zeros((0, 6))] * 2, examples()) == 0


@needs("pycocotools")
def test_the_metric_reads_the_set_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that finds every object has 100 points, as `--metric` sees it."""
    from benchmarks.mean_ap import FOLDER, IMAGES, map50
    from ndpass.errors import InputError

    left = iter(read(folder, "test")[:3])

    def compiled(feed: Arrays) -> dict[str, Any]:
        assert feed["image"].shape == (1, 3, SIZE, SIZE)
        example = next(left)
        return {"boxes": example.boxes / SIZE, "scores": np.ones(len(example.labels)), "classes": example.labels}

    monkeypatch.delenv(FOLDER, raising=False)
    with pytest.raises(InputError, match=FOLDER):
        map50(compiled)
    monkeypatch.setenv(FOLDER, str(folder))
    monkeypatch.setenv(IMAGES, "3")
    assert map50(compiled) == pytest.approx(100)


@needs("pycocotools")
def test_the_backbone_is_vgg16() -> None:
    """13 convolutions and the two that were its linear layers."""
    from benchmarks.detection import in_scope

    names = [n.name for n in ssd300(0.0625).nodes if n.op_type == "Conv"]
    backbone = [n for n in names if in_scope(n, "backbone")]
    assert len(names) == 35
    assert len(backbone) == 15
    assert backbone[-2:] == ["conv6", "conv7"]
