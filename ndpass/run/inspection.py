"""`ndpass inspect`: every layer with weights, what it costs, and what each pass could make of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from ndpass.graph.branches import Branch, Unmerged
from ndpass.graph.graph import Graph, Site
from ndpass.listener import Listener, Step, tell
from ndpass.passes import NetworkDecoupling, Pass, auto
from ndpass.passes.network_decoupling import FORMS, blueprint_share, energy
from ndpass.passes.options import setting_text
from ndpass.planning.blocks import Mergeable, mergeable, why_unmerged
from ndpass.planning.candidate import Budget
from ndpass.planning.candidates import candidates_for, refused
from ndpass.planning.choose import choose_local
from ndpass.run.figures import human

RANKS = (1, 2, 3, 4)  # the T of Guo et al. 2018, Figure 3
NAMED = 3  # blocks that are named where many are left alone for one reason
ENERGY = 0.95  # of the weights, that a rewrite keeps where it is said what a pass could do


@dataclass(frozen=True)
class Offer:
    """What one pass could do with a layer.

    macs: share of the layer's MACs that is left, keeping ENERGY of the weights' energy; None where that is not known
    without data. setting: as `--passes` takes it. refused: why the pass leaves the layer alone.
    """

    macs: float | None = None
    setting: str = ""
    refused: str = ""


@dataclass(frozen=True)
class Row:
    """A layer with weights.

    share: of the model's MACs; energy: form of nd -> share of ‖W‖² kept at T = 1…4; blueprint: the share that BSConv's
    blueprints explain; both None where nd cannot rewrite the layer, for the reason given. passes: name -> what that
    pass could do.
    """

    name: str
    op: str
    shape: tuple[int, ...] | None
    in_hw: tuple[int, ...] | None
    macs: int | None
    share: float | None
    energy: dict[str, list[float]] | None
    blueprint: float | None
    reason: str | None
    passes: dict[str, Offer] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """Why no pass can do anything, each reason once; empty where one can."""
        if not self.passes:
            return self.reason or ""
        if any(not offer.refused for offer in self.passes.values()):
            return ""
        return "; ".join(dict.fromkeys(offer.refused for offer in self.passes.values()))

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def inspect(graph: Graph, listen: Listener = lambda *_: None) -> Iterator[Row]:
    """A row for every layer with weights, in graph order; `reason` says why nd leaves it alone."""
    total, rules = graph.macs() or 1, auto(calibrated=True)
    decoupling = NetworkDecoupling()
    layers = graph.sites()
    for i, found in enumerate(layers):
        tell(listen, Step("inspecting", i, len(layers), found.name))
        if not isinstance(found, Site):
            share = None if found.macs is None else found.macs / total
            yield Row(found.name, found.op, found.shape, None, found.macs, share, None, None, found.reason)
            continue
        macs = found.macs(found.outline)
        share = None if macs is None else macs / total
        reason = decoupling.refuse(found.outline)
        kept, blueprint = (None, None) if reason else _figures(found)
        offers = offers_of(graph, found, rules)
        yield Row(found.name, found.op, found.shape, found.in_hw, macs, share, kept, blueprint, reason, offers)


def blocks_of(graph: Graph) -> list[str]:
    """Lines for residual blocks and plain chains: of each that can be merged its layers, and the MACs left with each
    setting; of the others, for every reason, which they are."""
    rules = auto(calibrated=True)
    found = mergeable(graph, rules, [found.name for found in graph.sites()], calibrated=True)
    lines, left = list[str](), dict[str, list[str]]()
    for one in graph.blocks():
        block = found.get(one.layers[-1]) if one.layers else None
        if block is not None and isinstance(one, Branch):
            lines.append(_block_line(one, block))
        elif not (isinstance(one, Branch) and one.is_plain):
            why = one.reason if isinstance(one, Unmerged) else why_unmerged(graph, rules, one.last, calibrated=True)
            left.setdefault(why or "nothing merges it", []).append(one.name)
    return [*lines, *(f"{_named(names)}: {why}" for why, names in left.items())]


def _block_line(one: Branch, block: Mergeable) -> str:
    layers = ", ".join(one.layers)
    start = f"chain {layers}" if one.is_plain else f"block '{one.name}' ({layers})"
    each = [(s, block.cost({block.rule.name: s})) for s in block.settings() if block.saves(s)]
    ways = (f"{setting_text(setting)} {100 * macs / one.macs:.0f} %" for setting, macs in each)
    return f"{start}: {block.rule.name}: {', '.join(ways)} of {human(one.macs)} MACs"


def _named(names: Sequence[str]) -> str:
    """Blocks by name, the first of many."""
    first = ", ".join(f"'{name}'" for name in names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{'block' if len(names) == 1 else 'blocks'} {first}{more}"


def offers_of(graph: Graph, site: Site, rules: Sequence[Pass]) -> dict[str, Offer]:
    """Name -> what each pass alone could do with the layer, by its weights."""
    return {rule.name: _offer(graph, site, rule) for rule in rules}


def _offer(graph: Graph, site: Site, rule: Pass) -> Offer:
    if (reason := refused(graph, site, [rule], rule.needs_data)) is not None:
        return Offer(refused=reason)
    if rule.needs_data:
        return Offer()
    choice = choose_local(candidates_for(site, [rule]), Budget("energy", ENERGY)).candidate
    if not choice.setting:
        return Offer(macs=1.0)
    return Offer(choice.macs / (site.macs(site.outline) or 1), setting_text(choice.setting[rule.name]))


def _figures(site: Site) -> tuple[dict[str, list[float]], float]:
    weight = site.conv.weight
    kept = {}
    for form in FORMS:
        shares = energy(weight, form)
        kept[form] = [float(shares[min(t, len(shares)) - 1]) for t in RANKS]
    return kept, blueprint_share(weight)
