"""The machine that a model is made fast for: device, precision, threads and batch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ndpass.errors import UsageError
from ndpass.measuring.environment import affinity
from ndpass.measuring.openvino_core import shared_core
from ndpass.measuring.runtime import Precision


@dataclass(frozen=True)
class Target:
    """Precision, CPU threads (None: OpenVINO's choice), batch and OpenVINO's name of the device.

    Raises UsageError for a number below 1 and for a device that is not there.
    """

    precision: Precision = "f32"
    threads: int | None = None
    batch: int = 1
    device: str = "CPU"

    def __post_init__(self) -> None:
        for name, value in (("threads", self.threads), ("batch", self.batch)):
            if value is not None and value < 1:
                raise UsageError(f"{name} of a target is a whole number from 1 on; got {value}")
        if self.device != "CPU" and self.device not in (there := shared_core().available_devices):
            found = ", ".join(there)
            raise UsageError(f"device {self.device} is not there: OpenVINO finds {found} on this machine")

    def properties(self) -> dict[str, Any]:
        """OpenVINO's, one stream so that all threads work on one request; UsageError for bf16 on a device without it.

        int8: a model that is quantised already; what is not is left to OpenVINO.
        """
        core = shared_core()
        if self.precision == "bf16" and "BF16" not in core.get_property(self.device, "OPTIMIZATION_CAPABILITIES"):
            raise UsageError(f"precision bf16 needs a device that has it, {self.device} here has not: use f32 or int8")
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        config |= {} if self.precision == "int8" else {"INFERENCE_PRECISION_HINT": self.precision}
        return config | ({"INFERENCE_NUM_THREADS": self.threads} if self.threads and self.device == "CPU" else {})

    @classmethod
    def default_precision(cls, device: str = "CPU") -> Literal["f32", "bf16"]:
        """What OpenVINO runs an f32 model in on this device if it is left the choice, f16 counted as f32."""
        import openvino as ov
        from openvino import opset13

        x = opset13.parameter([1, 1], np.float32)
        compiled = shared_core().compile_model(ov.Model([opset13.relu(x)], [x]), device, {})
        return "bf16" if compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.bf16 else "f32"

    def environment(self) -> dict[str, str]:
        """All that a latency depends on besides block and size, as text."""
        import openvino as ov

        core = shared_core()
        return {
            "device": self.device,
            "cpu": str(core.get_property(self.device, "FULL_DEVICE_NAME")).strip(),
            "capabilities": " ".join(sorted(core.get_property(self.device, "OPTIMIZATION_CAPABILITIES"))),
            "isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper(),
            "openvino": str(ov.__version__),
            "threads": str(self.threads or f"all {len(affinity())}"),
            "precision": self.precision,
            "batch": str(self.batch),
        }
