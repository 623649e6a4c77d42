"""ndpass rewrites the convolutions of a trained CNN into cheaper ones, without training."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndpass.api import Pipeline, Result, convert_model, run

__version__ = "0.1.0"
__all__ = ["Pipeline", "Result", "__version__", "convert_model", "run"]


def __getattr__(name: str) -> Any:
    """`run` and its like when they are first asked for: the command line starts without the runtimes."""
    if name in ("Pipeline", "Result", "convert_model", "run"):
        return getattr(importlib.import_module("ndpass.api"), name)
    if name in ("openvino", "passes"):
        return importlib.import_module(f"ndpass.{name}")
    raise AttributeError(f"module 'ndpass' has no attribute '{name}'")
