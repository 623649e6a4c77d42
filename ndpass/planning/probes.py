"""What a switch behind a layer takes out of its response: two kinds of error that are tried on the network.

The weakest principal directions, as a decomposition of low rank loses them, or random directions of the whitened
response, as pruning does (`ndpass.planning.sensitivity` says why both).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ndpass.conv import Array

NOTHING = 1e-12  # variance, relative to the response's square, that is rounding in float32


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The principal directions of responses (rows, n_o).

    mean (n_o,); values (n_o,): variances, rising; vectors (n_o, n_o): the directions, by columns; power: E‖y‖².
    """

    mean: Array
    values: Array
    vectors: Array
    power: float

    @classmethod
    def of(cls, responses: Array) -> Spectrum:
        """responses: of any floating type."""
        y = responses.astype(np.float64)
        G = np.cov(y, rowvar=False, bias=True).reshape(y.shape[1], -1)
        return cls(y.mean(0), *np.linalg.eigh(G), float(np.square(y).mean(0).sum()))


@dataclass(frozen=True)
class Probe:
    """What a switch does at full strength: y − P(y − ȳ); P (n_o, n_o), mean (n_o,), its relative error."""

    projection: Array
    mean: Array
    error: float

    def dose(self, error: float) -> tuple[float, float]:
        """How far to turn the switch for this error, at most fully, and the error that it then is."""
        injected = min(error, self.error)
        return (math.sqrt(injected / self.error) if injected else 0.0), injected


def weakest_directions(of: Spectrum, error: float) -> Probe:
    """A probe of the weakest directions of the responses that hold at least `error` of their variance."""
    values = np.where(of.values < NOTHING * of.power, 0, of.values)  # rounding of what does not vary
    share = values.cumsum() / (values.sum() or 1.0)
    weakest = of.vectors[:, : int(np.searchsorted(share, error)) + 1]
    return Probe(weakest @ weakest.T, of.mean, float(share[weakest.shape[1] - 1]))


def random_directions(of: Spectrum, error: float) -> Probe:
    """A probe of seeded random directions of the whitened responses, a share `error` of all directions."""
    varying = of.values > NOTHING * max(of.power, of.values[-1])
    if not varying.any():
        return Probe(np.zeros_like(of.vectors), of.mean, 0.0)
    values, roots, vectors = of.values[varying], np.sqrt(of.values[varying]), of.vectors[:, varying]
    noise = np.random.default_rng(0).standard_normal((len(roots), max(1, math.ceil(error * len(roots)))))
    Q = np.linalg.qr(noise)[0]
    P = (vectors * roots) @ Q @ Q.T @ (vectors / roots).T
    lost = float(values @ np.square(Q).sum(axis=1))  # tr PGPᵀ
    return Probe(P, of.mean, lost / float(of.values.sum()))
