"""The sums that moments are made of, block by block.

Blocks are centred, on the mean of the first one, in float32 products that are summed in float64. So neither a large
offset nor many samples cost digits.
"""

from __future__ import annotations

import copy

import numpy as np
import scipy

from ndpass.calibration.moments import Array, Moments

SMALL = 10**6  # multiply-adds of a product that BLAS sums one after another, losing digits in float32 for no time


class Sums:
    """What moments are made of, block by block: n elements of a patch, n_o responses."""

    def __init__(self, n: int, n_o: int) -> None:
        self.count = 0
        self.x_shift, self.y_shift = np.zeros(n), np.zeros(n_o)  # near the mean, in the samples' own type
        self.x_sum, self.y_sum, self.g = np.zeros(n), np.zeros(n_o), np.zeros(n_o)
        self.upper, self.B = np.zeros((n, n), order="F"), np.zeros((n_o, n))

    def add(self, x: Array, y: Array) -> None:
        """A block of patches (S, n) and responses (S, n_o), S at least 1."""
        if not self.count:
            self.x_shift, self.y_shift = (a.mean(0, dtype=np.float64).astype(a.dtype) for a in (x, y))
        wide = (a if a.dtype != np.float16 else a.astype(np.float32) for a in (x, y))  # its differences may overflow
        shifts = (self.x_shift, self.y_shift)
        xc, yc = ((a - shift).astype(np.float32, copy=False) for a, shift in zip(wide, shifts, strict=True))
        self.count += len(x)
        self.x_sum += x.sum(0, dtype=np.float64)
        self.y_sum += y.sum(0, dtype=np.float64)
        self.g += np.einsum("so,so->o", yc, yc, dtype=np.float64)
        self.upper += scipy.linalg.blas.ssyrk(1.0, xc.T, lower=False)  # one triangle: half the work
        small = xc.size * len(self.B) <= SMALL
        self.B += np.matmul(yc.T, xc, dtype=np.float64 if small else np.float32)

    def merge(self, other: Sums) -> Sums:
        """Of the blocks of both, which stay as they are.

        About the shift of this one: with t = Σ(x − s') of the other one, d = s' − s its shift less this one's, N' its
        count,  Σ(x − s)(x − s)ᵀ = Σ(x − s')(x − s')ᵀ + dvᵀ + vdᵀ  for  v = t + N'd/2.
        """
        merged = copy.copy(self)
        merged.count = self.count + other.count
        merged.x_sum, merged.y_sum = self.x_sum + other.x_sum, self.y_sum + other.y_sum
        x_shift, y_shift = (np.asarray(shift, np.float64) for shift in (other.x_shift, other.y_shift))
        dx, dy = x_shift - self.x_shift, y_shift - self.y_shift
        tx, ty = other.x_sum - other.count * x_shift, other.y_sum - other.count * y_shift
        merged.g = self.g + other.g + dy * (2 * ty + other.count * dy)
        merged.upper = self.upper + other.upper
        v = tx + other.count / 2 * dx
        merged.upper = scipy.linalg.blas.dsyr2(1.0, dx, v, lower=False, a=merged.upper, overwrite_a=True)
        merged.B = self.B + other.B
        merged.B += np.outer(dy, tx + other.count * dx)
        merged.B += np.outer(ty, dx)
        return merged

    def owned(self) -> Sums:
        """The same in arrays that may be written to: what comes from another process may not."""
        own = copy.copy(self)
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        vars(own).update({name: np.require(value, requirements="W") for name, value in arrays.items()})
        return own

    @property
    def nbytes(self) -> int:
        """Of its largest arrays."""
        return self.upper.nbytes + self.B.nbytes

    def moments(self) -> Moments:
        """The moments of all blocks so far."""
        x_mean, y_mean = self.x_sum / self.count, self.y_sum / self.count
        dx, dy = x_mean - self.x_shift, y_mean - self.y_shift
        C = self.upper / self.count
        C = scipy.linalg.blas.dsyr(-1.0, dx, lower=False, a=C, overwrite_a=True)
        mirror(C)
        B, g = self.B / self.count - np.outer(dy, dx), self.g / self.count - dy * dy
        return Moments(self.count, x_mean, y_mean, C, B, g)


def mirror(upper: Array, tile: int = 512) -> None:
    """Fill the lower triangle of a square from the upper one, in place."""
    for start in range(0, len(upper), tile):
        rows = slice(start, start + tile)
        corner = np.triu(upper[rows, rows])
        upper[rows, rows] = corner + np.triu(corner, 1).T
        upper[start + tile :, rows] = upper[rows, start + tile :].T
