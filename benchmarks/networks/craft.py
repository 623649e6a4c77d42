"""CRAFT (Baek et al. 2019, fig. 2): VGG16 with batch normalisation, a dilated sixth stage, four up-convolutions.

The layers stand in the order of the paper; names are those of the published checkpoint, shapes are read from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

# Conv, Batch normalisation, Relu, Pool: VGG16's layers, cut where the head reads them
STAGES = ("CBRCBRPCBRCB", "RPCBRCB", "RCBRPCBRCB", "RCBRPCBRCB")
SIZE = 384  # pixels a side

State = Mapping[str, Tensor]


def export(weights: Path, out: Path) -> None:
    """The checkpoint as ONNX: image (n, 3, 384, 384) -> scores (n, 192, 192, 2) of letters and of gaps between them."""
    stored = torch.load(weights, map_location="cpu", weights_only=True)
    network = Craft({name.removeprefix("module."): value for name, value in stored.items()}).eval()
    options = {"input_names": ["image"], "output_names": ["scores"]}
    axes = {"image": {0: "n"}, "scores": {0: "n"}}
    image = torch.zeros(1, 3, SIZE, SIZE)
    torch.onnx.export(network, (image,), str(out), dynamic_axes=axes, dynamo=False, **options)


class Craft(nn.Module):  # type: ignore[misc,unused-ignore]  # torch has no types here
    """The network with the weights of a checkpoint."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.stages, index = nn.ModuleList(), 0
        for number, letters in enumerate(STAGES, 1):
            self.stages.append(_sequence(state, f"basenet.slice{number}", letters, index))
            index += len(letters)
        sixth = [_conv(state, "basenet.slice5.1", dilation=6), _conv(state, "basenet.slice5.2")]
        self.stages.append(nn.Sequential(nn.MaxPool2d(3, 1, 1), *sixth))
        self.ups = nn.ModuleList(_sequence(state, f"upconv{i}.conv", "CBRCBR") for i in (1, 2, 3, 4))
        self.scores = _sequence(state, "conv_cls", "CRCRCRCRC")

    def forward(self, image: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, h/2, w/2, 2)"""
        *sides, x = self._features(image)
        for i, (up, side) in enumerate(zip(self.ups, reversed(sides), strict=True)):
            if i:  # the sixth stage is as large as the fifth
                x = functional.interpolate(x, size=side.shape[2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([x, side], 1))
        return self.scores(x).permute(0, 2, 3, 1)

    def _features(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


def _sequence(state: State, prefix: str, letters: str, first: int = 0) -> nn.Sequential:
    """Layers named <prefix>.<first>, and so on."""
    made = {"C": _conv, "B": _norm, "R": lambda *_: nn.ReLU(), "P": lambda *_: nn.MaxPool2d(2)}
    return nn.Sequential(*(made[letter](state, f"{prefix}.{first + i}") for i, letter in enumerate(letters)))


def _conv(state: State, name: str, dilation: int = 1) -> nn.Conv2d:
    weight = state[f"{name}.weight"]
    outputs, inputs, side, _ = weight.shape
    layer = nn.Conv2d(inputs, outputs, side, padding=dilation * (side // 2), dilation=dilation)
    layer.load_state_dict({"weight": weight, "bias": state[f"{name}.bias"]})
    return layer


def _norm(state: State, name: str) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(len(state[f"{name}.weight"]))
    layer.load_state_dict({key: state[f"{name}.{key}"] for key in layer.state_dict()})
    return layer
