"""The prior that fits need: how strong it is, and what fits are made on with it.

What the data may change of the original weight, and in which directions a cheaper kernel may err, are two questions. A
prior that is strong enough to answer the first one well lets a fit of low rank spend itself on directions in which the
input hardly varies. So a strong one only finds W*, and fits are then to the answers of W* with a weak prior
(`regularised`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ndpass.calibration.moments import WIDE, Array, Moments, solved

SHRINKAGES = (1e-3, 1e-2, 1e-1, 1.0)  # strengths among which held-out samples choose
METRIC = 0.03  # strength of the prior of fits to W*, where that was found with a stronger one
ROUNDING = 1e-10  # share of the responses' square that is lost in float32
JUDGES = 128  # outputs that the strength is chosen by, evenly spread over those of a wider layer


def regularised(moments: Moments, weight: Array, strength: float) -> Moments:
    """What fits are made on: with the prior; where that is strong, the answers of the W* (n_o, n) that it finds, with a
    weak prior, white noise that W* answers.

    weight (n_o, n): that the prior is towards. What W* leaves of the responses counts in the loss as what no fit can
    answer. Where the data ask for no other kernel than the weight, as when layers are planned on the network that is as
    it was, the strong prior stays: it stands for the drift that is to come.
    """
    strong = moments.shrunk(weight, strength)
    if strength <= METRIC or strong.is_undrifted:
        return strong
    kernel, alone, n = strong.best, moments.alone, len(moments.C)
    B = strong.on_data(kernel, strong.kind).astype(np.float64, copy=False)
    left = np.maximum(alone.g - np.einsum("on,on->o", kernel, 2 * alone.B - B), 0)
    noise = moments.noise_of(METRIC)
    C = strong.C  # which nobody else has
    C.flat[:: n + 1] = np.diagonal(moments.C) + noise
    B += noise * kernel
    g = np.einsum("on,on->o", B, kernel) + left
    data = replace(strong.alone, noise=alone.noise + noise)
    means = moments.x_mean, moments.y_mean
    return Moments(moments.count, *means, C, B, g, kernel, exact=True, data=data, aimed=True)


def choose_strength(fit: Moments, weight: Array, x: Array, y: Array) -> float:
    """The strength of the prior whose best kernel errs least on held-out patches x (S, n) and responses y (S, n_o).

    Raises nothing: without held-out samples the middle strength is taken, and where all answer right, as in a network
    that is as it was, the strongest. As the prior grows the error falls and then rises, so of the four strengths one at
    an end need not be tried.
    """
    if len(x) < 2:
        return 1e-2
    judges = slice(None, None, -(-len(fit.B) // JUDGES))
    fit = replace(fit, y_mean=fit.y_mean[judges], B=fit.B[judges], g=fit.g[judges])
    weight, y = weight[judges], y[:, judges]

    n = len(fit.C)
    weight = weight.reshape(fit.B.shape).astype(np.float64)
    left = fit.B - weight @ fit.C  # (B + λW) − W(C + λI), whatever λ
    rounding = ROUNDING * float(np.square(y, dtype=np.float64).sum())  # in which all strengths are alike

    def damage(strength: float) -> float:
        C = fit.C.astype(np.float32 if n >= WIDE else np.float64)
        C.flat[:: n + 1] += strength * (float(np.trace(fit.C)) / n or 1.0)
        kernel = weight + solved(C, left)
        residual = y - (x @ kernel.T.astype(x.dtype) + fit.bias(kernel))
        return max(float(np.einsum("so,so->", residual, residual)), rounding)

    weakest, weak, strong, strongest = SHRINKAGES
    damages = {strength: damage(strength) for strength in (weak, strong)}
    further = weakest if damages[weak] < damages[strong] else strongest
    damages[further] = damage(further)
    return min(sorted(damages, reverse=True), key=damages.__getitem__)
