"""The plain way to compute what the package computes fast."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndpass.conv import Conv

F = NDArray[Any]


def im2col(conv: Conv, x: F) -> F:
    """All patches (images, places, n_i·K) of x (images, n_i, *hw), a tap of the kernel at a time."""
    axes = len(conv.kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *((conv.pads[a], conv.pads[a + axes]) for a in range(axes))])
    out = conv.out_hw(tuple(x.shape[2:]))
    columns = np.zeros((len(x), np.prod(out, dtype=int), conv.n_i, *conv.kernel), x.dtype)
    for tap in np.ndindex(*conv.kernel):
        starts = [t * d for t, d in zip(tap, conv.dilations, strict=True)]
        reach = [slice(f, f + s * (n - 1) + 1, s) for f, s, n in zip(starts, conv.strides, out, strict=True)]
        seen = padded[(slice(None), slice(None), *reach)].reshape(len(x), conv.n_i, -1)
        columns[(slice(None), slice(None), slice(None), *tap)] = seen.transpose(0, 2, 1)
    return columns.reshape(len(x), columns.shape[1], -1)
