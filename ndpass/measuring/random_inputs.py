"""Random inputs for what is only timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.errors import UsageError
from ndpass.graph.input_spec import InputSpec, check_drawn, static_batch
from ndpass.graph.shapes import Shape
from ndpass.measuring.runtime import Feed
from ndpass.measuring.target import Target


def random_feed(specs: Sequence[InputSpec], shapes: dict[str, tuple[int, ...]], seed: int) -> Feed:
    """Input name -> array: standard normal floats; integers 0 or 1, which are valid indices almost everywhere."""
    rng = np.random.default_rng(seed)
    return {spec.name: _random(rng, spec, shapes[spec.name]) for spec in specs}


def _random(rng: np.random.Generator, spec: InputSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    check_drawn(spec.name, spec.dtype, shape)
    dtype = spec.dtype
    values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
    return np.asarray(values, dtype)


def feed_of(specs: Sequence[InputSpec], sizes: Mapping[str, Shape], target: Target) -> Feed:
    """Random inputs of the sizes that costs are counted at, with the target's batch as the first axis.

    Raises UsageError where the model's batch is fixed at another size.
    """
    own = static_batch(specs)
    if own is not None and own.size != target.batch:
        raise UsageError(f"--batch {target.batch}: the model's batch is fixed at {own.size}: leave --batch out")
    return random_feed(specs, {spec.name: spec.fed(target.batch, sizes[spec.name]) for spec in specs}, 0)
