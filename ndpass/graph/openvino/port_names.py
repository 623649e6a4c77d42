"""The name that an OpenVINO port goes by, and the bounds of its axes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ndpass.graph.input_spec import Bounds


def port_name(port: Any) -> str:
    """The ONNX name of an OpenVINO port: of an input its node's; an output's stands before '/sink_port_' if there."""
    name: str = port.get_node().get_friendly_name()
    if port.get_node().get_type_name() == "Result" and "/sink_port_" in name:
        return re.sub(r"/sink_port_\d+$", "", name)
    names: set[str] = port.get_names()
    return name if name in names or not names else sorted(names)[0]


def port_bounds(axes: Sequence[Any]) -> tuple[Bounds, ...]:
    """The least and the most of each axis (openvino.Dimension); empty where no open axis has bounds."""
    bounds = tuple((int(a.get_min_length()), None if a.get_max_length() < 0 else int(a.get_max_length())) for a in axes)
    bounded = any(a.is_dynamic and b != (0, None) for a, b in zip(axes, bounds, strict=True))
    return bounds if bounded else ()
