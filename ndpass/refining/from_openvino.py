"""An OpenVINO model as a program, and its weights back into the model.

Operators become ONNX's where these do the same; the others keep their names, and `openvino_rules` computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ndpass.graph.openvino.fold import constant_value, decompressed
from ndpass.graph.openvino.port_names import port_name
from ndpass.refining.program import Program, Step

Attributes: TypeAlias = "dict[str, Any]"
Said: TypeAlias = "tuple[str, Sequence[int], Attributes]"  # operator, inputs by number, attributes
AUTO_PADS = {"explicit": "NOTSET", "same_upper": "SAME_UPPER", "same_lower": "SAME_LOWER", "valid": "VALID"}
TURNED = {"SAME_UPPER": "SAME_LOWER", "SAME_LOWER": "SAME_UPPER"}  # ONNX's, which cut more at the other end
SAME = {  # what differs in nothing but its name
    "Add": "Add",
    "Subtract": "Sub",
    "Multiply": "Mul",
    "Divide": "Div",
    "Power": "Pow",
    "Maximum": "Max",
    "Minimum": "Min",
    "Sqrt": "Sqrt",
    "Exp": "Exp",
    "Log": "Log",
    "Negative": "Neg",
    "Abs": "Abs",
    "Erf": "Erf",
    "Floor": "Floor",
    "Ceiling": "Ceil",
    "Relu": "Relu",
    "PRelu": "PRelu",
    "Sigmoid": "Sigmoid",
    "Tanh": "Tanh",
    "HSwish": "HardSwish",
    "Mish": "Mish",
    "SoftPlus": "Softplus",
    "Unsqueeze": "Unsqueeze",
    "Squeeze": "Squeeze",
    "ShapeOf": "Shape",
    "Select": "Where",
    "Tile": "Tile",
    "Equal": "Equal",
    "Greater": "Greater",
    "Less": "Less",
    "LogicalNot": "Not",
    "LogicalAnd": "And",
    "LogicalOr": "Or",
    "GreaterEqual": "GreaterOrEqual",
    "LessEqual": "LessOrEqual",
    "Range": "Range",
    "Sin": "Sin",
    "Cos": "Cos",
    "Sign": "Sign",
    "SoftSign": "Softsign",
}
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2")


def read(model: ov.Model) -> Program:
    """The model's operators in order. Constants in half precision count as what they are unpacked to."""
    return _Reader(model).run()


def write(model: ov.Model, weights: Mapping[str, NDArray[Any]]) -> ov.Model:
    """The model itself, with these values in the constants that `read` has named, each stored in its own type."""
    for op in model.get_ordered_ops():
        stored = decompressed(op) or op
        if stored.get_type_name() != "Constant" or (value := weights.get(op.get_name())) is None:
            continue
        kind = np.dtype(stored.get_output_element_type(0).to_dtype())
        made = ov.op.Constant(np.ascontiguousarray(value.reshape(tuple(stored.get_output_shape(0))).astype(kind)))
        made.set_friendly_name(stored.get_friendly_name())
        stored.output(0).replace(made.output(0))
    return model


class _Reader:
    def __init__(self, model: ov.Model) -> None:
        self.model = model
        self.names: dict[tuple[str, int], str] = {}
        self.taken: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.constants: dict[str, NDArray[Any]] = {}

    def run(self) -> Program:
        steps = []
        for op in self.model.get_ordered_ops():
            kind, value = op.get_type_name(), constant_value(op)
            if kind == "Result":
                self.aliases[port_name(op.output(0))] = self._name(op.input_value(0))
            elif value is not None:
                self.names[op.get_name(), 0] = op.get_name()
                self.constants[op.get_name()] = np.array(value)
            else:
                self._call(op)
                if kind != "Parameter":
                    steps.append(self._step(op))
        return Program(
            inputs=tuple(self._name(op.output(0)) for op in self.model.get_parameters()),
            outputs=tuple(self._name(op.input_value(0)) for op in self.model.get_results()),
            steps=tuple(steps),
            constants=self.constants,
            aliases=self.aliases,
        )

    def _call(self, op: ov.Node) -> None:
        """Name the outputs after their maker, as the rewritten model has them, too."""
        several = op.get_output_size() > 1
        for i, port in enumerate(op.outputs()):
            base = port_name(port) if op.get_type_name() == "Parameter" else op.get_friendly_name()
            name = f"{base}:{i}" if several else base
            name = name if name not in self.taken else f"{name} {op.get_name()}"
            self.taken.add(name)
            self.names[op.get_name(), i] = name
            self.aliases |= dict.fromkeys(port.get_names(), name)

    def _name(self, port: Any) -> str:
        return self.names[port.get_node().get_name(), port.get_index()]

    def _step(self, op: ov.Node) -> Step:
        said, slots, attributes = self._told(op)
        inputs = [self._name(op.input_value(i)) for i in slots]
        return Step(said, op.get_friendly_name(), tuple(inputs), tuple(map(self._name, op.outputs())), attributes)

    def _told(self, op: ov.Node) -> Said:
        kind, attributes = op.get_type_name(), dict(op.get_attributes())
        everything = range(op.get_input_size())
        if kind in SAME:
            return SAME[kind], everything, {}
        if kind in REDUCTIONS:
            return kind, (0, 1), {"keepdims": int(attributes.get("keep_dims", False))}
        rule = TOLD.get(kind)
        return (kind, everything, attributes) if rule is None else rule(self, op, attributes)

    def known(self, op: ov.Node, slot: int) -> list[Any] | None:
        """The values of a constant input, None where it is none or left out."""
        if op.get_input_size() <= slot:
            return None
        value = constant_value(op.input_value(slot).get_node())
        return None if value is None else list(np.asarray(value).reshape(-1).tolist())


