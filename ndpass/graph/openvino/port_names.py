"""The name that an OpenVINO port goes by."""

from __future__ import annotations

import re
from typing import Any


def port_name(port: Any) -> str:
    """The ONNX name of an OpenVINO port: of an input its node's; an output's stands before '/sink_port_' if there."""
    name: str = port.get_node().get_friendly_name()
    if "/sink_port_" in name:
        return re.sub(r"/sink_port_\d+$", "", name)
    names: set[str] = port.get_names()
    return name if name in names or not names else sorted(names)[0]
