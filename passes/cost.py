"""What settings cost before the size of the input is known, and which numbers of channels are worth a try."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ndpass.conv import Block, Conv, Sum
from ndpass.passes.base import Decomposition, Setting


def macs_per_position(block: Block, conv: Conv) -> float:
    """MACs of `block` at each output position of `conv`, on an input that is large beside the kernel.

    Padding and the input's size do not count, so that settings can be compared without knowing them. What lies before a
    stride acts at every position before it: at s² positions in an image for one behind a stride of s.
    """
    return _macs(block, float(math.prod(conv.strides)))[0]


def _macs(block: Block, positions: float) -> tuple[float, float]:
    """MACs on so many input positions, and the positions of the output."""
    if isinstance(block, Conv):
        behind = positions / math.prod(block.strides)
        return behind * block.weight.size, behind
    if isinstance(block, Sum):
        every = [_macs(b, positions) for b in block.blocks]
        return sum(macs for macs, _ in every), every[0][1]
    total = 0.0
    for b in block.blocks:
        macs, positions = _macs(b, positions)
        total += macs
    return total, positions


def cheapest_first(rule: Decomposition, conv: Conv, settings: Sequence[Setting], word: str) -> list[Setting]:
    """The settings ordered by what they cost; of equal ones the first stays first.

    The cost of a setting is proportional to its rank; word: the option whose words differ in what one rank costs.
    """
    each = {w: rule.outline(conv, {"rank": 1, word: w}) for w in dict.fromkeys(s[word] for s in settings)}
    macs = {w: macs_per_position(block, conv) for w, block in each.items()}
    return sorted(settings, key=lambda s: int(s["rank"]) * macs[s[word]])


def channel_step(width: int) -> int:
    """The step between numbers of channels that are worth a try in a layer of this width: 16, 8 or 1.

    Runtimes store channels in blocks of 16 or 8. Measured in a layer of 64 channels and more: 48 is faster than 40 and
    64 than 56.
    """
    return 16 if width >= 64 else 8 if width >= 32 else 1
