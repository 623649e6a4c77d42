"""The mAP of a detector on a detection set: a metric for `ndpass run --metric benchmarks.mean_ap:map50`.

    DETECTION_SET=FOLDER ndpass run ssd.onnx --metric benchmarks.mean_ap:map50 --validation IMAGES ...

ndpass gives a metric the compiled model alone, so the labelled images come from the environment: $DETECTION_SET is a
folder that `benchmarks.detection_data` wrote, of which the test images count, $DETECTION_IMAGES is how many of them
(all if it is not set). `map50` is in points, 0..100, as --max-drop counts them.

It is COCO's average precision at an overlap (intersection over union) of 0.5, the mean over the classes, as pycocotools
computes it: precision at 101 recalls, each the best at this recall or a higher one.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.detection_data import NAMES, SIZE, Example, read
from ndpass.errors import InputError
from ndpass.measuring.runtime import OpenVINO

OVERLAP, DETECTIONS = 0.5, 200  # per image: what SSD keeps
FOLDER, IMAGES = "DETECTION_SET", "DETECTION_IMAGES"  # of the environment

Found = NDArray[np.float64]  # (detections, 6): x1, y1, x2, y2 in pixels, score, class


def map50(compiled: Any) -> float:
    """Points on the test images of $DETECTION_SET. compiled: an OpenVINO model with the inputs and outputs of ssd300.

    Raises InputError if $DETECTION_SET is not set.
    """
    if FOLDER not in os.environ:
        raise InputError(f"the metric needs ${FOLDER}: the folder that benchmarks.detection_data wrote")
    return points(compiled, read(Path(os.environ[FOLDER]), "test")[: int(os.environ.get(IMAGES, "0")) or None])


def points(compiled: Any, examples: Sequence[Example]) -> float:
    """100 mAP of a compiled model on these images."""
    return 100 * mean_ap([detect(compiled, example) for example in examples], examples)


def points_of(model: onnx.ModelProto, examples: Sequence[Example], threads: int | None) -> float:
    """100 mAP of an ONNX model on these images, in OpenVINO and f32."""
    return points(OpenVINO(model.SerializeToString(), precision="f32", threads=threads).compiled, examples)


def detect(compiled: Any, example: Example) -> Found:
    """What the model finds in one image, (detections, 6)."""
    pixels = np.asarray(example.pixels().resize((SIZE, SIZE)), np.float32)
    result = compiled({"image": np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]})
    boxes, scores, classes = (np.asarray(result[name], np.float64) for name in ("boxes", "scores", "classes"))
    return np.column_stack([boxes * SIZE, scores, classes])


def mean_ap(found: Sequence[Found], examples: Sequence[Example]) -> float:
    """The mean over the classes that have objects, 0..1; found: of each example."""
    rows = [
        [i, x1, y1, x2 - x1, y2 - y1, score, label]
        for i, table in enumerate(found, 1)
        for x1, y1, x2, y2, score, label in table
    ]
    if not rows:
        return 0.0  # which pycocotools cannot read
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth = _truth(examples)
        judge = COCOeval(truth, truth.loadRes(np.array(rows)), "bbox")
        judge.params.iouThrs, judge.params.maxDets = np.array([OVERLAP]), [DETECTIONS]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, SIZE**2]], ["all"]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]  # (1, recalls, classes, 1, 1), -1 where a class has no objects
    return float(precision[precision >= 0].mean())


def _truth(examples: Sequence[Example]) -> Any:
    """The objects as pycocotools takes them; ids start at 1, because it takes 0 for no match."""
    truth = COCO()
    objects = [(i, box, label) for i, e in enumerate(examples, 1) for box, label in zip(e.boxes, e.labels, strict=True)]
    truth.dataset = {
        "images": [{"id": i} for i in range(1, len(examples) + 1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)],
        "annotations": [_annotation(number, *one) for number, one in enumerate(objects, 1)],
    }
    truth.createIndex()
    return truth


def _annotation(number: int, image: int, box: NDArray[np.float64], label: int) -> dict[str, Any]:
    x1, y1, x2, y2 = box.tolist()
    return {
        "id": number,
        "image_id": image,
        "category_id": int(label),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
    }
