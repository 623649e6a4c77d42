"""The networks that benchmarks build are the published ones, and both runtimes run them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import Arrays, interface, relative, run_ort, run_ov
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from benchmarks.networks.by_name import PUBLISHED, sized
from benchmarks.networks.layers import Network, filled, outline, seeded, tensor
from benchmarks.networks.resnet18 import resnet18
from benchmarks.networks.resnext50 import resnext50
from benchmarks.networks.ssd300 import MAPS, prior_boxes, ssd300
from benchmarks.networks.unet import unet
from benchmarks.networks.vgg import vgg
from benchmarks.scaling import QUICK, STUDIES
from ndpass.graph.graph import Graph, Skipped

SIZES = {  # parameters; convolutions, their MACs; MACs of the whole
    "vgg16": (138_357_544, 13, 15_346_630_656, 15_470_264_320),
    "resnet18": (11_684_712, 20, 1_813_561_344, 1_814_073_344),
    "resnext50": (24_994_792, 53, 4_228_431_872, 4_230_479_872),
    "ssd300": (26_284_974, 35, 31_373_537_792, 31_373_537_792),
    "unet": (31_030_658, 19, 144_797_047_040, 150_428_424_448),
}
Floats = NDArray[np.float64]
NAMES = {TensorProto.FLOAT: "float32", TensorProto.INT64: "int64"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_size(name: str) -> None:
    """GMAC in the convolutions: VGG16 15.35, ResNet-18 1.81, ResNeXt-50 4.23, SSD300 31.37, U-Net 144.80."""
    net, (params, convolutions, of_convolutions, macs) = PUBLISHED[name](), SIZES[name]
    assert sum(math.prod(shape) for shape in net.shapes.values()) == params
    model = outline(net)
    onnx.checker.check_model(model, full_check=True)
    graph = Graph(model)
    counted = [found.macs for found in graph.sites() if isinstance(found, Skipped) and found.op == "Conv"]
    assert (len(counted), sum(macs or 0 for macs in counted)) == (convolutions, of_convolutions)
    assert graph.macs() == macs


@pytest.mark.parametrize(("depth", "params"), [(11, 132_863_336), (13, 133_047_848), (19, 143_667_240)])
def test_vgg_has_the_published_size_at_every_depth(depth: int, params: int) -> None:
    net = vgg(depth)
    assert sum(math.prod(shape) for shape in net.shapes.values()) == params
    assert sum(node.op_type in ("Conv", "Gemm") for node in net.nodes) == depth


def test_networks_of_the_studies_are_called_by_their_sizes() -> None:
    """Half the channels and another input; every study's network can be built."""
    net = sized("vgg16x0.5_64")
    assert net.shapes["conv5_3.weight"] == (256, 256, 3, 3)
    assert interface(outline(net))[0] == ("image", TensorProto.FLOAT, ["batch", 3, 64, 64])
    for name in {name for study in [*STUDIES.values(), QUICK] for name in study.networks}:
        onnx.checker.check_model(outline(sized(name)), full_check=True)
    with pytest.raises(SystemExit, match="networks are called vgg16_224"):
        sized("vgg16@224")


@pytest.mark.parametrize(("name", "outputs"), [("vgg16", ["fc8"]), ("resnet18", ["fc"])])
def test_classifiers_take_any_number_of_images(name: str, outputs: list[str]) -> None:
    sides = interface(outline(PUBLISHED[name]()))
    assert sides[0] == ("image", TensorProto.FLOAT, ["batch", 3, 224, 224])
    assert sides[-1] == (outputs[0], TensorProto.FLOAT, ["batch", 1000])


