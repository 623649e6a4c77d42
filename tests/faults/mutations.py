"""Files with something wrong in them, each from a seed: changed bytes, and well-formed files with a wrong content."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any
from xml.etree import ElementTree

import onnx
from onnx import TensorProto

EXTREMES = (0, 1, -1, 2, 3, 7, 1 << 31, -(1 << 31), 1 << 40, (1 << 62) + 1, -(1 << 63))
OPERATORS = (
    "Add", "Concat", "Conv", "ConvTranspose", "Flatten", "Gemm", "Identity", "If", "LSTM", "Loop", "MatMul", "MaxPool",
    "NoSuchOperator", "Pad", "Relu", "Reshape", "Resize", "Split", "TopK", "Transpose",
)  # fmt: skip
TEXTS = ("", "\0", "x", "\u202e", "../x", "a" * 5_000, "ä\n", "%s", "[red]x[/red]", "\x1b[2J")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four of them changed, left out, said twice or cut off."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(max(len(out), 1)) if rng.random() < 0.5 else rng.randrange(max(min(len(out), 600), 1))
        kind = rng.randrange(6)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at] = rng.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            del out[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            out[at:at] = out[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            del out[max(at, 1) :]
    return bytes(out)


def changed_onnx(content: bytes, rng: random.Random) -> bytes:
    """The model with one to three fields of its own that say something else."""
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(ONNX_CHANGES)(model, rng)
    return bytes(model.SerializeToString())


def _tensor(model: onnx.ModelProto, rng: random.Random) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    kind = rng.randrange(7)
    if kind == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(EXTREMES)
    elif kind == 1:
        tensor.dims.append(rng.choice(EXTREMES))
    elif kind == 2:
        tensor.data_type = rng.choice((*range(25), 99, -1))
    elif kind == 3:
        tensor.name = rng.choice((*TEXTS, rng.choice(model.graph.initializer).name))
    elif kind == 4:
        tensor.raw_data = damaged(tensor.raw_data, rng)
    elif kind == 5:
        tensor.float_data.extend([1.0, float("nan")])
    else:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", rng.choice((*TEXTS, "m.onnx", "."))), ("offset", str(rng.choice(EXTREMES)))):
            tensor.external_data.add(key=key, value=value)


def _node(model: onnx.ModelProto, rng: random.Random) -> None:
    nodes = model.graph.node
    if not nodes:
        return
    node, other = rng.choice(nodes), rng.choice(nodes)
    names = (*TEXTS, *other.output, *other.input, *(t.name for t in model.graph.initializer))
    kind = rng.randrange(9)
    if kind == 0 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif kind == 1 and node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(names)
    elif kind == 2:
        node.op_type = rng.choice(OPERATORS)
    elif kind == 3:
        node.name = rng.choice((*TEXTS, other.name))
    elif kind == 4:
        node.domain = rng.choice(("com.microsoft", "x", "ai.onnx.ml"))
    elif kind == 5:
        nodes.append(node)
    elif kind == 6:
        nodes.remove(node)
    elif kind == 7:
        node.input.append(rng.choice(names))
    elif node.input:
        del node.input[-1]


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    found = [a for node in model.graph.node for a in node.attribute]
    if not found:
        return
    attribute = rng.choice(found)
    kind = rng.randrange(6)
    if kind == 0 and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(EXTREMES)
    elif kind == 1:
        attribute.ints.append(rng.choice(EXTREMES))
    elif kind == 2:
        attribute.i = rng.choice(EXTREMES)
    elif kind == 3:
        attribute.type = rng.choice(range(1, 13))
    elif kind == 4:
        attribute.name = rng.choice(("group", "pads", "strides", "axis", "auto_pad", "x"))
    elif attribute.ints:
        del attribute.ints[-1]


def _face(model: onnx.ModelProto, rng: random.Random) -> None:
    """Inputs, outputs and what is said of inner tensors."""
    side = rng.choice((model.graph.input, model.graph.output, model.graph.value_info))
    if not side:
        return
    info, kind = rng.choice(side), rng.randrange(8)
    dims = info.type.tensor_type.shape.dim
    if kind == 0 and dims:
        rng.choice(dims).dim_value = rng.choice(EXTREMES)
    elif kind == 1 and dims:
        rng.choice(dims).dim_param = rng.choice(TEXTS)
    elif kind == 2 and dims:
        del dims[-1]
    elif kind == 3:
        info.type.tensor_type.ClearField("shape")
    elif kind == 4:
        info.type.tensor_type.elem_type = rng.choice((*range(25), 99))
    elif kind == 5:
        info.name = rng.choice((*TEXTS, *(n.output[0] for n in model.graph.node if n.output)))
    elif kind == 6:
        side.append(info)
    else:
        side.remove(info)


def _header(model: onnx.ModelProto, rng: random.Random) -> None:
    kind = rng.randrange(4)
    if kind == 0 and model.opset_import:
        model.opset_import[0].version = rng.choice((*EXTREMES, 6, 9, 10, 13, 18, 99))
    elif kind == 1:
        model.ir_version = rng.choice((0, 1, 3, 4, 7, 10, 13, 99))
    elif kind == 2:
        model.opset_import.add(domain=rng.choice(("", "ai.onnx", "x")), version=rng.choice((1, 17, 99)))
    else:
        model.graph.name = rng.choice(TEXTS)


ONNX_CHANGES: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    _tensor, _tensor, _node, _node, _attribute, _attribute, _face, _face, _header,
)  # fmt: skip


def changed_xml(content: bytes, rng: random.Random) -> bytes:
    """The XML with one to three of its values or elements changed."""
    root = ElementTree.fromstring(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        parents = [e for e in root.iter() if len(e)]
        parent = rng.choice(parents)
        child = rng.choice(list(parent))
        kind = rng.randrange(6)
        if kind <= 2:
            _change_value(rng.choice([e for e in root.iter() if e.attrib or e.text]), rng)
        elif kind == 3:
            parent.remove(child)
        elif kind == 4:
            parent.append(child)
        else:
            child.tag = rng.choice(("layer", "edge", "dim", "port", "x"))
    return ElementTree.tostring(root)


def _change_value(element: Any, rng: random.Random) -> None:
    value = rng.choice(
        (*map(str, EXTREMES), "nan", "1e999", "1,1", "", "x" * 300, "f16", "i64", "Convolution", "Result")
    )
    if element.attrib and rng.random() < 0.8:
        key = rng.choice(list(element.attrib))
        element.set(key, value)
        if rng.random() < 0.1:
            del element.attrib[key]
    else:
        element.text = value


def changed_json(content: Any, rng: random.Random) -> Any:
    """JSON with one of its values replaced, left out or put deeper."""
    values: Iterable[Any] = (
        None,
        True,
        -1,
        0,
        1e308,
        1 << 70,
        "",
        "x",
        [],
        {},
        [[[]]],
        {"rank": 0},
        {"nd": {"rank": 1}},
    )
    if isinstance(content, dict) and content and rng.random() < 0.85:
        key = rng.choice(list(content))
        kind = rng.randrange(8)
        rest = {k: v for k, v in content.items() if k != key}
        if kind == 0:
            return rest
        if kind == 1:
            return {**rest, rng.choice(TEXTS): content[key]}
        return {**content, key: changed_json(content[key], rng)}
    if isinstance(content, list) and content and rng.random() < 0.7:
        at = rng.randrange(len(content))
        return [*content[:at], changed_json(content[at], rng), *content[at + 1 :]]
    return rng.choice(tuple(values))
