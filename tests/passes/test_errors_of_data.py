"""The errors of every pass are those on the data that it is fitted to, whatever the scales of channels and the prior.

Naive: the squared differences of the responses of one sample after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ndpass.calibration.moments import Moments
from ndpass.calibration.priors import regularised
from ndpass.conv import Conv
from ndpass.passes import parse
from ndpass.passes.base import Decomposition, block_error
from ndpass.passes.block_merging import BlockMerging, columns
from ndpass.passes.channel_pruning import ChannelPruning, errors_by_size
from ndpass.passes.compose import compose
from ndpass.passes.groups import kernel_of
from ndpass.passes.pruning import Reader

F = NDArray[Any]
N_O, N_I, ROWS = 6, 8, 1_500
TIGHT = 1e-4  # relative, of sums of products in float32
DECADES = (0.0, 1.0, 4.0)
AIMED = math.inf  # a strong prior, which only finds what is aimed at
PRIORS = (1e-3, 1.0, AIMED)
Sampled = tuple[Conv, F, F, Moments]  # the layer, patches (S, n), responses (S, n_o)

every_scale = pytest.mark.parametrize("decades", DECADES)
every_prior = pytest.mark.parametrize("strength", PRIORS)


def sampled(decades: float, strength: float, groups: int = 1, n_i: int = N_I, rows: int = ROWS) -> Sampled:
    """Channels whose scales differ by so many decades and count alike, as normalised weights have them; and a drift."""
    rng = np.random.default_rng(3)
    scales = 10.0 ** rng.permutation(np.linspace(-decades, 0, n_i))
    weight = rng.standard_normal((groups * N_O, n_i, 3, 3)) * (0.3 ** np.arange(9)).reshape(3, 3)
    weight /= scales[:, None, None]
    parts, xs, ys = [], [], []
    for own in np.split(weight, groups):
        mixed = np.eye(n_i * 9) + 0.2 * rng.standard_normal((n_i * 9, n_i * 9)) / np.sqrt(n_i)
        wanted = rng.standard_normal((rows, n_i * 9)) @ mixed + 0.5
        seen = (wanted + 0.1 * rng.standard_normal(wanted.shape)) * np.repeat(scales, 9)
        y = (wanted * np.repeat(scales, 9)) @ own.reshape(N_O, -1).T
        given, prior = Moments.of(seen, y), own.reshape(N_O, -1)
        parts.append(regularised(given, prior, 1.0) if strength == AIMED else given.shrunk(prior, strength))
        xs.append(seen)
        ys.append(y)
    return Conv(weight, group=groups), np.hstack(xs), np.hstack(ys), Moments.beside(parts)


def naive(x: F, y: F, kernel: F, groups: int = 1) -> float:
    """The relative error of a kernel (n_o, n / groups) with the bias that fits best."""
    lost, parts = 0.0, zip(np.split(x, groups, 1), np.split(y, groups, 1), np.split(kernel, groups), strict=True)
    for own, wanted, M in parts:
        off = wanted - own @ M.T
        lost += sum(float(np.sum((row - off.mean(0)) ** 2)) for row in off)
    return lost / float(np.sum((y - y.mean(0)) ** 2))


@every_scale
@every_prior
@pytest.mark.parametrize("spec", ["cd", "nd", "sd", "cd:groups", "sd:groups"])
def test_of_decompositions(spec: str, decades: float, strength: float) -> None:
    groups = 2 if ":" in spec else 1
    (rule,) = parse(spec.split(":")[0])
    assert isinstance(rule, Decomposition)
    conv, x, y, moments = sampled(decades, strength, groups)
    settings = rule.settings(conv)
    for setting, predicted in zip(settings, rule.errors(conv, settings, moments), strict=True):
        block = rule.rewrite(conv, setting, moments)
        measured = naive(x, y, kernel_of(block, groups).reshape(len(y[0]), -1), groups)
        assert block_error(conv, block, moments) == pytest.approx(measured, rel=TIGHT, abs=1e-7)
        assert predicted is not None
        if rule.name == "cd":
            assert predicted == pytest.approx(measured, rel=TIGHT, abs=1e-7)
        else:  # a fit takes further steps, each of which lowers its loss
            assert measured <= 1.01 * predicted + 1e-7


@every_scale
@every_prior
def test_of_pruning(decades: float, strength: float) -> None:
    conv, x, y, moments = sampled(decades, strength)
    rule = ChannelPruning()
    (predicted,) = rule.errors([Reader(conv.weight, moments)], settings := rule.settings(conv))
    for setting, error in zip(settings, predicted, strict=True):
        stay = rule.select([Reader(conv.weight, moments)], setting)
        smaller = rule.refit(conv, stay, moments)
        kernel = np.zeros((N_O, N_I, 9))
        kernel[:, stay] = smaller.weight.reshape(N_O, -1, 9)
        measured = naive(x, y, kernel.reshape(N_O, -1))
        assert error == pytest.approx(measured, rel=TIGHT, abs=1e-7)
        at = (9 * stay[:, None] + np.arange(9)).reshape(-1)
        left = moments.keep(at, replace(conv, weight=conv.weight[:, stay]).matrix.astype(np.float64))
        assert block_error(smaller, smaller, left) == pytest.approx(measured, rel=TIGHT, abs=1e-7)


def test_of_channels_that_stay_besides_those_that_were_chosen() -> None:
    """The path knows the errors of what it chose alone."""
    conv, x, y, moments = sampled(1.0, 1.0)
    ((stay,), ((error,),)) = errors_by_size([Reader(conv.weight, moments)], [2], lambda few: np.union1d(few, [0, 1, 2]))
    assert len(stay) > 2
    kernel = np.zeros((N_O, N_I, 9))
    kernel[:, stay] = ChannelPruning().refit(conv, stay, moments).weight.reshape(N_O, -1, 9)
    assert error == pytest.approx(naive(x, y, kernel.reshape(N_O, -1)), rel=TIGHT)


@every_scale
@every_prior
def test_of_merging(decades: float, strength: float) -> None:
    conv, x, y, moments = sampled(decades, strength)
    rule = BlockMerging()
    settings = rule.settings(conv)
    for setting, predicted in zip(settings, rule.errors(conv, settings, moments), strict=True):
        merged = rule.rewrite(conv, setting, moments)
        kernel = np.zeros((N_O, N_I * 9))
        if setting["kernel"] != "none":
            kernel[:, columns(conv, merged.kernel)] = merged.matrix
        assert predicted == pytest.approx(naive(x, y, kernel), rel=TIGHT)


@every_scale
@every_prior
def test_of_compositions(decades: float, strength: float) -> None:
    conv, x, y, moments = sampled(decades, strength)
    for spec in ("cd:rank=4,nd:rank=1", "cd:rank=4,sd:rank=6:order=vh"):
        rules = [rule for rule in parse(spec) if isinstance(rule, Decomposition)]
        block = compose(rules, conv, {rule.name: rule.settings(conv)[0] for rule in rules}, moments)
        measured = naive(x, y, block.dense().matrix)
        assert block_error(conv, block, moments) == pytest.approx(measured, rel=TIGHT, abs=1e-7)


@pytest.mark.parametrize("make", [None, lambda m: m.keep(np.arange(9, 45), m.anchor[:, 9:45])])
@every_prior
def test_the_error_and_the_loss_tell_of_each_other(strength: float, make: Callable[[Moments], Moments] | None) -> None:
    whole = sampled(1.0, strength)[3]
    moments = whole if make is None else make(whole)
    for kernel in (moments.best, 0.9 * moments.best, 0 * moments.B):
        assert moments.error_from(moments.loss(kernel), kernel) == pytest.approx(moments.error(kernel), abs=1e-9)
        lost = moments.energy - 2 * np.vdot(kernel, moments.B) + np.vdot(kernel @ moments.C, kernel)
        assert moments.loss(kernel) == pytest.approx(lost / moments.energy, abs=1e-6)
    assert not moments.is_inflated
    assert sampled(4.0, 1.0)[3].is_inflated


def test_moments_of_the_data_alone_outlast_what_is_done_to_moments() -> None:
    """Groups side by side and apart again, two sets of samples together, a part of the patch."""
    *_, moments = sampled(4.0, 1.0, groups=2)
    parts = [sampled(4.0, 1.0)[3], sampled(1.0, 1e-3)[3]]
    assert Moments.beside(parts).variance == pytest.approx(sum(part.variance for part in parts))
    for part, again in zip(parts, Moments.beside(parts).parts, strict=True):
        assert again.error(0.5 * part.B) == part.error(0.5 * part.B)
    assert moments.variance < 1e-3 * moments.energy
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((200, 5)) * 10.0 ** np.arange(-4, 1), rng.standard_normal((3, 5))
    x[100:] += 1
    y = x @ weight.T
    both = Moments.of(x[:100], y[:100]).shrunk(weight, 1.0).merge(Moments.of(x[100:], y[100:]).shrunk(weight, 1.0))
    kernel = 0.7 * weight
    assert both.error(kernel) == pytest.approx(naive(x, y, kernel), rel=TIGHT)
    some, at = np.array([1, 3, 4]), np.zeros_like(weight)
    at[:, some] = 0.5 * weight[:, some]
    assert both.keep(some).error(0.5 * weight[:, some]) == pytest.approx(naive(x, y, at), rel=TIGHT)


def test_wide_layers_are_handled_in_float32() -> None:
    conv, x, y, moments = sampled(4.0, 1e-2, n_i=120, rows=1_200)
    assert moments.kind is np.float32
    for kernel in (moments.best, conv.matrix + 0.1 / np.abs(conv.matrix).max()):
        assert moments.error(kernel) == pytest.approx(naive(x, y, kernel), rel=1e-3)
