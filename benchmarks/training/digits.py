"""`python -m benchmarks.training.digits`: trains the network that ndpass ships on scikit-learn's 8x8 digits.

    python -m benchmarks.training.digits [-o ndpass/run/digits.onnx]

Needs the extra `bench`, and about 20 seconds on one core.

The network is the table `LAYERS`, read twice: by torch, to train, and by `onnx.helper`, to write. Writing it by hand
rather than with torch's exporter keeps readable names and leaves BatchNormalization a node of its own, as many
published models do, so that folding it is part of what the example shows.

    image -> stem -> residual block -> stride 2 -> residual block -> mean over positions -> linear -> logits
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from benchmarks import options
from ndpass.run import digits

Modules: TypeAlias = dict[str, Any]  # name -> torch module; torch is untyped here
Arrays: TypeAlias = dict[str, NDArray[np.float32]]

MINUTES = 1
SEED = 0
EPOCHS = 60
BATCH = 50
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05
MAX_SHIFT = 1  # pixels; a digit fills its 8x8 image, so two would cut it
CLASSES = 10
OPSET, IR_VERSION = 17, 8


@dataclass(frozen=True)
class Layer:
    """Conv 3x3 (no bias), BatchNormalization, then `+ output of layer add` if there is one, then Relu."""

    name: str
    inputs: int
    outputs: int
    stride: int = 1
    add: str | None = None


LAYERS = (
    Layer("stem", 1, 32),
    Layer("block1.conv1", 32, 32),
    Layer("block1.conv2", 32, 32, add="stem"),
    Layer("down", 32, 64, stride=2),
    Layer("block2.conv1", 64, 64),
    Layer("block2.conv2", 64, 64, add="down"),
)


# ---------------------------------------------------------------------------------------------------- training


def build() -> Modules:
    """The untrained modules: `<layer>` and `<layer>.bn` for each layer, and the linear `head`."""
    modules: Modules = {}
    for layer in LAYERS:
        modules[layer.name] = torch.nn.Conv2d(layer.inputs, layer.outputs, 3, layer.stride, padding=1, bias=False)
        modules[f"{layer.name}.bn"] = torch.nn.BatchNorm2d(layer.outputs)
    modules["head"] = torch.nn.Linear(LAYERS[-1].outputs, CLASSES)
    return modules


def forward(modules: Modules, x: torch.Tensor) -> torch.Tensor:
    """Images (N, 1, 8, 8) -> logits (N, 10)."""
    seen: dict[str, torch.Tensor] = {}
    for layer in LAYERS:
        x = modules[f"{layer.name}.bn"](modules[layer.name](x))
        x = functional.relu(x if layer.add is None else x + seen[layer.add])
        seen[layer.name] = x
    return modules["head"](x.mean(dim=(2, 3)))


def shifted(x: torch.Tensor) -> torch.Tensor:
    """Each image (N, 1, H, W) moved by up to `MAX_SHIFT` pixels along both axes; what comes in is background."""
    n, _, height, width = x.shape
    padded = functional.pad(x, (MAX_SHIFT,) * 4)
    tops, lefts = torch.randint(0, 2 * MAX_SHIFT + 1, (2, n)).tolist()
    moved = [
        image[:, top : top + height, left : left + width] for image, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(moved)


def batches(n: int) -> Iterator[torch.Tensor]:
    """The indices 0..n-1 in a new order, `BATCH` at a time."""
    yield from torch.randperm(n).split(BATCH)


def train(images: NDArray[np.float32], labels: NDArray[np.int64]) -> Modules:
    """Trained modules; the same seed on the same build of torch gives the same weights."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the order of a sum must not depend on how many cores there are
    modules = build()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * -(-len(x) // BATCH))
    for _ in range(EPOCHS):
        for chosen in batches(len(x)):
            loss = functional.cross_entropy(forward(modules, shifted(x[chosen])), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return modules


def accuracy(modules: Modules, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of images whose largest logit is the label, with the running statistics of BatchNormalization."""
    for module in modules.values():
        module.eval()
    with torch.no_grad():
        found = forward(modules, torch.from_numpy(images)).argmax(dim=1).numpy()
    return float((found == labels).mean())


# ------------------------------------------------------------------------------------------------------ writing


def weights(modules: Modules) -> Arrays:
    """The initializers by the names that they get in the file, such as `block1.conv1.bn.scale`."""
    arrays: Arrays = {}
    for layer in LAYERS:
        norm = modules[f"{layer.name}.bn"]
        parts = {"scale": norm.weight, "bias": norm.bias, "mean": norm.running_mean, "var": norm.running_var}
        arrays[f"{layer.name}.weight"] = to_numpy(modules[layer.name].weight)
        arrays.update({f"{layer.name}.bn.{part}": to_numpy(tensor) for part, tensor in parts.items()})
    head = modules["head"]
    return {**arrays, "head.weight": to_numpy(head.weight), "head.bias": to_numpy(head.bias)}


def to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    """A float32 copy of the tensor, same shape."""
    return np.array(tensor.detach().numpy(), np.float32)


def layer_nodes(layer: Layer, x: str, epsilon: float) -> list[onnx.NodeProto]:
    """The nodes of one layer that reads the value `x`; its output is `<layer>.out`."""
    name = layer.name
    norm = [f"{name}.conv", *(f"{name}.bn.{part}" for part in ("scale", "bias", "mean", "var"))]
    geometry: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [layer.stride] * 2}
    nodes = [
        helper.make_node("Conv", [x, f"{name}.weight"], [f"{name}.conv"], name=name, **geometry),
        helper.make_node("BatchNormalization", norm, [f"{name}.bn"], name=f"{name}.bn", epsilon=epsilon),
    ]
    last = f"{name}.bn"
    if layer.add is not None:
        nodes.append(helper.make_node("Add", [last, f"{layer.add}.out"], [f"{name}.add"], name=f"{name}.add"))
        last = f"{name}.add"
    return [*nodes, helper.make_node("Relu", [last], [f"{name}.out"], name=f"{name}.relu")]


def all_nodes(epsilon: float) -> list[onnx.NodeProto]:
    """The whole network in the order of execution, from `image` to `logits`."""
    nodes, x = [], "image"
    for layer in LAYERS:
        nodes += layer_nodes(layer, x, epsilon)
        x = f"{layer.name}.out"
    return [
        *nodes,
        helper.make_node("GlobalAveragePool", [x], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["features"], name="flatten"),
        helper.make_node("Gemm", ["features", "head.weight", "head.bias"], ["logits"], name="head", transB=1),
    ]


def to_onnx(modules: Modules) -> onnx.ModelProto:
    """The model that is written: input `image` ("batch", 1, 8, 8), output `logits` ("batch", 10), float32."""
    graph = helper.make_graph(
        all_nodes(modules["stem.bn"].eps),
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in weights(modules).items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="train_digits")
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, say how well it went, write."""
    parser = options.described(__doc__)
    parser.add_argument("-o", "--output", type=Path, default=digits.model_path(), help="the ONNX file to write")
    output: Path = parser.parse_args().output
    calibration, validation = digits.images()
    modules = train(*calibration)
    for part, (images, labels) in (("calibration", calibration), ("validation", validation)):
        print(f"accuracy on {len(labels)} {part} images: {accuracy(modules, images, labels):.4f}")
    onnx.save(to_onnx(modules), output)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