def _padding(attributes: Attributes) -> Attributes:
    return {
        "auto_pad": AUTO_PADS[attributes["auto_pad"]],
        "pads": [*attributes["pads_begin"], *attributes["pads_end"]],
        "strides": attributes["strides"],
    }


def _convolution(_: _Reader, op: ov.Node, attributes: Attributes) -> Said:
    grouped = op.get_type_name().startswith("Group")
    found = {**_padding(attributes), "dilations": attributes["dilations"]}
    if grouped:
        found["group"] = int(op.get_input_partial_shape(1)[0].get_length())
    return "GroupConv" if grouped else "Conv", (0, 1), found


def _transposed(reader: _Reader, op: ov.Node, attributes: Attributes) -> Said:
    said, slots, found = _convolution(reader, op, attributes)
    found["output_padding"] = attributes["output_padding"]
    mode, shape = found["auto_pad"], reader.known(op, 2)
    if op.get_input_size() > 2 and shape is None:
        return f"{said}Transpose of a computed shape", (0,), {}
    found["auto_pad"] = TURNED.get(mode, "NOTSET")
    if shape is None and mode != "NOTSET":
        found["pads"] = [0] * len(found["pads"])  # nothing is cut off
        found["auto_pad"] = "NOTSET"
    elif shape is not None:
        found["output_shape"] = shape
        if mode not in TURNED:
            found["begins"] = attributes["pads_begin"] if mode == "NOTSET" else [0] * len(shape)
    return f"{said}Transpose", slots, found


def _pool(_: _Reader, op: ov.Node, attributes: Attributes) -> Said:
    found = {**_padding(attributes), "kernel_shape": attributes["kernel"]}
    found["ceil_mode"] = int(attributes["rounding_type"].startswith("ceil"))
    found["all_windows"] = attributes["rounding_type"] == "ceil"
    if op.get_type_name() == "MaxPool":
        return "MaxPool", (0,), {**found, "dilations": attributes.get("dilations")}
    found["whole_windows"] = not attributes["exclude-pad"]
    found["dilations"] = attributes.get("dilations")
    return "AveragePool", (0,), {**found, "count_include_pad": int(not attributes["exclude-pad"])}


def _norm(_: _Reader, op: ov.Node, attributes: Attributes) -> Said:  # noqa: ARG001 - the table calls all alike
    return "BatchNormalization", (0, 1, 2, 3, 4), {"epsilon": attributes["epsilon"]}


def _matmul(_: _Reader, op: ov.Node, attributes: Attributes) -> Said:  # noqa: ARG001 - the table calls all alike
    return "MatMul", (0, 1), attributes


def _axis(said: str) -> Callable[[_Reader, ov.Node, Attributes], Said]:
    return lambda _, op, attributes: (said, range(op.get_input_size()), {"axis": attributes["axis"]})


def _pad(reader: _Reader, op: ov.Node, attributes: Attributes) -> Said:
    begins, ends, value = (reader.known(op, slot) for slot in (1, 2, 3))
    if begins is None or ends is None:
        return "Pad of computed lengths", (0,), {}
    mode = attributes["pad_mode"].lower()
    return "Pad", (0,), {"pads": [*begins, *ends], "mode": mode, "value": value[0] if value else 0.0}


