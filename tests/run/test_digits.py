"""The shipped example: a legal small model that knows its digits, and a split that cannot leak."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from ndpass.run import digits
from ndpass.run.digits import Labelled


def accuracy(part: Labelled) -> float:
    """Share of the images that onnxruntime classifies as labelled, on one CPU thread in float32."""
    images, labels = part
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(digits.model_path(), options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    assert logits.shape == (len(labels), 10)
    return float((logits.argmax(axis=1) == labels).mean())


def test_model_passes_the_checker_and_is_small() -> None:
    onnx.checker.check_model(str(digits.model_path()), full_check=True)
    assert digits.model_path().stat().st_size <= 1_000_000


def test_model_has_the_promised_interface() -> None:
    model = onnx.load(digits.model_path())
    shapes = [
        (value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [("image", ["batch", 1, 8, 8]), ("logits", ["batch", 10])]
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)


def test_model_keeps_batch_normalization_and_a_residual_add() -> None:
    """Without them the example would not show folding, or a site whose output is needed twice."""
    kinds = [node.op_type for node in onnx.load(digits.model_path()).graph.node]
    assert kinds.count("Conv") == kinds.count("BatchNormalization") == 6
    assert kinds.count("Add") == 2


def test_model_knows_images_that_it_has_not_seen() -> None:
    _, validation = digits.images()
    assert accuracy(validation) >= 0.98


def test_images_are_what_the_model_expects() -> None:
    for images, labels in digits.images():
        assert images.shape == (len(labels), 1, 8, 8)
        assert (images.dtype.name, labels.dtype.name) == ("float32", "int64")
        assert (images.min(), images.max()) == (0.0, 1.0)


def test_split_is_disjoint_and_complete() -> None:
    (calibration, _), (validation, _) = digits.images()
    seen, unseen = ({image.tobytes() for image in part} for part in (calibration, validation))
    assert (len(seen), len(unseen)) == (1000, 797)  # no two of the images are equal
    assert seen.isdisjoint(unseen)


def test_split_is_the_same_at_every_call() -> None:
    for first, second in zip(digits.images(), digits.images(), strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])


def test_every_digit_is_in_both_parts() -> None:
    for _, labels in digits.images():
        assert np.bincount(labels, minlength=10).min() >= 60
