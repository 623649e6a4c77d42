"""ndpass rewrites the convolutions of a trained CNN into cheaper ones, without training."""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import TYPE_CHECKING, Any

from ndpass.version import VERSION

if TYPE_CHECKING:
    from ndpass.api import Pipeline, Result, convert_model, run

__version__ = VERSION
__all__ = ["Pipeline", "Result", "__version__", "convert_model", "run"]

# Runtimes report to their makers unless they are told not to before they are imported: onnxruntime 1.29 and newer names
# and digests of the models that it runs, OpenVINO and NNCF how they are used. Those two go without what sends it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

_FUNCTIONS = ("Pipeline", "Result", "convert_model")  # of ndpass.api, which loads the runtimes
_MODULES = ("calibration", "conv", "errors", "openvino", "passes", "report", "testing")


def __getattr__(name: str) -> Any:
    """The public words when they are first asked for: the command line starts without the runtimes."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module("ndpass.api"), name)
    if name in _MODULES:
        return importlib.import_module(f"ndpass.{name}")
    raise AttributeError(f"module 'ndpass' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted((*__all__, *_MODULES))


class _Package(types.ModuleType):
    """`ndpass.run` is the function for whoever has imported ndpass, and the wing for `from ndpass.run import ...`.

    Python binds a subpackage to its parent under its name when it is first imported, which would hide the function.
    """

    @property
    def run(self) -> Any:
        """`ndpass.api.run`."""
        return importlib.import_module("ndpass.api").run

    @run.setter
    def run(self, wing: types.ModuleType) -> None:
        """The import system's binding of the wing, which sys.modules keeps."""


sys.modules[__name__].__class__ = _Package