def test_weights_are_seeded_and_scaled() -> None:
    """Equal at every call and other with another seed, of variance 2 / fan-in times the square of the gain."""
    net = _one_layer(gain=0.5)
    one, two, three = (_weights(seeded(net, seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one["first.weight"], two["first.weight"])
    assert not np.array_equal(one["first.weight"], three["first.weight"])
    np.testing.assert_allclose(one["first.weight"].var(), 0.25 * 2 / 27, rtol=0.1)


@pytest.mark.parametrize(
    "net", [resnet18(64), resnext50(64), ssd300(width=0.25), unet(width=0.125)], ids=lambda net: net.name
)
def test_seeded_activations_are_of_order_one_at_every_depth(net: Network) -> None:
    signals = [n.output[0] for n in net.nodes if n.op_type == "Relu"]
    values = run_ort(_with_outputs(seeded(net), signals), _images(net))[len(net.outputs) :]
    powers = {n: float(np.sqrt(np.mean(v**2))) for n, v in zip(signals, values, strict=True)}
    assert len(powers) > 16
    assert all(0.3 < power < 5 for power in powers.values()), powers


def test_runtimes_agree_on_resnet18() -> None:
    net = resnet18(64)
    model, feed = seeded(net), _images(net)
    assert relative(run_ort(model, feed), run_ov(model, feed)) < 1e-4


def test_ssd300_finds_boxes_in_pixels() -> None:
    """Both runtimes give the same heads; the boxes lie in the image, the best ones first."""
    net = ssd300(width=0.5)
    model, heads = _with_outputs(seeded(net), ["offsets", "logits"]), slice(3, 5)
    feed = _images(net)
    ours = run_ort(model, feed)
    assert relative(ours[heads], run_ov(model, feed)[heads]) < 1e-4
    assert [a.shape for a in ours[heads]] == [(1, 8732, 4), (1, 8732, 21)]
    boxes, scores, classes = ours[:3]
    assert boxes.shape == (200, 4)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
    assert (np.diff(scores) <= 0).all()
    assert 0.01 < scores[-1] <= scores[0] <= 1
    assert set(classes) <= set(range(1, 21))


def test_unet_has_the_papers_maps() -> None:
    """Figure 1: 388 rows and columns of scores, 23 layers with weights, the skipped maps cut to 56, 104, 200, 392."""
    model = onnx.shape_inference.infer_shapes(outline(unet()))
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim[1:]] for v in model.graph.value_info}
    assert [shapes[f"up{level}.skip"] for level in (4, 3, 2, 1)] == [
        [512, 56, 56],
        [256, 104, 104],
        [128, 200, 200],
        [64, 392, 392],
    ]
    assert interface(model)[-1] == ("scores", TensorProto.FLOAT, ["batch", 2, 388, 388])
    assert sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node) == 23


def test_ssd300_has_the_outputs_of_a_detector() -> None:
    assert interface(outline(ssd300()))[0] == ("image", TensorProto.FLOAT, [1, 3, 300, 300])
    names = [(i.name, NAMES[i.type.tensor_type.elem_type]) for i in outline(ssd300()).graph.output]
    assert names == [("boxes", "float32"), ("scores", "float32"), ("classes", "int64")]


def test_ssd300_selects_as_the_papers_loop_does() -> None:
    """Boxes from heads in both runtimes, against decoding and suppression written out."""
    model = _with_outputs(seeded(ssd300(width=0.125, classes=6)), ["offsets", "logits"])
    boxes, scores, classes, offsets, logits = run_ort(model, _images(ssd300()))
    expected = _detections(offsets[0].astype(np.float64), logits[0].astype(np.float64))
    wanted = sorted((c, box.round(3).tolist()) for _, c, box in expected)
    others = run_ov(model, _images(ssd300()))[:3]
    for found_boxes, found_scores, found_classes in ((boxes, scores, classes), others):
        np.testing.assert_allclose(found_scores, [score for score, _, _ in expected], rtol=1e-4)
        found = sorted(zip(found_classes, found_boxes.round(3).tolist(), strict=True))
        same = sum(a[0] == b[0] and np.allclose(a[1], b[1], atol=2e-3) for a, b in zip(found, wanted, strict=True))
        assert same >= 0.95 * len(wanted)  # what ties within rounding may come out in another order


