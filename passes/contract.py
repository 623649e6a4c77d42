"""What a pass promises, checked on arrays; `ndpass.testing` checks the rest, on written models.

Every check takes the class of a pass and a named convolution. It raises BrokenPromiseError where a promise is not kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.conv import Block, Conv
from ndpass.errors import UsageError
from ndpass.passes.base import Decomposition, Setting, block_error, setting_text
from ndpass.passes.cost import macs_per_position
from ndpass.passes.groups import apart, kernel_of

EXACT = 1e-12  # squared relative error of the kernel where a setting is exact
AGREEMENT = 1e-9  # how far a predicted squared error may be from the measured one
BOUND = 1e-6  # how far a fit to data may end above what was predicted, or above the fit to the weights alone
CHEAPER = 1e-9  # relative, of costs that count as equal
BEYOND = 1_000_000  # a rank beyond every full rank
PRIOR = 1e-7  # strength of the prior: so weak that what a fit loses, which no step raises, is its error but for BOUND
MOST_ON_DATA = 5  # settings that are fitted to data, evenly spread

Kind = type[Decomposition]
ArrayCheck = Callable[[Kind, str, Conv], None]


class BrokenPromiseError(AssertionError):
    """What a pass does not keep, in one line."""


def promise(kept: bool, text: str) -> None:
    """Raise BrokenPromiseError with this text unless the promise is kept."""
    if not kept:
        raise BrokenPromiseError(" ".join(text.split()))


def check_class(kind: Any) -> None:
    """The class itself: what it subclasses, its name, summary and options, and what its constructor takes."""
    name = getattr(kind, "__name__", repr(kind))
    promise(isinstance(kind, type) and issubclass(kind, Decomposition), f"{name} is no ndpass.passes.Decomposition")
    promise(not inspect.isabstract(kind), f"{name} lacks {', '.join(sorted(kind.__abstractmethods__))}")
    for key in ("name", "summary"):
        text = str(getattr(kind, key, "")).strip()
        promise(text != "", f"{name} lacks a {key}: a text of one line")
        promise("\n" not in text, f"{name}: its {key} has more than one line")
    promise(kind.name.isidentifier(), f"{kind.name}: a name has letters, digits and _ only, as --passes has to read it")
    options = getattr(kind, "options", None)
    promise(isinstance(options, Mapping), f"{kind.name} lacks options: a mapping from each option to its words")
    try:
        kind(**{"no such option": 1})
    except UsageError:
        return
    except Exception as e:
        raise BrokenPromiseError(f"{kind.name}: an unknown option raises {type(e).__name__} and no UsageError") from e
    raise BrokenPromiseError(f"{kind.name}: an unknown option is accepted; Decomposition.__init__ refuses it")


def check_refusal(kind: Kind, where: str, conv: Conv) -> None:
    """A refusal has a reason, and neither it nor the settings depend on the weights."""
    rule, reason = kind(), kind().refuse(conv)
    bare = without_weights(conv)
    promise(
        reason is None or (isinstance(reason, str) and reason.strip() != "" and "\n" not in reason),
        f"{kind.name}: refuse({where}) gives {reason!r}: None, or the reason in one line",
    )
    promise(rule.refuse(bare) == reason, f"{kind.name}: refuse({where}) depends on the weights")
    if reason is None:
        same = rule.settings(bare) == rule.settings(conv)
        promise(same, f"{kind.name}: settings({where}) depend on the weights")


def check_settings(kind: Kind, where: str, conv: Conv) -> None:
    """Settings: some, each once, of the options that there are, cheapest first; pinned ones are among them."""
    rule = kind()
    settings = rule.settings(conv)
    promise(len(settings) > 0, f"{kind.name}: settings({where}) are none, though the layer is not refused")
    costs = [macs_per_position(rule.outline(conv, s), conv) for s in settings]
    for i, setting in enumerate(settings):
        text = setting_text(setting)
        promise(setting not in settings[:i], f"{kind.name}: settings({where}) have {text} twice")
        _check_values(kind, where, setting)
        promise(
            setting in kind(**setting).settings(conv),
            f"{kind.name}: settings({where}) have {text}, but not where these options are pinned",
        )
        promise(
            i == 0 or costs[i] >= costs[i - 1] * (1 - CHEAPER),
            f"{kind.name}: settings({where}) are not cheapest first: {setting_text(settings[max(i - 1, 0)])} takes "
            f"{costs[i - 1]:g} MACs at a position, {text} behind it {costs[i]:g}",
        )
    inner = rule.inner(conv)
    promise(len(inner) > 0, f"{kind.name}: inner({where}) is empty")
    promise(all(s in settings for s in inner), f"{kind.name}: inner({where}) has what settings({where}) have not")


def _check_values(kind: Kind, where: str, setting: Setting) -> None:
    promise(isinstance(setting, Mapping), f"{kind.name}: settings({where}) have {setting!r}, which is no mapping")
    for key, value in setting.items():
        text = f"{kind.name}: settings({where}) have {key}={value!r}"
        promise(key in kind.options, f"{text}, which is none of the options {', '.join(kind.options)}")
        promise(type(value) in (int, str), f"{text}: a value is an int or a str, not {type(value).__name__}")
        try:
            kind(**{key: value})
        except UsageError as e:
            raise BrokenPromiseError(f"{text}, which the option does not take: {e}") from e


def check_block(kind: Kind, where: str, conv: Conv) -> None:
    """Each setting gives a block that can stand for the convolution, of the shapes of its outline, and full rank."""
    rule, least = kind(), np.inf
    before = conv.weight.copy()
    for setting in rule.settings(conv):
        text = f"{kind.name}: rewrite({where}, {setting_text(setting)})"
        block = rule.rewrite(conv, setting)
        made = block.dense()
        promise(
            made.weight.shape == conv.dense().weight.shape,
            f"{text} gives a kernel of {made.weight.shape}, the layer has {conv.dense().weight.shape}",
        )
        size = tuple(7 + d * (k - 1) for k, d in zip(conv.kernel, conv.dilations, strict=True))
        out = block.out_hw(size), conv.out_hw(size)
        promise(out[0] == out[1], f"{text} makes {out[0]} of an input of {size}, the layer {out[1]}")
        promise(_same_bias(block, conv), f"{text} changes the bias, or adds it more than once")
        promise(
            _shapes(rule.outline(without_weights(conv), setting)) == _shapes(block),
            f"{text} has other shapes than outline({where}, {setting_text(setting)})",
        )
        least = min(least, block_error(conv, block))
    promise(
        np.array_equal(conv.weight, before), f"{kind.name}: rewrite({where}) writes to the weights that it is given"
    )
    promise(least < EXACT, f"{kind.name}: no setting of {where} is exact: the least error is {least:.2g}")
    for key in (k for k, words in kind.options.items() if "full" in words):
        for setting in (full := kind(**{key: "full"})).settings(conv):
            error = block_error(conv, full.rewrite(conv, setting))
            promise(error < EXACT, f"{kind.name}: {key}=full is not exact for {where}: the error is {error:.2g}")
            error = block_error(conv, rule.rewrite(conv, {**setting, key: BEYOND}))
            promise(error < EXACT, f"{kind.name}: {key}={BEYOND} of {where} is not taken for full rank")


def _same_bias(block: Block, conv: Conv) -> bool:
    bias = block.dense().bias
    if bias is None or conv.bias is None:
        return bias is conv.bias
    return np.allclose(bias, conv.bias, rtol=1e-9, atol=0)


def check_errors(kind: Kind, where: str, conv: Conv) -> None:
    """Without data the predicted error of a setting is the measured one."""
    rule = kind()
    settings = rule.settings(conv)
    for setting, error in _predicted(kind, where, rule.errors(conv, settings), settings):
        measured = block_error(conv, rule.rewrite(conv, setting))
        promise(
            abs(error - measured) <= AGREEMENT,
            f"{kind.name}: errors({where}) predict {error:.6g} for {setting_text(setting)}, measured is {measured:.6g}",
        )


def check_errors_on_data(kind: Kind, where: str, conv: Conv) -> None:
    """With data no fit ends above its predicted error, nor above that of the fit to the weights alone."""
    if conv.group > 1 and not kind.by_group:
        return  # nothing but what goes by group is fitted to data of a grouped layer
    rule, moments = kind(), moments_for(conv)
    settings = rule.settings(conv)
    settings = (
        settings if len(settings) <= 6 else [settings[i] for i in np.linspace(0, len(settings) - 1, 6).astype(int)]
    )
    for setting, error in _predicted(kind, where, rule.errors(conv, settings, moments), settings):
        text = f"{kind.name}: rewrite({where}, {setting_text(setting)}) on data"
        block = rule.rewrite(conv, setting, moments)
        measured, plain = (block_error(conv, b, moments) for b in (block, rule.rewrite(conv, setting)))
        promise(measured <= error + BOUND, f"{text} errs by {measured:.6g}, predicted were {error:.6g}")
        promise(measured <= plain + BOUND, f"{text} errs by {measured:.6g}, without data by {plain:.6g}")
        bias = block.dense().bias
        wanted = moments.bias(kernel_of(block, conv.group))
        promise(
            bias is not None and np.allclose(bias, wanted, atol=1e-6 * max(1.0, float(np.abs(wanted).max()))),
            f"{text} does not refit the bias: give block.with_bias(moments.bias(block.dense().matrix))",
        )


def _predicted(
    kind: Kind, where: str, errors: Sequence[float | None], settings: Sequence[Setting]
) -> list[tuple[Setting, float]]:
    """The settings with an error, at least one; None says that a setting is not tried."""
    promise(
        len(errors) == len(settings), f"{kind.name}: errors({where}) are {len(errors)} for {len(settings)} settings"
    )
    found = [(s, float(e)) for s, e in zip(settings, errors, strict=True) if e is not None]
    promise(len(found) > 0, f"{kind.name}: errors({where}) are all None: no setting is tried")
    for setting, error in found:
        promise(
            bool(np.isfinite(error)) and error >= 0,
            f"{kind.name}: errors({where}) give {error} for {setting_text(setting)}: a number from 0 on, or None",
        )
    return found


def check_repeatable(kind: Kind, where: str, conv: Conv) -> None:
    """The same input gives the same bytes, with data and without."""
    moments = None if conv.group > 1 and not kind.by_group else moments_for(conv)
    for given in (None, moments):
        first, second = ([*_bytes(kind(), conv, given)] for _ in range(2))
        promise(first == second, f"{kind.name}: rewrite({where}) gives other bytes the second time")


def _bytes(rule: Decomposition, conv: Conv, moments: Moments | None) -> list[bytes]:
    """The weights of the cheapest setting and of one in the middle."""
    settings = rule.settings(conv)
    blocks = [rule.rewrite(conv, s, moments) for s in (settings[0], settings[len(settings) // 2])]
    return [leaf.weight.tobytes() for block in blocks for leaf in block.leaves()]


def without_weights(conv: Conv) -> Conv:
    """The convolution with weights of zeros that take no memory."""
    bias = None if conv.bias is None else np.zeros_like(conv.bias)
    return replace(conv, weight=np.broadcast_to(np.float32(0), conv.weight.shape), bias=bias)


def moments_for(conv: Conv) -> Moments:
    """Moments of seeded patches whose elements depend on each other, the responses those of a slightly other input."""
    if conv.group > 1:
        return Moments.beside([moments_for(one) for one, _ in apart(conv)])
    rng, n = np.random.default_rng(0), conv.matrix.shape[1]
    mix = np.eye(n) + 0.5 * rng.standard_normal((n, n)) / np.sqrt(n)
    x = rng.standard_normal((6 * n + 60, n)) @ mix + 0.3
    seen = x + 0.2 * rng.standard_normal(x.shape)
    y = x @ conv.matrix.T.astype(np.float64) + (0 if conv.bias is None else conv.bias)
    return Moments.of(seen, y).shrunk(conv.matrix, PRIOR)


def _shapes(block: Block) -> list[tuple[object, ...]]:
    return [(leaf.weight.shape, leaf.strides, leaf.pads, leaf.dilations, leaf.group) for leaf in block.leaves()]


ARRAY_CHECKS: tuple[ArrayCheck, ...] = (
    check_settings,
    check_block,
    check_errors,
    check_errors_on_data,
    check_repeatable,
)
