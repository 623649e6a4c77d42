"""Groups of channels: what is tied to what, what is refused, and the sliced network against the masked one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masked import assert_as_masked, find, group_of, load, pruned
from models import network, normal, rewritten, run_ov
from numpy.typing import NDArray

from ndpass.graph.channel_groups import Group, input_group, keep, kept
from ndpass.passes import NetworkDecoupling

Weights = dict[str, NDArray[Any]]


def names(members: Any) -> set[str]:
    return {member.node.name for member in members}


def positive(*shape: int) -> NDArray[Any]:
    return np.abs(normal(*shape)) + np.float32(0.5)


A, B, LINEAR = normal(6, 3, 3, 3), normal(4, 6, 3, 3), normal(5, 6)
IN, OUT = "(float[2,3,8,8] x) =>", "(float[2,4,H,W] y)"
PADDED = "kernel_shape=[3,3], pads=[1,1,1,1]"
FIRST = f"a = Conv<{PADDED}>(x, A, b)"
BIAS = {"A": A, "b": normal(6), "B": B}

# text of the nodes between a = Conv(x) with 6 channels and the layer asked about, its weights, producers, consumers
NETWORKS: dict[str, tuple[str, Weights, set[str], set[str]]] = {
    "relu and pooling": (
        "r = Relu(a) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) q = AveragePool<kernel_shape=[2,2]>(p) "
        "y = Conv(q, B)",
        {},
        {"a"},
        {"y"},
    ),
    "every activation": (
        "l = LeakyRelu(a) c = Clip(l, low, high) s = Sigmoid(c) t = Tanh(s) e = Elu(t) h = HardSwish(e) "
        "g = HardSigmoid(h) d = Dropout(g) i = Identity(d) f = Cast<to=1>(i) y = Conv(f, B)",
        {"low": np.float32(-1), "high": np.float32(1)},
        {"a"},
        {"y"},
    ),
    "clip from above alone": ("c = Clip(a, , high) y = Conv(c, B)", {"high": np.float32(1)}, {"a"}, {"y"}),
    "batch norm between": (
        "r = Relu(a) n = BatchNormalization(r, s, t, m, v) y = Conv(n, B)",
        {"s": normal(6), "t": normal(6), "m": normal(6), "v": positive(6)},
        {"a"},
        {"y"},
    ),
    "prelu": ("r = PRelu(a, s) y = Conv(r, B)", {"s": normal(6, 1, 1)}, {"a"}, {"y"}),
    "constants a channel": (
        "r = Add(a, s) u = Mul(r, t) v = Sub(one, u) w = Div(v, p) y = Conv(w, B)",
        {"s": normal(1, 6, 1, 1), "t": normal(6, 1, 1), "one": np.float32(1), "p": positive(1, 6, 8, 8)},
        {"a"},
        {"y"},
    ),
    "pad and resize": (
        'p = Pad(a, pads) r = Resize<mode="nearest">(p, , scales) y = Conv(r, B)',
        {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "scales": np.array([1, 1, 2, 2], np.float32)},
        {"a"},
        {"y"},
    ),
    "identity shortcut": (
        f"r = Relu(a) c = Conv<{PADDED}>(r, C) s = Add(r, c) t = Relu(s) y = Conv(t, B)",
        {"C": normal(6, 6, 3, 3)},
        {"a", "c"},
        {"c", "y"},
    ),
    "projection shortcut": (
        f"r = Relu(a) c = Conv<{PADDED}>(r, C, d) p = Conv(r, P) s = Add(c, p) y = Conv(s, D)",
        {"C": normal(5, 6, 3, 3), "d": normal(5), "P": normal(5, 6, 1, 1), "D": normal(4, 5, 3, 3)},
        {"c", "p"},
        {"y"},
    ),
    "sum, mean and max": (
        f"c = Conv<{PADDED}>(x, C) s = Sum(a, c) m = Max(s, a, zero) y = Conv(m, B)",
        {"C": normal(6, 3, 3, 3), "zero": np.float32(0)},
        {"a", "c"},
        {"y"},
    ),
    "squeeze and excitation": (
        "g = GlobalAveragePool(a) u = Conv(g, U) s = Sigmoid(u) m = Mul(a, s) y = Conv(m, B)",
        {"U": normal(6, 6, 1, 1)},
        {"a", "u"},
        {"u", "y"},
    ),
    "concat": (
        f"c = Conv<{PADDED}>(x, C) d = Concat<axis=1>(a, c) r = Relu(d) y = Conv(r, D)",
        {"C": normal(3, 3, 3, 3), "D": normal(4, 9, 3, 3)},
        {"a", "c"},
        {"y"},
    ),
    "concat with itself": (
        "d = Concat<axis=-3>(a, a) y = Conv(d, D)",
        {"D": normal(4, 12, 3, 3)},
        {"a"},
        {"y"},
    ),
    "depthwise pair": (
        f"w = Conv<{PADDED}, group=6>(a, W, c) r = Relu(w) y = Conv(r, P)",
        {"W": normal(6, 1, 3, 3), "c": normal(6), "P": normal(4, 6, 1, 1)},
        {"a"},
        {"y"},
    ),
    "one consumer reads a part": (
        f"c = Conv<{PADDED}>(x, C) d = Concat<axis=1>(c, a) e = Conv(d, E) f = Conv(a, B) y = Add(e, f)",
        {"C": normal(3, 3, 3, 3), "E": normal(4, 9, 3, 3)},
        {"a"},
        {"e", "f"},
    ),
    "split in unequal parts": (
        f"p, q = Split<axis=1>(a, parts) c = Conv<{PADDED}>(p, C) d = Concat<axis=1>(q, c) y = Conv(d, D)",
        {"parts": np.array([2, 4]), "C": normal(2, 2, 3, 3), "D": normal(4, 6, 3, 3)},
        {"a", "c"},
        {"y"},
    ),
    "split in halves, as in a C2f block": (
        f"p, q = Split<axis=1>(a) c = Conv<{PADDED}>(q, C) s = Add(c, q) d = Concat<axis=1>(p, q, s) y = Conv(d, D)",
        {"C": normal(3, 3, 3, 3), "D": normal(4, 9, 3, 3)},
        {"a", "c"},
        {"c", "y"},
    ),
    "resized to given sizes": (
        'r = Resize<mode="nearest">(a, , , sizes) y = Conv(r, B)',
        {"sizes": np.array([2, 6, 16, 16])},
        {"a"},
        {"y"},
    ),
    "resized to the size of another": (
        "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) h = Shape(m) g = Slice(h, zero, two) "
        "o = Shape(x) w = Slice(o, two, four) sizes = Concat<axis=0>(g, w) "
        'r = Resize<mode="nearest">(m, , , sizes) y = Conv(r, B)',
        {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4])},
        {"a"},
        {"y"},
    ),
    "slice": (
        "p = Slice(a, s, e, i) y = Conv(p, D)",
        {"s": np.array([-5]), "e": np.array([4], np.int64), "i": np.array([1]), "D": normal(4, 3, 3, 3)},
        {"a"},
        {"y"},
    ),
    "slices of both halves": (
        "p = Slice(a, zero, three, one) q = Slice(a, three, end, one) r = Relu(q) "
        "c = Concat<axis=1>(r, p) y = Conv(c, B)",
        {n: np.array([i]) for n, i in {"zero": 0, "one": 1, "three": 3, "end": 2**62}.items()},
        {"a"},
        {"y"},
    ),
    "slice of space": (
        "p = Slice(a, s, e, i, k) y = Conv(p, B)",
        {"s": np.array([1, 0]), "e": np.array([-1, 7]), "i": np.array([2, 3]), "k": np.array([2, 1])},
        {"a"},
        {"y"},
    ),
    "transposed producer": (
        "c = ConvTranspose(a, T, t) y = Conv(c, D)",
        {"T": normal(6, 5, 2, 2), "t": normal(5), "D": normal(4, 5, 3, 3)},
        {"c"},
        {"y"},
    ),
}
ASKED = {"one consumer reads a part": "f"}


def convolutional(name: str) -> onnx.ModelProto:
    nodes, weights, *_ = NETWORKS[name]
    return network(f"{IN} {OUT} {{ {FIRST} {nodes} }}", **(BIAS | weights))


@pytest.mark.parametrize("name", NETWORKS)
def test_sliced_network_is_the_masked_one(name: str) -> None:
    model, asked = convolutional(name), ASKED.get(name, "y")
    group = group_of(load(model)[0], asked)
    assert (names(group.producers), names(group.consumers)) == NETWORKS[name][2:]
    assert group.consumers[0].node.name == asked
    assert_as_masked(model, asked)
    assert_as_masked(model, asked, [1])
    assert_as_masked(model, asked, list(range(1, group.size)))


def test_a_split_that_counts_its_parts_says_their_sizes_instead() -> None:
    """Of opset 18, which takes no node that says both."""
    nodes = f"{FIRST} p, q = Split<axis=1, num_outputs=2>(a) c = Conv<{PADDED}>(q, C) d = Concat<axis=1>(p, c)"
    weights = BIAS | {"C": normal(3, 3, 3, 3)}
    model = network(f"{IN} {OUT} {{ {nodes} r = Relu(d) y = Conv(r, B) }}", opset=18, **weights)
    assert_as_masked(model, "y")
    assert_as_masked(model, "y", [0, 1, 4, 5])


RESIZED = {  # attributes of a Resize to sizes of opset 18 -> the sizes
    "axes=[2,3]": [16, 11],
    "axes=[3,2]": [16, 11],
    "axes=[-2,-1]": [16, 11],
    "axes=[3]": [13],
    "axes=[1,3]": [6, 13],
    "axes=[-1,1,2]": [13, 6, 16],
    'axes=[2,3], keep_aspect_ratio_policy="not_larger"': [16, 11],
}


@pytest.mark.parametrize("said", RESIZED)
def test_sizes_of_the_axes_that_a_resize_names(said: str) -> None:
    """Only the size of the channels is another one then, wherever it stands."""
    nodes = f'{FIRST} r = Resize<mode="nearest", {said}>(a, , , sizes) y = Conv(r, B)'
    model = network(f"{IN} {OUT} {{ {nodes} }}", opset=18, **BIAS, sizes=np.array(RESIZED[said]))
    assert_as_masked(model, "y")


def test_a_resize_of_the_channels_by_an_aspect_is_refused() -> None:
    """One scale for all of its axes: it could be another one for fewer channels."""
    nodes = f'{FIRST} r = Resize<keep_aspect_ratio_policy="not_larger">(a, , , s) y = Conv(r, B)'
    model = network(f"{IN} {OUT} {{ {nodes} }}", opset=18, **BIAS, s=np.array([2, 6, 8, 8]))
    assert find(load(model)[0], "y") == "its input comes from Resize 'r', whose channels cannot be pruned"


TWO = "(float[2,3,8,8] x, float[2,3,12,16] z) =>"
READ_OFF = f"{FIRST} e = Conv<{PADDED}>(z, C)"


def test_a_resize_to_the_size_of_the_axes_that_it_names() -> None:
    nodes = f'{READ_OFF} s = Shape<start=1>(e) r = Resize<mode="nearest", axes=[1,2,3]>(a, , , s) y = Conv(r, B)'
    nodes += " w = Conv(e, D)"
    weights = BIAS | {"C": normal(6, 3, 3, 3, seed=1), "D": normal(2, 6, 3, 3)}
    model = network(f"{TWO} {OUT[:-1]}, float[2,2,T,U] w) {{ {nodes} }}", opset=18, **weights)
    assert names(group_of(load(model)[0], "y").producers) == {"a", "e"}
    assert_as_masked(model, "y")


def test_a_resize_to_the_size_of_a_tensor_that_the_model_gives() -> None:
    """Fewer channels would be resized to as many as before."""
    nodes = f'{READ_OFF} s = Shape(e) r = Resize<mode="nearest">(a, , , s) y = Conv(r, B)'
    model = network(f"{TWO} {OUT[:-1]}, float[2,6,R,S] e) {{ {nodes} }}", **BIAS, C=normal(6, 3, 3, 3, seed=1))
    assert find(load(model)[0], "y") == "its channels are those of the graph output 'e'"


MATRICES: dict[str, tuple[str, Weights]] = {
    "flatten": ("f = Flatten(a) y = Gemm<transB=1>(f, G, g)", {"G": normal(4, 384), "g": normal(4)}),
    "flatten a pool": (
        "p = GlobalMaxPool(a) f = Flatten<axis=-3>(p) m = Gemm(f, G, g) r = Relu(m) y = Gemm(r, K)",
        {"G": normal(6, 5), "g": normal(1, 5), "K": normal(5, 4)},
    ),
    "matmul and add": (
        "p = GlobalAveragePool(a) f = Flatten(p) m = MatMul(f, G) n = Add(m, g) r = Relu(n) y = MatMul(r, K)",
        {"G": normal(6, 5), "g": normal(5), "K": normal(5, 4)},
    ),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("asked", ["first", "last"])
def test_matrix_products(name: str, asked: str) -> None:
    nodes, weights = MATRICES[name]
    model = network(f"{IN} (float[2,4] y) {{ {FIRST} {nodes} }}", **(BIAS | weights))
    products = [n.name for n in load(model)[0].nodes if n.op in ("Gemm", "MatMul")]
    assert_as_masked(model, products[0 if asked == "first" else -1])


def test_a_flattened_channel_is_all_its_columns() -> None:
    nodes, weights = MATRICES["flatten"]
    group = group_of(load(network(f"{IN} (float[2,4] y) {{ {FIRST} {nodes} }}", **(BIAS | weights)))[0], "y")
    assert group.size == 6
    assert group.consumers[0].channels.tolist() == np.repeat(np.arange(6), 64).tolist()
    assert group.consumers[0].kept(np.array([1, 3])).tolist() == [*range(64, 128), *range(192, 256)]


def test_a_flatten_beside_the_layer_loses_its_columns_too() -> None:
    model = network(
        f"{IN} (float[2,4,6,6] y, float[2,4] z) {{ {FIRST} y = Conv(a, B) f = Flatten(a) z = Gemm(f, G) }}",
        **BIAS,
        G=normal(384, 4),
    )
    assert_as_masked(model, "y")


def test_pads_that_are_an_attribute() -> None:
    """Before opset 11."""
    nodes = f"{FIRST} p = Pad<pads=[0,0,1,1,0,0,1,1]>(a) y = Conv(p, B)"
    assert_as_masked(network(f"{IN} (float[2,4,8,8] y) {{ {nodes} }}", opset=10, **BIAS), "y")


BEFORE_OPSET_7 = {
    "along the channels": ("m = Mul<broadcast=1, axis=1>(a, s) p = Add<broadcast=1, axis=1>(m, t)", (6,)),
    "from the channels on": ("p = Mul<broadcast=1, axis=1>(a, s)", (6, 8)),
    "counted from the last axis": ("p = Add<broadcast=1, axis=-3>(a, s)", (6, 8, 8)),
    "at the last axis": ("p = Mul<broadcast=1>(a, s)", (8,)),
    "a slope for each channel": ("p = PRelu(a, s)", (6,)),
    "one slope": ("p = PRelu(a, s)", (1,)),
}


@pytest.mark.parametrize("name", BEFORE_OPSET_7)
def test_operands_that_say_where_they_begin(name: str) -> None:
    """OpenVINO runs them, onnxruntime has no elementwise operators of those opsets."""
    nodes, shape = BEFORE_OPSET_7[name]
    constants = {"s": positive(*shape)} | ({"t": normal(*shape)} if "t)" in nodes else {})
    text = f"{IN} {OUT} {{ {FIRST} {nodes} y = Conv<kernel_shape=[3,3]>(p, B) }}"
    assert_as_masked(network(text, opset=6, **BIAS, **constants), "y", run=run_ov)


def test_channels_on_the_last_axis() -> None:
    model = network(
        "(float[2,7,3] x) => (float[2,7,4] y) { a = MatMul(x, A) n = Add(a, b) r = Relu(n) y = MatMul(r, B) }",
        A=normal(3, 6),
        b=normal(6),
        B=normal(6, 4),
    )
    assert_as_masked(model, "y")


def test_copies_are_one_channel_and_positions_outside_are_kept() -> None:
    group = group_of(load(convolutional("concat with itself"))[0], "y")
    assert (group.size, group.consumers[0].channels.tolist()) == (6, [*range(6)] * 2)
    group = group_of(load(convolutional("one consumer reads a part"))[0], "f")
    part = next(m for m in group.consumers if m.node.name == "e")
    assert part.channels.tolist() == [-1, -1, -1, *range(6)]
    assert kept(part.channels, np.array([2])).tolist() == [0, 1, 2, 5]


@pytest.mark.parametrize("form", ["pw-dw", "dw-pw"])
@pytest.mark.parametrize("name", ["relu and pooling", "identity shortcut", "projection shortcut", "concat"])
def test_network_that_was_decoupled_before(name: str, form: str) -> None:
    rule = NetworkDecoupling(rank=2, form=form)
    model, done = rewritten(
        convolutional(name),
        lambda s: None if rule.refuse(s.outline) else rule.rewrite(s.conv, rule.settings(s.outline)[0]),
    )
    assert done
    pointwise = [n.name for n in load(model)[0].nodes if n.name.startswith("y/") and n.name.endswith("_1x1")]
    assert len(pointwise) == 2
    group = group_of(load(model)[0], pointwise[-1])
    assert len(group.consumers) >= 2 or form == "dw-pw"
    assert_as_masked(model, pointwise[-1])
    for other in [n.name for n in load(model)[0].nodes if n.op == "Conv" and n.attrs.get("group", 1) == 1]:
        if isinstance(find(load(model)[0], other), Group):
            assert_as_masked(model, other)


def test_shared_initializers_are_never_edited() -> None:
    """Bias and slope belong to layers outside too; the weight only to the two producers, which share it again."""
    model = network(
        f"{IN} (float[2,4,6,6] y, float[2,6,8,8] z) {{ a = Conv<{PADDED}>(x, A, b) r = PRelu(a, s) v = Relu(x) "
        f"c = Conv<{PADDED}>(v, A, b) t = Add(r, c) y = Conv(t, B) o = Conv<{PADDED}>(x, C, b) z = PRelu(o, s) }}",
        **BIAS,
        s=normal(6, 1, 1),
        C=normal(6, 3, 3, 3),
    )
    assert_as_masked(model, "y")
    result = pruned(model, "y", np.array([0, 5]))
    assert sorted(t.name for t in result.graph.initializer) == sorted(
        ["A.kept", "b", "b.kept", "s", "s.kept", "B.kept", "C"]
    )
    again = pruned(result, "y", np.array([1]))
    assert {"A.kept2", "b.kept2"} <= {t.name for t in again.graph.initializer}


def test_a_name_that_is_taken_is_not_used_again() -> None:
    model = network(f"{IN} {OUT} {{ {FIRST} y = Conv(a, B, c) }}", **BIAS, c=normal(4))
    model.graph.initializer[-1].name = model.graph.node[1].input[2] = "B.kept"
    result = pruned(model, "y", np.array([2, 3]))
    assert {"B.kept", "B.kept2"} <= {t.name for t in result.graph.initializer}


def test_no_branch_of_a_concat_is_left_without_channels() -> None:
    graph, _ = load(convolutional("concat"))
    group = group_of(graph, "y")
    assert group.filled(np.array([1, 2])).tolist() == [1, 2, 8]
    assert group.filled(np.array([1, 7])).tolist() == [1, 7]
    with pytest.raises(ValueError, match="no channel of 'c' would be kept"):
        keep(graph, group, np.array([1, 2]))


REFUSED: dict[str, tuple[str, Weights, str]] = {
    "a number of channels that is computed with": (
        "a = Conv(x, A) h = Shape(a) c = Gather(h, one) q = Mul(c, c) z = Cast<to=1>(q) y = Conv(a, B)",
        {"one": np.array([1])},
        "its input also feeds Shape 'h', whose channels cannot be pruned",
    ),
    "the input of the network": ("y = Conv(x, A)", {}, "its channels are those of the graph input 'x'"),
    "softmax": (
        "a = Conv(x, A) p = Softmax<axis=1>(a) q = Mul(p, p) y = Conv(a, B) z = ReduceMax(q)",
        {},
        "its input also feeds Softmax 'p', whose channels cannot be pruned",
    ),
    "transpose": (
        "a = Conv(x, A) p = Transpose<perm=[0,1,3,2]>(a) y = Conv(p, B)",
        {},
        "its input comes from Transpose 'p', whose channels cannot be pruned",
    ),
    "reshape": (
        "a = Conv(x, A) p = Reshape(a, s) y = Conv(p, D)",
        {"s": np.array([2, 3, 12, 6]), "D": normal(4, 3, 3, 3)},
        "its input comes from Reshape 'p', whose channels cannot be pruned",
    ),
    "a number of channels that is an index": (
        "a = Conv(x, A) h = Shape(a) c = Slice(h, one, two) t = ReduceMax<axes=[0,2,3], keepdims=0>(x) "
        "q = Concat<axis=0>(t, t, t) z = Gather(q, c) y = Conv(a, B)",
        {"one": np.array([1]), "two": np.array([2])},
        "its input also feeds Shape 'h', whose channels cannot be pruned",
    ),
    "a number of channels that goes where only a run tells": (
        "a = Conv(x, A) h = Shape(a) m = ReduceMax<keepdims=0>(x) i = Cast<to=7>(m) c = Gather(h, i) "
        "z = Cast<to=1>(c) y = Conv(a, B)",
        {},
        "its input also feeds Shape 'h', whose channels cannot be pruned",
    ),
    "every other channel": (
        "a = Conv(x, A) p = Slice(a, s, e, i, t) y = Conv(p, D)",
        {"s": np.array([0]), "e": np.array([6]), "i": np.array([1]), "t": np.array([2]), "D": normal(4, 3, 3, 3)},
        "its input comes from Slice 'p', whose channels cannot be pruned",
    ),
    "lrn": (
        "a = Conv(x, A) p = LRN<size=3>(a) y = Conv(p, B)",
        {},
        "its input comes from LRN 'p', whose channels cannot be pruned",
    ),
    "instance norm": (
        "a = Conv(x, A) p = InstanceNormalization(a, s, s) y = Conv(p, B)",
        {"s": positive(6)},
        "its input comes from InstanceNormalization 'p', whose channels cannot be pruned",
    ),
    "layer norm": (
        "a = Conv(x, A) p = LayerNormalization(a, s) y = Conv(p, B)",
        {"s": positive(6)},
        "its input comes from LayerNormalization 'p', whose channels cannot be pruned",
    ),
    "pad on channels": (
        "a = Conv(x, D) p = Pad(a, s) y = Conv(p, B)",
        {"D": normal(4, 3, 3, 3), "s": np.array([0, 1, 0, 0, 0, 1, 0, 0])},
        "its input comes from Pad 'p', whose channels cannot be pruned",
    ),
    "resize on channels": (
        "a = Conv(x, D) p = Resize(a, , s) y = Conv(p, B)",
        {"D": normal(3, 3, 3, 3), "s": np.array([1, 2, 1, 1], np.float32)},
        "its input comes from Resize 'p', whose channels cannot be pruned",
    ),
    "crop and resize": (
        'a = Conv(x, A) p = Resize<coordinate_transformation_mode="tf_crop_and_resize">(a, r, s) y = Conv(p, B)',
        {"r": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
        "its input comes from Resize 'p', whose channels cannot be pruned",
    ),
    "flatten behind the channels": (
        "a = Conv(x, A) p = Flatten<axis=2>(a) y = Gemm(p, G)",
        {"G": normal(36, 4)},
        "its input comes from Flatten 'p', whose channels cannot be pruned",
    ),
    "norm in training": (
        "a = Conv(x, A) p, m, v = BatchNormalization<training_mode=1>(a, s, s, s, s) y = Conv(p, B)",
        {"s": positive(6)},
        "its input comes from BatchNormalization 'p', whose channels cannot be pruned",
    ),
    "computed norm": (
        "a = Conv(x, D) s = ReduceMax<axes=[0,2,3], keepdims=0>(x) "
        "p = BatchNormalization(a, s, t, t, t) y = Conv(p, E)",
        {"D": normal(3, 3, 3, 3), "E": normal(4, 3, 3, 3), "t": positive(3)},
        "BatchNormalization 'p' has weights that are computed at run time",
    ),
    "a stack of matrices": (
        "a = Conv(x, A) p = MatMul(a, s) y = Conv(a, B) z = ReduceMax(p)",
        {"s": normal(1, 6, 6)},
        "its input also feeds MatMul 'p', whose channels cannot be pruned",
    ),
    "indices": (
        "a = Conv(x, A) p, i = MaxPool<kernel_shape=[2,2]>(a) j = Cast<to=1>(i) k = Add(p, j) y = Conv(k, B)",
        {},
        "its input comes from MaxPool 'p', whose channels cannot be pruned",
    ),
    "concat on another axis": (
        "a = Conv(x, A) p = Concat<axis=2>(a, a) y = Conv(p, B)",
        {},
        "its input comes from Concat 'p', whose channels cannot be pruned",
    ),
    "a constant in the concat": (
        "a = Conv(x, A) p = Concat<axis=1>(a, s) y = Conv(p, D)",
        {"s": normal(2, 1, 6, 6), "D": normal(4, 7, 3, 3)},
        "its channels are those of the constant 's'",
    ),
    "grouped producer": (
        "a = Conv<group=3>(x, D) y = Conv(a, B)",
        {"D": normal(6, 1, 3, 3)},
        "Conv 'a' is a grouped convolution, whose channels cannot be pruned",
    ),
    "grouped": (
        "a = Conv(x, A) y = Conv<group=2>(a, D)",
        {"D": normal(4, 3, 3, 3)},
        "grouped convolution: its input channels are not its own to choose",
    ),
    "depthwise": (
        "a = Conv(x, A) y = Conv<group=6>(a, D)",
        {"D": normal(6, 1, 3, 3)},
        "grouped convolution: its input channels are not its own to choose",
    ),
    "computed weights": (
        "w = ReduceMax<keepdims=0>(x) v = Mul(w, A) a = Conv(x, v) y = Conv(a, B)",
        {},
        "Conv 'a' has weights that are computed at run time",
    ),
    "computed slope": (
        "a = Conv(x, A) s = ReduceMax<axes=[0,2,3]>(x) y = Conv(a, B) c = Conv(s, P) p = PRelu(a, c) z = Conv(p, B)",
        {"P": normal(6, 3, 1, 1)},
        "",
    ),
    "shared weight": (
        "a = Conv(x, A) y = Conv(a, B) b = Conv(x, A) z = ReduceMax(b)",
        {},
        "the weight 'A' of Conv 'a' is shared with Conv 'b', which has other channels",
    ),
    "broadcast": (
        "c = Conv(x, C) p = Add(c, s) y = Conv(p, B) z = Conv(c, E)",
        {"C": normal(1, 3, 3, 3), "s": normal(1, 6, 1, 1), "E": normal(4, 1, 3, 3)},
        "its channels are spread over more of them in 'p'",
    ),
    "other axes": (
        "a = Conv(x, A) p = MatMul(a, s) y = Conv(a, B) z = ReduceMax(p)",
        {"s": normal(6, 6)},
        "the channels of 'a' are read along axis 3 and axis 1",
    ),
}
ASK = {"broadcast": "z"}
ACCEPTED = {"computed slope"}  # a slope that is computed is tied like any other operand


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_safe_is_refused_with_its_reason(name: str) -> None:
    nodes, weights, reason = REFUSED[name]
    model = network(f"{IN} (float y, float z) {{ {nodes} }}", **({"A": A, "B": B} | weights))
    model.graph.output.pop() if "z =" not in nodes else None
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    found = find(load(model)[0], ASK.get(name, "y"))
    assert isinstance(found, Group) if name in ACCEPTED else found == reason


def test_a_graph_output_keeps_its_channels() -> None:
    model = network(f"{IN} (float[2,6,8,8] r, float[2,4,6,6] y) {{ {FIRST} r = Relu(a) y = Conv(r, B) }}", **BIAS)
    assert find(load(model)[0], "y") == "its channels are those of the graph output 'r'"


def test_channels_used_inside_control_flow() -> None:
    model = network(
        f"{IN} (float[2,4,6,6] y, float[2,6,8,8] z) {{ {FIRST} m = ReduceMax<keepdims=0>(x) c = Greater(m, o) "
        "z = If(c) <then_branch = g1 () => (float[2,6,8,8] t) { t = Relu(a) }, "
        "else_branch = g2 () => (float[2,6,8,8] e) { e = Neg(a) }> y = Conv(a, B) }",
        **BIAS,
        o=np.float32(0),
    )
    assert str(find(load(model)[0], "y")).startswith("its channels are used inside an If, Loop or Scan, by ")


def test_custom_operators_are_unknown() -> None:
    model = network(f"{IN} (float[2,4,6,6] y, float[2,6,8,8] z) {{ {FIRST} y = Conv(a, B) z = Relu(a) }}", **BIAS)
    model.graph.node[2].domain = "my.own"
    model.opset_import.append(onnx.helper.make_opsetid("my.own", 1))
    assert find(load(model)[0], "y") == "its input also feeds Relu 'z', whose channels cannot be pruned"


def test_an_unknown_shape_is_a_reason() -> None:
    graph, _ = load(convolutional("relu and pooling"))
    node = next(n for n in graph.nodes if n.name == "y")
    assert input_group(graph, node, {}) == "the shape of 'q', which carries its channels, is not known"


@pytest.mark.parametrize("channels", [[], [1, 1], [2, 1], [-1, 2], [0, 6]])
def test_channels_to_keep_are_ascending_and_within(channels: list[int]) -> None:
    graph, _ = load(convolutional("prelu"))
    with pytest.raises(ValueError, match="ascending, at least one, within 0 to 5"):
        keep(graph, group_of(graph, "y"), np.array(channels, np.int64))


def test_other_nodes_are_left_alone_and_the_same_call_gives_the_same_bytes() -> None:
    model, stay = convolutional("squeeze and excitation"), np.array([0, 3, 4])
    assert pruned(model, "y", stay).SerializeToString() == pruned(model, "y", stay).SerializeToString()


STEPS = ["relu", "prelu", "norm", "depthwise", "residual", "double", "pool", "conv"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=7), st.integers(0, 9))
def test_any_stack_of_layers(steps: list[str], seed: int) -> None:
    """Every layer of a random stack whose group is found is sliced as if masked."""
    width, now, nodes, weights = 4, "a0", ["a0 = Conv(x, A)"], {"A": normal(4, 3, 3, 3, seed=seed)}
    for k, step in enumerate(steps, 1):
        new, w = f"a{k}", f"w{k}"
        text = {
            "relu": f"Relu({now})",
            "prelu": f"PRelu({now}, {w})",
            "norm": f"BatchNormalization({now}, {w}, {w}, {w}, {w})",
            "depthwise": f"Conv<{PADDED}, group={width}>({now}, {w})",
            "residual": f"Add({now}, c{k})",
            "double": f"Concat<axis=1>({now}, c{k})",
            "pool": f"MaxPool<{PADDED}>({now})",
            "conv": f"Conv<{PADDED}>({now}, {w})",
        }[step]
        small = {"prelu": (width, 1, 1), "norm": (width,), "depthwise": (width, 1, 3, 3), "conv": (5, width, 3, 3)}
        weights[w] = positive(*small.get(step, (width, width, 3, 3)))
        if step in ("residual", "double"):
            nodes.append(f"c{k} = Conv<{PADDED}>({now}, {w})")
        nodes.append(f"{new} = {text}")
        now, width = new, 5 if step == "conv" else 2 * width if step == "double" else width
    weights["Z"] = normal(2, width, 1, 1, seed=seed)
    used = {key: array for key, array in weights.items() if any(key in line.replace(")", ",") for line in nodes)}
    model = network(f"{IN} (float[2,2,6,6] y) {{ {' '.join(nodes)} y = Conv({now}, Z) }}", **used | {"Z": weights["Z"]})
    for node in [n for n in load(model)[0].nodes if n.op == "Conv"]:
        if isinstance(find(load(model)[0], node.name), Group):
            assert_as_masked(model, node.name)
    assert isinstance(find(load(model)[0], "y"), Group)