def test_priors_are_the_papers() -> None:
    """Section 2.2 written out: 8,732 boxes, those of a position in the order 1, 1', 2, 1/2, 3, 1/3."""
    priors = prior_boxes()
    assert priors.shape == (8732, 4)
    assert sum(m.side**2 * m.priors for m in MAPS) == 8732
    np.testing.assert_allclose(priors, _paper_priors(), rtol=1e-6)
    np.testing.assert_allclose(priors[0], [4 / 300, 4 / 300, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(priors[1, 2:], 2 * [math.sqrt(0.1 * 0.2)], rtol=1e-6)
    np.testing.assert_allclose(priors[-1], [0.5, 0.5, 0.88 / math.sqrt(2), 0.88 * math.sqrt(2)], rtol=1e-6)


def test_weights_come_from_a_file_by_shape(tmp_path: Path) -> None:
    """BatchNorms are folded, names do not matter, layers of equal shape go by their order in the graph."""
    net, path = ssd300(width=0.0625), tmp_path / "trained.onnx"
    trained = seeded(net, seed=7)
    next(t for t in trained.graph.initializer if t.name == "conv4_3_norm.scale").CopyFrom(
        numpy_helper.from_array(np.full((1, 32, 1, 1), 3, np.float32), "conv4_3_norm.scale")
    )
    onnx.save(_renamed(trained), path)
    taken, expected = _weights(filled(net, path)), _weights(trained)
    for name, array in expected.items():
        np.testing.assert_array_equal(taken[name], array, err_msg=name)


def test_batchnorms_of_a_file_are_folded(tmp_path: Path) -> None:
    net, path = _one_layer(), tmp_path / "trained.onnx"
    trained = seeded(net)
    trained.graph.node[0].output[0] = "plain"
    trained.graph.node.append(
        onnx.helper.make_node("BatchNormalization", ["plain", "s", "b", "b", "s"], ["first"], epsilon=0.0)
    )
    four, zero = (numpy_helper.from_array(np.full(64, v, np.float32), n) for v, n in ((4, "s"), (0, "b")))
    trained.graph.initializer.extend([four, zero])
    onnx.save(trained, path)
    weight = _weights(filled(net, path))["first.weight"]  # 4 / sqrt(4) = 2 times that of the convolution
    np.testing.assert_allclose(weight, 2 * _weights(seeded(net))["first.weight"], rtol=1e-6)


def test_a_bias_that_an_exporter_left_out_is_zero(tmp_path: Path) -> None:
    net, path = _one_layer(), tmp_path / "trained.onnx"
    trained = seeded(net)
    del trained.graph.node[0].input[2], trained.graph.initializer[1]
    onnx.save(trained, path)
    assert not _weights(filled(net, path))["first.bias"].any()


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trained.onnx"
    onnx.save(seeded(_one_layer()), path)
    with pytest.raises(SystemExit, match=r"conv4_3_norm\.scale is a factor of 512 numbers, no Mul in the file has one"):
        filled(ssd300(), path)
    with pytest.raises(SystemExit, match="every layer needs weights, conv1_2 finds none of shape"):
        filled(vgg(), path)
    onnx.save(seeded(ssd300(width=0.0625)), path)
    with pytest.raises(SystemExit, match="every layer needs weights, first finds none"):
        filled(_one_layer(), path)


def test_layers_left_over_are_refused(tmp_path: Path) -> None:
    net, path = _one_layer(), tmp_path / "trained.onnx"
    net.conv("second", "first", 64, 8)
    net.outputs[:] = [tensor("second", [1, 8, 8, 8])]
    onnx.save(seeded(net), path)
    with pytest.raises(SystemExit, match="one_layer has no place for the layers second"):
        filled(_one_layer(), path)


def _one_layer(gain: float = 1.0) -> Network:
    net = Network("one_layer", [tensor("image", [1, 3, 8, 8])], [tensor("first", [1, 64, 8, 8])])
    net.conv("first", "image", 3, 64, gain=gain)
    return net


def _weights(model: onnx.ModelProto) -> Arrays:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def _renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Other names for all initializers."""
    names = {t.name: f"onnx::{i}" for i, t in enumerate(model.graph.initializer)}
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for t in renamed.graph.initializer:
        t.name = names[t.name]
    for node in renamed.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
    return renamed


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with inner tensors as further outputs."""
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return model


def _images(net: Network) -> Arrays:
    """One image of its input's size: standard normal, or pixels for SSD300."""
    rng = np.random.default_rng(0)
    if net.name == "ssd300":
        return {"image": rng.integers(0, 256, (1, 3, 300, 300)).astype(np.float32)}
    _, *sizes = (dim.dim_value for dim in net.inputs[0].type.tensor_type.shape.dim)
    return {"image": rng.standard_normal((1, *sizes)).astype(np.float32)}


def _paper_priors() -> Floats:
    """The loops of section 2.2, with s_k in steps of 0.17 and |f_k| the image over the step, as the authors' models."""
    scales = [0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05]
    few, many = (1, 2, 1 / 2), (1, 2, 1 / 2, 3, 1 / 3)
    maps = [(38, 8, few), (19, 16, many), (10, 32, many), (5, 64, many), (3, 100, few), (1, 300, few)]
    rows = []
    for (side, step, ratios), s, following in zip(maps, scales, scales[1:], strict=False):
        sizes = [(s * math.sqrt(a), s / math.sqrt(a)) for a in ratios]
        sizes.insert(1, (math.sqrt(s * following), math.sqrt(s * following)))
        for i in range(side):
            for j in range(side):
                rows += [((j + 0.5) * step / 300, (i + 0.5) * step / 300, *size) for size in sizes]
    return np.array(rows)


def _detections(offsets: Floats, logits: Floats) -> list[tuple[float, int, Floats]]:
    """(score, class, box) of one image: the 200 best, after suppression within each class."""
    p = prior_boxes().astype(np.float64)
    centre, size = p[:, :2] + 0.1 * offsets[:, :2] * p[:, 2:], p[:, 2:] * np.exp(0.2 * offsets[:, 2:])
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exp / exp.sum(axis=1, keepdims=True)
    found = []
    for c in range(1, logits.shape[1]):
        order = np.argsort(-probabilities[:, c], kind="stable")
        order = order[probabilities[order, c] > 0.01]
        kept: list[int] = []
        while len(order) and len(kept) < 200:
            kept.append(int(order[0]))
            order = order[1:][_overlaps(boxes[order[0]], boxes[order[1:]]) <= 0.45]
        found += [(float(probabilities[i, c]), c, boxes[i].clip(0, 1)) for i in kept]
    return sorted(found, key=lambda f: -f[0])[:200]


def _overlaps(box: Floats, others: Floats) -> Floats:
    """Intersection over union of a box (4,) with others (n, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    inner = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(box[2:] - box[:2]), np.prod(others[:, 2:] - others[:, :2], axis=1)
    return np.asarray(inner / (areas[0] + areas[1] - inner))
