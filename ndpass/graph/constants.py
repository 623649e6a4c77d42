"""The constants of a graph-surgeon graph: whether their values are fixed, and what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues


class Default(np.ndarray[Any, Any]):
    """Values of an input that need not be fed: they hold only until somebody feeds others."""


def is_known(tensor: gs.Tensor) -> bool:
    """Whether the tensor has the same values in every run."""
    return isinstance(tensor, gs.Constant) and not isinstance(tensor._values, Default)


def is_weight(tensor: gs.Tensor) -> bool:
    """Whether its values are known and dense, so that a layer can be rewritten with others."""
    return is_known(tensor) and not isinstance(tensor._values, SparseValues)


def is_sparse(tensor: gs.Tensor) -> bool:
    """Whether it is a constant that is stored as a sparse tensor."""
    return isinstance(tensor, gs.Constant) and isinstance(tensor._values, SparseValues)


def values(tensor: gs.Constant) -> NDArray[Any]:
    """The constant's values. They are read anew at each call: the graph keeps them as they are stored."""
    stored = tensor._values
    loaded: NDArray[Any] = stored.load() if isinstance(stored, LazyValues) else stored
    return loaded


def has(node: gs.Node, index: int) -> bool:
    """Whether the node has this input: a trailing one may be missing, another one empty."""
    return index < len(node.inputs) and not node.inputs[index].is_empty()


def given(node: gs.Node, index: int) -> NDArray[Any] | None:
    """The values of a constant input; None where the node has none or it is computed."""
    return values(node.inputs[index]) if has(node, index) and is_weight(node.inputs[index]) else None
