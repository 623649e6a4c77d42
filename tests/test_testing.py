# ruff: noqa: ARG002 - the signatures are those that are overridden
"""`ndpass.testing.check_pass`: a pass that keeps its promises passes, each broken one is named in a line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ndpass
from ndpass.calibration.moments import Moments
from ndpass.conv import Block, Conv
from ndpass.errors import UsageError
from ndpass.passes import ChannelDecomposition, ChannelPruning, Decomposition, Setting
from ndpass.testing import check_pass

TEMPLATE = Path(__file__).parents[1] / "examples" / "my_pass"


@pytest.fixture(scope="module")
def template() -> Iterator[type[Decomposition]]:
    """The pass of the template package, imported from where it lies."""
    sys.path.insert(0, str(TEMPLATE))
    try:
        from ndpass_input_decomposition import InputDecomposition  # type: ignore[import-not-found]

        yield InputDecomposition
    finally:
        sys.path.remove(str(TEMPLATE))


def test_the_template_keeps_its_promises(template: type[Decomposition]) -> None:
    check_pass(template)


def test_it_is_a_public_word() -> None:
    assert "testing" in dir(ndpass)
    assert ndpass.testing.check_pass is check_pass


class Good(ChannelDecomposition):
    """What the broken ones below break one thing of: cd by every rank up to full rank, and 1×1 layers only."""

    name = "good"

    def refuse(self, conv: Conv) -> str | None:
        return "not 1×1" if conv.kernel_size > 1 or not conv.kernel else super().refuse(conv)

    def settings(self, conv: Conv) -> list[Setting]:
        return [{"rank": d} for d in self.ranks(min(conv.matrix.shape))]


class NoReason(Good):
    def refuse(self, conv: Conv) -> str | None:
        return "" if super().refuse(conv) else None


class LooksAtWeights(Good):
    def refuse(self, conv: Conv) -> str | None:
        return super().refuse(conv) or ("all zeros" if not conv.weight.any() else None)


class RefusesAll(Good):
    def refuse(self, conv: Conv) -> str | None:
        return f"not a layer of 100 inputs but of {conv.n_i}"


class NoSettings(Good):
    def settings(self, conv: Conv) -> list[Setting]:
        return []


class DearestFirst(Good):
    def settings(self, conv: Conv) -> list[Setting]:
        return super().settings(conv)[::-1]


class Twice(Good):
    def settings(self, conv: Conv) -> list[Setting]:
        return [s for s in super().settings(conv) for _ in range(2)]


class UnknownOption(Good):
    def settings(self, conv: Conv) -> list[Setting]:
        return [{**s, "width": 3} for s in super().settings(conv)]


class NumPyValue(Good):
    def settings(self, conv: Conv) -> list[Setting]:
        return [{"rank": np.int64(s["rank"])} for s in super().settings(conv)]  # type: ignore[dict-item]


class IgnoresPinned(Good):
    def settings(self, conv: Conv) -> list[Setting]:
        return [{"rank": d} for d in range(1 + ("rank" in self.pinned), min(conv.matrix.shape) + 1)]


class NeverExact(Good):
    def settings(self, conv: Conv) -> list[Setting]:
        return super().settings(conv)[:1]


class WrongShape(Good):
    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        return replace(conv, weight=conv.weight[:1], bias=None)


class BiasTwice(Good):
    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        block = super().rewrite(conv, setting, moments)
        return block if conv.bias is None else block.with_bias(2 * conv.bias)


class WrongOutline(Good):
    def outline(self, conv: Conv, setting: Setting) -> Block:
        return super().outline(conv, {"rank": min(int(setting["rank"]) + 1, min(conv.matrix.shape))})


class WritesToWeights(Good):
    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        block = super().rewrite(conv, setting, moments)
        if conv.weight.flags.writeable:
            conv.weight[:] = 0
        return block


class Optimist(Good):
    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments | None = None) -> list[float]:
        return [0.5 * (e or 0.0) for e in super().errors(conv, settings, moments)]


class OptimistOnData(Good):
    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments | None = None) -> list[float]:
        scale = 1.0 if moments is None else 0.5
        return [scale * (e or 0.0) for e in super().errors(conv, settings, moments)]


class Infinite(Good):
    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments | None = None) -> list[float]:
        return [float("inf")] * len(settings)


class TooFewErrors(Good):
    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments | None = None) -> list[float | None]:
        return list(super().errors(conv, settings, moments))[1:]


class NothingTried(Good):
    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments | None = None) -> list[None]:
        return [None] * len(settings)


class BadFit(Good):
    """On data it takes the wrong directions, and says so in its errors."""

    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        if moments is None or setting["rank"] == min(conv.matrix.shape):
            return super().rewrite(conv, setting, moments)
        block = super().rewrite(replace(conv, weight=conv.weight[::-1].copy()), setting)
        return block.with_bias(moments.bias(block.dense().matrix))

    def errors(self, conv: Conv, settings: Sequence[Setting], moments: Moments | None = None) -> Any:
        return Decomposition.errors(self, conv, settings, moments)


class BiasNotRefitted(Good):
    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        return super().rewrite(conv, setting, moments).with_bias(conv.bias)


class Random(Good):
    draws = iter(range(10**6))

    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        block = super().rewrite(conv, setting, moments)
        return block.map_leaves(lambda leaf: replace(leaf, weight=leaf.weight * (1 + 1e-13 * next(self.draws))))


class Raises(Good):
    def rewrite(self, conv: Conv, setting: Setting, moments: Moments | None = None) -> Block:
        raise ZeroDivisionError("division\nby zero")


class TwoLines(Good):
    summary = "one\ntwo"


class BadName(Good):
    name = "go,od"


class Abstract(Decomposition):
    name = "abstract"


class TakesAnything(Good):
    def __init__(self, **pinned: Any) -> None:
        super().__init__(**{k: v for k, v in pinned.items() if k in self.options})


BROKEN: dict[type, str] = {
    NoReason: "good: refuse(conv3x3) gives '': None, or the reason in one line",
    LooksAtWeights: "good: refuse(conv1x1) depends on the weights",
    RefusesAll: "good: refuses every layer that it is tried on: conv3x3, ",
    NoSettings: "good: settings(conv1x1) are none, though the layer is not refused",
    DearestFirst: "good: settings(conv1x1) are not cheapest first: rank=6 takes 84 MACs at a position, rank=5 behind",
    Twice: "good: settings(conv1x1) have rank=1 twice",
    UnknownOption: "good: settings(conv1x1) have width=3, which is none of the options rank, solver",
    NumPyValue: "a value is an int or a str, not int64",
    IgnoresPinned: "good: settings(conv1x1) have rank=1, but not where these options are pinned",
    NeverExact: "good: no setting of conv1x1 is exact: the least error is 0.",
    WrongShape: "good: rewrite(conv1x1, rank=1) gives a kernel of (1, 6, 1, 1), the layer has (8, 6, 1, 1)",
    BiasTwice: "good: rewrite(conv1x1, rank=1) changes the bias, or adds it more than once",
    WrongOutline: "good: rewrite(conv1x1, rank=1) has other shapes than outline(conv1x1, rank=1)",
    WritesToWeights: "good: rewrite(conv1x1) writes to the weights",
    Optimist: "good: errors(conv1x1) predict 0.",
    OptimistOnData: "good: rewrite(conv1x1, rank=1) on data errs by 0.",
    Infinite: "good: errors(conv1x1) give inf for rank=1: a number from 0 on, or None",
    TooFewErrors: "good: errors(conv1x1) are 5 for 6 settings",
    NothingTried: "good: errors(conv1x1) are all None: no setting is tried",
    BadFit: "without data by 0.",
    BiasNotRefitted: "good: rewrite(conv1x1, rank=1) on data does not refit the bias: give block.with_bias(",
    Random: "good: rewrite(conv1x1) gives other bytes the second time",
    Raises: "good: arrays of conv1x1 cannot be checked, the pass raises ZeroDivisionError: by zero",
    TwoLines: "TwoLines: its summary has more than one line",
    BadName: "go,od: a name has letters, digits and _ only",
    Abstract: "Abstract lacks refuse, rewrite, settings",
    TakesAnything: "good: an unknown option is accepted",
    ChannelPruning: "ChannelPruning is no ndpass.passes.Decomposition",
}


def test_the_one_that_is_not_broken_passes() -> None:
    check_pass(Good)


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_promise_is_said_in_a_line(kind: type[Decomposition]) -> None:
    with pytest.raises(AssertionError) as broken:
        check_pass(kind)
    text = str(broken.value)
    assert BROKEN[kind] in text
    assert "\n" not in text


def test_an_option_that_is_refused_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="it has rank, solver"):
        Good(width=3)