def _transposition(reader: _Reader, op: ov.Node, attributes: Attributes) -> Said:  # noqa: ARG001 - as the others
    order = reader.known(op, 1)
    return ("Transpose in a computed order", (0,), {}) if order is None else ("Transpose", (0,), {"perm": order})


def _slice(_: _Reader, op: ov.Node, attributes: Attributes) -> Said:  # noqa: ARG001 - the table calls all alike
    return "Slice", (0, 1, 2, 4, 3)[: op.get_input_size()] if op.get_input_size() == 5 else (0, 1, 2), {}


def _gather(reader: _Reader, op: ov.Node, attributes: Attributes) -> Said:
    axis = reader.known(op, 2)
    simple = axis is not None and not attributes.get("batch_dims")
    return ("Gather", (0, 1), {"axis": axis[0]}) if simple and axis else ("Gather in batches", (0,), {})


def _split(reader: _Reader, op: ov.Node, attributes: Attributes) -> Said:
    axis, lengths = reader.known(op, 1), reader.known(op, 2)
    if axis is None:
        return "Split along a computed axis", (0,), {}
    if op.get_type_name() == "Split":
        return "Split", (0,), {"axis": axis[0], "num_outputs": attributes["num_splits"]}
    if lengths is None or -1 in lengths:
        return "VariadicSplit of computed lengths", (0,), {}
    return "Split", (0,), {"axis": axis[0], "split": lengths}


def _clamp(_: _Reader, op: ov.Node, attributes: Attributes) -> Said:  # noqa: ARG001 - the table calls all alike
    return "Clip", (0,), {"min": attributes["min"], "max": attributes["max"]}


def _elu(_: _Reader, op: ov.Node, attributes: Attributes) -> Said:  # noqa: ARG001 - the table calls all alike
    return "Elu", (0,), {"alpha": attributes["alpha"]}


def _hard_sigmoid(reader: _Reader, op: ov.Node, attributes: Attributes) -> Said:
    alpha, beta = (reader.known(op, slot) or [None] for slot in (1, 2))
    return "HardSigmoid", (0,), {**attributes, "alpha": alpha[0], "beta": beta[0]}


def _reshape(_: _Reader, op: ov.Node, attributes: Attributes) -> Said:  # noqa: ARG001 - the table calls all alike
    return "Reshape", (0, 1), {"allowzero": int(not attributes["special_zero"])}


def _convert(_: _Reader, op: ov.Node, attributes: Attributes) -> Said:
    return "Convert", (0,), {"to": str(op.get_output_element_type(0).to_string()), **attributes}


def _lrn(reader: _Reader, op: ov.Node, attributes: Attributes) -> Said:
    along = reader.known(op, 1) == [1]
    return ("LRN", (0,), {**attributes, "odd": True}) if along else ("LRN along other axes", (0,), {})


def _gelu(_: _Reader, op: ov.Node, attributes: Attributes) -> Said:  # noqa: ARG001 - the table calls all alike
    tanh = str(attributes.get("approximation_mode", "ERF")).upper() == "TANH"
    return "Gelu", (0,), {"approximate": "tanh" if tanh else "none"}


def _blocks(_: _Reader, op: ov.Node, attributes: Attributes) -> Said:
    mode = "DCR" if attributes["mode"] == "blocks_first" else "CRD"
    return op.get_type_name(), (0,), {"blocksize": attributes["block_size"], "mode": mode}


TOLD: dict[str, Callable[[_Reader, ov.Node, Attributes], Said]] = {
    "Convolution": _convolution,
    "GroupConvolution": _convolution,
    "ConvolutionBackpropData": _transposed,
    "GroupConvolutionBackpropData": _transposed,
    "MatMul": _matmul,
    "BatchNormInference": _norm,
    "MaxPool": _pool,
    "AvgPool": _pool,
    "Softmax": _axis("Softmax"),
    "LogSoftmax": _axis("LogSoftmax"),
    "Concat": _axis("Concat"),
    "Pad": _pad,
    "Transpose": _transposition,
    "Slice": _slice,
    "Gather": _gather,
    "Split": _split,
    "VariadicSplit": _split,
    "Clamp": _clamp,
    "Elu": _elu,
    "HardSigmoid": _hard_sigmoid,
    "Reshape": _reshape,
    "Convert": _convert,
    "LRN": _lrn,
    "Gelu": _gelu,
    "DepthToSpace": _blocks,
    "SpaceToDepth": _blocks,
}
