"""The two runtimes, OpenVINO and onnxruntime, behind one small face: feed in, outputs by their ONNX names out.

Peak process memory of loading and one inference, over the bytes of a 553 MB VGG-16 (13 convolutions, 3 Gemms, batch 1):

| runtime                                     | one file | external data | bytes |
|---------------------------------------------|----------|---------------|-------|
| onnxruntime, its own options                | 2.0      | 1.8           |       |
| onnxruntime, lean (no prepacking, no arena) | 1.8      | 1.1           | 3.0   |
| OpenVINO, f32                               | 2.1      | 2.1           | 4.0   |

So hand over a path. Both give the memory back when the object goes: use one after the other, not side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ndpass.errors import InputError, UsageError, blaming
from ndpass.files.model_path import check_model_path
from ndpass.graph.input_spec import StaticBatch, filled, largest_batch, static_batch
from ndpass.graph.openvino.port_names import port_bounds, port_name
from ndpass.measuring.openvino_core import read_model, shared_core
from ndpass.measuring.sample_order import Order, another_first, axes_of, end_to_end, told

if TYPE_CHECKING:
    import openvino as ov

    from ndpass.graph.input_spec import InputSpec

Runnable: TypeAlias = "bytes | ov.Model"  # an ONNX model in one message, or OpenVINO's own
Feed = dict[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]
Shapes = Callable[[tuple["InputSpec", ...]], Mapping[str, Sequence[int]]]
Precision = Literal["f32", "bf16", "int8"]

ONNX_TYPES = {"float": "float32", "double": "float64", "string": "object"}  # the others go by NumPy's name


class Runner(Protocol):
    """A model ready to run: {input name: array} -> {output name: array}, names as in the ONNX file."""

    @property
    def inputs(self) -> tuple[InputSpec, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def __call__(self, feed: Feed) -> Outputs: ...


class Session:
    """What both runtimes share: checks of the feed, a static batch filled up, errors of one line."""

    name: str  # the file, or what stands for it in messages
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    _orders: dict[str, Order | None] | None = None  # where the samples are in each output, of a fixed batch

    def __call__(self, feed: Feed) -> Outputs:
        """Runs the model on any number of samples; InputError if the feed does not fit or the runtime refuses it."""
        feed = self.checked(feed)
        alone = [spec.name for spec in self.inputs if feed[spec.name].ndim == len(spec.shape) + 1]
        if alone:
            return self._one_by_one(feed, alone)
        batch, limit = static_batch(self.inputs), largest_batch(self.inputs)
        if batch is None and limit is not None and len(feed[limit.name]) > limit.size:
            batch = limit
        if batch is None or len(feed[batch.name]) == batch.size:
            return self._guarded(feed)
        return self._in_batches(feed, batch)

    def prepared(self, feed: Feed) -> Callable[[], object]:
        """One inference of exactly `feed`, its inputs bound, for timing: no checks, no batching, no outputs copied."""
        raise NotImplementedError

    def checked(self, feed: Feed) -> Feed:
        """The feed in the model's order and types; InputError for a missing or surplus input or a type that loses."""
        wanted = {spec.name: spec.dtype for spec in self.inputs}
        if feed.keys() != wanted.keys():
            raise InputError(f"{self.name}: the model takes inputs {sorted(wanted)}, the data gives {sorted(feed)}")
        for name, dtype in wanted.items():
            if not np.can_cast(feed[name].dtype, dtype, casting="same_kind"):
                raise InputError(f"{self.name}: input '{name}' takes {dtype}, the data is {feed[name].dtype}")
        return {name: np.require(feed[name], dtype, "C") for name, dtype in wanted.items()}

    def _one_by_one(self, feed: Feed, alone: Sequence[str]) -> Outputs:
        """Samples of a model whose inputs `alone` have no axis for them: together only where these are equal."""
        count, together = len(feed[alone[0]]), len(alone) < len(self.inputs)
        # an open axis may count samples, as in a state (layers, batch, width): then it holds that of one
        sized = together and not any(None in spec.shape for spec in self.inputs if spec.name in alone)
        first = [0] + [i for i in range(1, count) if not sized or _differ(feed, alone, i)]
        counts = np.diff([*first, count])
        parts = [
            self({name: value[start] if name in alone else value[start : start + own] for name, value in feed.items()})
            for start, own in zip(first, counts, strict=True)
        ]
        if not together:
            return {name: np.stack([part[name] for part in parts]) for name in self.outputs}
        return {name: end_to_end([part[name] for part in parts], counts) for name in self.outputs}

    def _in_batches(self, feed: Feed, batch: StaticBatch) -> Outputs:
        count, size = len(feed[batch.name]), batch.size
        if not count:
            raise InputError(f"{self.name}: a feed holds at least one sample, this one holds none")
        # an input of `size` rows is taken for a batch only if it came with as many rows as there are samples
        split = [s.name for s in self.inputs if s.shape[:1] in ((size,), (None,)) and len(feed[s.name]) == count]
        parts = [
            self._guarded(feed | {name: filled(feed[name][start : start + size], size) for name in split})
            for start in range(0, count, size)
        ]
        if size > 1 and self._orders is None:
            self._orders = self._told(feed, parts[0], split, size)
        return {name: self._joined(name, [part[name] for part in parts], count, size) for name in self.outputs}

    def _told(self, feed: Feed, first: Outputs, split: Sequence[str], size: int) -> dict[str, Order | None]:
        """Where the samples are in each output: a run tells, in which another sample stands for the first."""
        ways = {name: axes_of(found.shape, size) for name, found in first.items()}
        if all(len(axes) < 2 and first[name].shape[:1] in ((), (size,)) for name, axes in ways.items()):
            return {name: Order(axes[0]) if axes else None for name, axes in ways.items()}
        changed = another_first({name: filled(feed[name], max(size, len(feed[name]))) for name in split}, size)
        other = self._guarded(feed | changed)
        return {name: told(first[name], other[name], axes, size) for name, axes in ways.items()}

    def _joined(self, name: str, parts: list[NDArray[Any]], count: int, size: int) -> NDArray[Any]:
        """Parts that hold `size` samples each, end to end, cut to `count`: an output may have k rows a sample.

        A part of one sample may have any number, as detections have. What is the same in all parts and has no rows
        for samples belongs to none of them: the priors of a detector.
        """
        if size == 1:
            return np.concatenate(parts) if parts[0].ndim else np.stack(parts)
        order = self._orders[name] if self._orders else None
        if order is None:
            if len(parts) > 1 and all(np.array_equal(part, parts[0]) for part in parts[1:]):
                return parts[0]
            shape = parts[0].shape
            raise InputError(
                f"{self.name}: the batch is fixed at {size} and output '{name}' {shape} has no batch axis, so other "
                f"numbers of samples cannot be joined: use a batch of {size}, or export with a dynamic batch"
            )
        rows = np.concatenate([order.by_sample(part, size) for part in parts])
        return order.as_given(rows[: count * (len(rows) // (size * len(parts)))], count)

    def _guarded(self, feed: Feed) -> Outputs:
        with blaming(f"{self.name}: {type(self).__name__} cannot run it"):
            return self._infer(feed)

    def _infer(self, feed: Feed) -> Outputs:
        raise NotImplementedError


class OpenVINO(Session):
    """A model compiled by OpenVINO.

    precision: 'f32' and 'bf16' are pinned (OpenVINO picks bf16 by itself where the CPU can; UsageError for 'bf16' where
    it cannot); None and 'int8', a model quantised already, leave the rest of the layers to OpenVINO.
    threads: None leaves them to OpenVINO. shapes: what the model's inputs are -> {input name: static shape}, to fix
    dynamic axes before compiling.
    """

    def __init__(
        self,
        model: Path | bytes | ov.Model,
        *,
        precision: Precision | None = "f32",
        threads: int | None = None,
        device: str = "CPU",
        shapes: Shapes | None = None,
    ) -> None:
        self.name = _name(model)
        core = shared_core()
        config = _config(core, precision, threads, device)
        with blaming(f"{self.name}: OpenVINO cannot load it"):
            self.compiled = core.compile_model(_read(model, shapes), device, config)
        self._request = self.compiled.create_infer_request()
        self.inputs = tuple(_port_spec(port) for port in self.compiled.inputs)
        self.outputs = tuple(port_name(port) for port in self.compiled.outputs)

    def prepared(self, feed: Feed) -> Callable[[], object]:
        import openvino as ov

        request = self.compiled.create_infer_request()
        with blaming(f"{self.name}: OpenVINO cannot run it"):
            for i, value in enumerate(self.checked(feed).values()):
                request.set_input_tensor(i, ov.Tensor(value, shared_memory=True))
        return lambda: request.infer(share_outputs=True)

    def lent(self, feed: Feed) -> Outputs:
        """One inference of exactly `feed`; the outputs are the runtime's own memory and hold until the next one."""
        with blaming(f"{self.name}: OpenVINO cannot run it"):
            return self._run(self.checked(feed))

    def _infer(self, feed: Feed) -> Outputs:
        return {name: np.array(value) for name, value in self._run(feed).items()}

    def _run(self, feed: Feed) -> Outputs:
        self._request.infer(dict(enumerate(feed.values())), share_inputs=True, share_outputs=True)
        # by number: the names of a compiled port may be those of an inner tensor that was merged with the output
        return {name: self._request.get_output_tensor(i).data for i, name in enumerate(self.outputs)}


class OnnxRuntime(Session):
    """An ONNX model in an onnxruntime session on the CPU, in the model's own types.

    lean: little memory, for verification (see above); False: onnxruntime's own options, for timing.
    """

    def __init__(self, model: Path | bytes, *, threads: int | None = None, lean: bool = True) -> None:
        import onnxruntime as ort

        self.name = _name(model)
        if isinstance(model, Path) and model.suffix == ".xml":
            raise InputError(f"{self.name}: onnxruntime reads ONNX; an OpenVINO IR runs in OpenVINO only")
        source = str(existing(model)) if isinstance(model, Path) else model
        with blaming(f"{self.name}: OnnxRuntime cannot load it"):
            self._session = ort.InferenceSession(source, _options(threads, lean), providers=["CPUExecutionProvider"])
        self.inputs = tuple(_onnx_spec(arg.name, arg.shape, arg.type) for arg in self._session.get_inputs())
        self.outputs = tuple(arg.name for arg in self._session.get_outputs())

    def prepared(self, feed: Feed) -> Callable[[], object]:
        session, checked = self._session, self.checked(feed)
        return lambda: session.run(None, checked)

    def _infer(self, feed: Feed) -> Outputs:
        return dict(zip(self.outputs, self._session.run(None, feed), strict=True))


def _differ(feed: Feed, names: Sequence[str], i: int) -> bool:
    """Whether sample i has other values of these inputs than the one before it."""
    return any(not np.array_equal(feed[name][i], feed[name][i - 1]) for name in names)


def existing(path: Path) -> Path:
    """The path itself; InputError where it can be no model."""
    check_model_path(path)
    return path


def _name(model: object) -> str:
    return str(model) if isinstance(model, Path) else "the model in memory"


def _config(core: ov.Core, precision: Precision | None, threads: int | None, device: str) -> dict[str, Any]:
    """Latency settings; one stream, so that all threads work on one request."""
    if precision == "bf16" and "BF16" not in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):
        raise UsageError(f"precision bf16 needs a device that has it, {device} here has not: use f32")
    hints = {"f32": "f32", "bf16": "bf16"}
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    config |= {"INFERENCE_PRECISION_HINT": hints[precision]} if precision in hints else {}
    return config | ({"INFERENCE_NUM_THREADS": threads} if threads else {})


def _read(model: Path | bytes | ov.Model, shapes: Shapes | None) -> Any:
    """A path is read by OpenVINO itself, which maps the weights and finds those that lie beside it."""
    if isinstance(model, Path | bytes):
        model = read_model(existing(model) if isinstance(model, Path) else model)
    elif shapes:
        model = model.clone()  # the caller's stays as it is
    if shapes:
        wanted = shapes(tuple(_port_spec(port) for port in model.inputs))
        model.reshape({i: list(wanted[port_name(port)]) for i, port in enumerate(model.inputs)})
    return model


def _options(threads: int | None, lean: bool) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads or 0
    # else the idle threads of one session take the cores from the next: twice the latency, measured on two cores
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if lean:
        options.enable_cpu_mem_arena = False  # it keeps the largest activations: 2.7 instead of 1.9 at batch 16
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # not the blocked weights
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _port_spec(port: Any) -> InputSpec:
    from ndpass.graph.input_spec import InputSpec

    axes = list(port.get_partial_shape())
    shape = tuple(axis.get_length() if axis.is_static else None for axis in axes)
    return InputSpec(port_name(port), shape, np.dtype(port.get_element_type().to_dtype()), port_bounds(axes))


def _onnx_spec(name: str, shape: Sequence[int | str | None], kind: str) -> InputSpec:
    from ndpass.graph.input_spec import InputSpec

    element = kind.removeprefix("tensor(").removesuffix(")")  # 'tensor(float)'
    dtype: DTypeLike = ONNX_TYPES.get(element, element)
    axes = tuple(axis if isinstance(axis, int) and axis > 0 else None for axis in shape)  # -1 is open, too
    return InputSpec(name, axes, np.dtype(dtype))
