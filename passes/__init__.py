"""The passes: which convolutions each can rewrite, what a setting costs, and how it is done."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ndpass.errors import UsageError, did_you_mean
from ndpass.passes.base import Decomposition, Pass, Setting
from ndpass.passes.block_merging import BlockMerging
from ndpass.passes.channel_decomposition import ChannelDecomposition
from ndpass.passes.channel_pruning import ChannelPruning
from ndpass.passes.entry_points import load, offered
from ndpass.passes.merging import Merging
from ndpass.passes.network_decoupling import NetworkDecoupling
from ndpass.passes.pruning import Pruning
from ndpass.passes.spatial_decomposition import SpatialDecomposition

DECOMPOSITIONS: tuple[type[Decomposition], ...] = (NetworkDecoupling, ChannelDecomposition, SpatialDecomposition)
PASSES: tuple[type[Pass], ...] = (*DECOMPOSITIONS, ChannelPruning, BlockMerging)
# The order in which `auto` composes them inside a layer; those of other packages come behind.
IN_AUTO: tuple[type[Pass], ...] = (
    BlockMerging,
    ChannelPruning,
    ChannelDecomposition,
    SpatialDecomposition,
    NetworkDecoupling,
)
AUTO = "auto"  # what `--passes` says for all of them

__all__ = [
    "AUTO",
    "DECOMPOSITIONS",
    "PASSES",
    "BlockMerging",
    "ChannelDecomposition",
    "ChannelPruning",
    "Decomposition",
    "Merging",
    "NetworkDecoupling",
    "Pass",
    "Pruning",
    "Setting",
    "SpatialDecomposition",
    "auto",
    "check_order",
    "find",
    "names",
    "parse",
    "usable",
]

log = logging.getLogger(__name__)


def names() -> list[str]:
    """The names of ndpass's own passes and of those that installed packages offer; none of these is loaded.

    >>> names()[:4]
    ['nd', 'cd', 'sd', 'cp']
    """
    return list(dict.fromkeys([*(rule.name for rule in PASSES), *offered()]))


def find(name: str) -> type[Pass]:
    """The pass of that name, ndpass's own before others. Raises UsageError where there is none that can be used."""
    for rule in PASSES:
        if rule.name == name:
            return rule
    if name == AUTO:
        raise UsageError(f"--passes {AUTO} stands alone: it uses every pass there is")
    point = offered().get(name)
    if point is None:
        known = names()
        near = did_you_mean(name, [*known, AUTO])
        raise UsageError(f"there is no pass '{name}': the passes are {', '.join(known)}{near}")
    return load(point)


def usable() -> tuple[list[type[Pass]], list[str]]:
    """Every pass that can be used, in the order of `names`; for each of the others its name and why not, in a line."""
    found: list[type[Pass]] = []
    broken: list[str] = []
    for name in names():
        try:
            found.append(find(name))
        except UsageError as e:
            broken.append(str(e))
    return found, broken


def auto(*, calibrated: bool) -> list[Pass]:
    """The passes of `--passes auto`, in the order in which they are composed.

    calibrated: whether there are data to fit to; without them those that need data are left out. What cannot be loaded
    is left out with a warning that names it and says why.
    """
    for reason in usable()[1]:
        log.warning("%s; left out of --passes auto", reason)
    return in_auto(calibrated)


def in_auto(calibrated: bool) -> list[Pass]:
    """The same without a word on what cannot be loaded."""
    others = [rule for rule in usable()[0] if rule not in PASSES]
    rules = [rule() for rule in (*IN_AUTO, *others) if rule.in_auto]
    return [rule for rule in rules if calibrated or not rule.needs_data]


def parse(spec: str) -> list[Pass]:
    """`nd:rank=2:form=dw-pw` as passes, in their order. Raises UsageError naming what there is.

    >>> [(rule.name, dict(rule.pinned)) for rule in parse("cd,nd:rank=2")]
    [('cd', {}), ('nd', {'rank': 2})]
    """
    passes: list[Pass] = []
    for part in spec.split(","):
        name, *options = part.strip().split(":")
        rule = find(name)
        pairs = [option.partition("=")[::2] for option in options]
        if any(not key or not value for key, value in pairs):
            raise UsageError(f"'{part}': a setting is written key=value, as in nd:rank=2")
        if len(dict(pairs)) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise UsageError(f"'{part}': setting '{twice}' is given twice")
        if any(p.name == name for p in passes):
            raise UsageError(f"--passes {spec}: pass '{name}' is given twice")
        passes.append(rule(**dict(pairs)))
    check_order(passes)
    return passes


def check_order(passes: Sequence[Pass]) -> None:
    """Raise UsageError where all settings are pinned and a pass that may not follow another stands behind one."""
    rules = [rule for rule in passes if isinstance(rule, Decomposition)]
    if all(rule.pinned_fully for rule in passes):
        for rule in (r for r in rules[1:] if not r.may_follow):
            raise UsageError(f"pass '{rule.name}' rewrites whole layers only: put it before {rules[0].name}, or alone")
