"""Tests for passes of your own: `check_pass(MyPass)` runs the suite that ndpass's own passes are held to.

    from ndpass.testing import check_pass

    def test_my_pass_keeps_what_a_pass_promises():
        check_pass(MyPass)

It takes a few seconds, and needs neither data nor a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from threadpoolctl import threadpool_limits

from ndpass.conv import Block, Conv
from ndpass.errors import last_words
from ndpass.graph.graph import Graph, Site
from ndpass.passes.base import Decomposition, Setting, block_error, setting_text
from ndpass.passes.contract import ARRAY_CHECKS, EXACT, BrokenPromiseError, check_class, check_refusal, promise

__all__ = ["CHECKS", "BrokenPromiseError", "Layer", "check_pass", "counted_macs", "layers"]

SAME_OUTPUT = 1e-5  # relative error of the outputs in float32 of a rewrite that is exact in theory

Kind = type[Decomposition]


def check_pass(kind: Kind) -> None:
    """Raise AssertionError, with one line that says what and where, unless the pass keeps what a pass promises.

    Layers of many geometries are rewritten: a refusal has a reason; settings are cheapest first; full rank computes
    what the layer did; predicted errors are the measured ones, on data upper bounds; predicted MACs are those counted
    in the written model; the same input gives the same bytes. What the pass refuses is not rewritten, but it has to
    accept one of the layers at least.

    >>> class Promising(Decomposition):
    ...     name, summary, options = "promising", "refuses everything", {"rank": ()}
    ...     def refuse(self, conv):
    ...         return "not today"
    ...     def settings(self, conv):
    ...         return []
    ...     def rewrite(self, conv, setting, moments=None):
    ...         return conv
    >>> check_pass(Promising)
    Traceback (most recent call last):
    ndpass.passes.contract.BrokenPromiseError: promising: refuses every layer that it is tried on: ...
    """
    check_class(kind)
    acted = False
    with threadpool_limits(1):  # the matrices are small
        for layer in layers():
            _run(kind, layer, check_refusal_of)
            if kind().refuse(layer.conv) is None:
                acted = True
                for check in CHECKS:
                    _run(kind, layer, check)
    names = ", ".join(layer.name for layer in layers())
    promise(acted, f"{kind.name}: refuses every layer that it is tried on: {names}")


def _run(kind: Kind, layer: Layer, check: Check) -> None:
    """The check; whatever else the pass raises is a broken promise too."""
    try:
        check(kind, layer)
    except BrokenPromiseError:
        raise
    except Exception as e:
        what = check.__name__.removeprefix("check_").replace("_", " ")
        said = f"{type(e).__name__}: {last_words(str(e))}"
        raise BrokenPromiseError(
            f"{kind.name}: {what} of {layer.name} cannot be checked, the pass raises {said}"
        ) from e


@dataclass(frozen=True)
class Layer:
    """A layer to try a pass on. model: one convolution or matrix product, of known sizes."""

    name: str
    model: onnx.ModelProto

    @classmethod
    def of(cls, name: str, conv: Conv, in_hw: tuple[int, ...], batch: int = 2) -> Layer:
        """The convolution on an input (batch, n_i, *in_hw)."""
        kinds = {
            key: helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, shape)
            for key, shape in (("x", (batch, conv.n_i, *in_hw)), ("y", (batch, conv.n_o, *conv.out_hw(in_hw))))
        }
        weights = {"W": conv.weight} if conv.bias is None else {"W": conv.weight, "B": conv.bias}
        attrs: dict[str, Any] = {"transB": 1}
        if conv.kernel:
            attrs = {"strides": conv.strides, "pads": conv.pads, "dilations": conv.dilations, "group": conv.group}
        node = helper.make_node("Conv" if conv.kernel else "Gemm", ["x", *weights], ["y"], "layer", **attrs)
        tensors = [numpy_helper.from_array(array, key) for key, array in weights.items()]
        graph = helper.make_graph([node], name, [kinds["x"]], [kinds["y"]], tensors)
        return cls(name, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))

    @cached_property
    def site(self) -> Site:
        (found,) = Graph(self.model).sites()
        assert isinstance(found, Site)
        return found

    @property
    def conv(self) -> Conv:
        """A copy, which a pass may spoil."""
        conv = self.site.conv
        return replace(conv, weight=conv.weight.copy(), bias=None if conv.bias is None else conv.bias.copy())

    def written(self, block: Block) -> onnx.ModelProto:
        """The model with the block in the layer's place."""
        graph = Graph(self.model)
        (site,) = graph.sites()
        assert isinstance(site, Site)
        graph.splice(site, block)
        graph.tidy()
        model: onnx.ModelProto = graph.to_model()
        onnx.checker.check_model(model, full_check=True)
        return model

    def outputs(self, model: onnx.ModelProto) -> list[Any]:
        """What onnxruntime computes on a seeded input."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        session = ort.InferenceSession(model.SerializeToString(), options)
        rng = np.random.default_rng(0)
        feed = {x.name: rng.standard_normal(x.shape).astype(np.float32) for x in session.get_inputs()}
        found: list[Any] = session.run(None, feed)
        return found


Check = Callable[[Kind, Layer], None]


@cache
def layers() -> tuple[Layer, ...]:
    """One layer of each geometry that a pass is tried on, with seeded weights."""

    def conv(*shape: int, bias: bool = True, **geometry: Any) -> Conv:
        rng = np.random.default_rng(shape)
        weight = rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
        offset = rng.standard_normal(shape[0]).astype(np.float32) if bias else None
        return Conv(weight.astype(np.float32), offset, **geometry)

    return (
        Layer.of("conv3x3", conv(8, 6, 3, 3, pads=(1, 1, 1, 1)), (9, 8)),
        Layer.of("conv3x3-strided", conv(6, 8, 3, 3, strides=(2, 2), pads=(1, 1, 1, 1), bias=False), (9, 9)),
        Layer.of("conv3x2-uneven", conv(5, 4, 3, 2, strides=(3, 1), pads=(2, 0, 1, 3), dilations=(1, 2)), (9, 8)),
        Layer.of("conv3x3-wide", conv(32, 20, 3, 3, pads=(1, 1, 1, 1)), (6, 6), batch=1),
        Layer.of("conv3x3-one-input", conv(5, 1, 3, 3), (6, 6)),
        Layer.of("conv3x3-one-output", conv(1, 5, 3, 3), (6, 6)),
        Layer.of("conv1x3", conv(5, 6, 1, 3, pads=(0, 1, 0, 1)), (4, 9)),
        Layer.of("conv1x1", conv(8, 6, 1, 1, strides=(2, 1)), (5, 5)),
        Layer.of("conv1d", conv(4, 6, 5, strides=(2,), pads=(2, 1)), (17,)),
        Layer.of("conv3d", conv(4, 3, 3, 2, 3, pads=(1, 0, 1, 1, 1, 0)), (5, 6, 5)),
        Layer.of("gemm", conv(6, 8), ()),
        Layer.of("grouped", conv(6, 2, 3, 3, group=2), (5, 5)),
        Layer.of("grouped-strided", conv(12, 4, 3, 3, group=3, strides=(2, 1), pads=(1, 1, 0, 1)), (8, 7)),
        Layer.of("depthwise", conv(4, 1, 3, 3, group=4), (5, 5)),
    )


def check_refusal_of(kind: Kind, layer: Layer) -> None:
    """A refusal has a reason, whatever the weights."""
    check_refusal(kind, layer.name, layer.conv)


def check_arrays(kind: Kind, layer: Layer) -> None:
    """All that can be checked without a graph (`ndpass.passes.contract`)."""
    for check in ARRAY_CHECKS:
        check(kind, layer.name, layer.conv)


def check_full_rank_in_a_model(kind: Kind, layer: Layer) -> None:
    """The exact settings compute what the layer did, in onnxruntime."""
    expected = layer.outputs(layer.model)
    for setting in exact_settings(kind(), layer.conv):
        got = layer.outputs(layer.written(kind().rewrite(layer.conv, setting)))
        moved = max(float(np.abs(a - b).max() / (np.abs(a).max() or 1.0)) for a, b in zip(expected, got, strict=True))
        promise(
            moved < SAME_OUTPUT,
            f"{kind.name}: {layer.name} by {setting_text(setting)}, which is exact, gives other outputs: {moved:.2g}",
        )


def check_macs_in_a_model(kind: Kind, layer: Layer) -> None:
    """The MACs of a block are those counted in the model that is written."""
    rule = kind()
    settings = rule.settings(layer.site.outline)
    for setting in settings[:: max(1, len(settings) // 3)]:
        predicted = layer.site.macs(rule.outline(layer.site.outline, setting))
        counted = counted_macs(layer.written(rule.rewrite(layer.conv, setting)))
        promise(
            predicted == counted,
            f"{kind.name}: outline({layer.name}, {setting_text(setting)}) has {predicted} MACs, the written model "
            f"{counted}",
        )


def check_same_bytes(kind: Kind, layer: Layer) -> None:
    """The same input gives the same model."""
    first, second = (
        layer.written(kind().rewrite(layer.conv, kind().settings(layer.conv)[0])).SerializeToString() for _ in range(2)
    )
    promise(first == second, f"{kind.name}: the model of {layer.name} has other bytes when it is written again")


CHECKS: Sequence[Check] = (check_arrays, check_full_rank_in_a_model, check_macs_in_a_model, check_same_bytes)


def exact_settings(rule: Decomposition, conv: Conv) -> list[Setting]:
    """The settings that should change nothing, the cheapest of each kind: full rank in every form."""
    exact: dict[tuple[str, ...], Setting] = {}
    for setting in rule.settings(conv):
        words = tuple(v for v in setting.values() if isinstance(v, str))
        if words not in exact and block_error(conv, rule.rewrite(conv, setting)) < EXACT:
            exact[words] = setting
    return list(exact.values())


def counted_macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of a written model: what each element of an output took, over ONNX's own shapes."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes.setdefault(info.name, tuple(d.dim_value for d in info.type.tensor_type.shape.dim))
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return total
