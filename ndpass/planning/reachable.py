"""Whether a budget of MACs can be reached at all, which shapes tell before anything is fitted.

The candidates of a layer are the settings of its passes. What they cost follows from shapes, what they spoil takes a
fit; so all are taken to spoil nothing, and the cheapest of every layer together are the least that any plan can have.
Candidates that a fit finds to be of no use only make it more. Merged blocks are not counted: where there may be some,
nothing is said beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site
from ndpass.passes import Pass
from ndpass.planning.blocks import Mergeable
from ndpass.planning.candidate import Budget, Candidate, macs_of
from ndpass.planning.candidates import estimates_for, is_pinned
from ndpass.planning.channel_savings import Coupling
from ndpass.planning.choose import room_within
from ndpass.planning.compositions import site_macs
from ndpass.planning.estimates import Known
from ndpass.planning.pass_kinds import split
from ndpass.planning.shared_channels import channel_groups


def check_reachable(
    graph: Graph,
    sites: Sequence[Site],
    passes: Sequence[Pass],
    budget: Budget,
    blocks: Mapping[str, Mergeable],
    most: int | None = None,
) -> None:
    """Raise BudgetError where no plan of these sites has as few MACs as the budget allows.

    blocks: that may be merged; most: passes that are composed in a layer, None: all.
    """
    rules, _ = split(passes)
    if budget.kind != "macs" or budget.value is None or blocks or (rules and is_pinned(rules)):
        return
    groups = channel_groups(graph, sites, passes)
    table = {site.name: _candidates(site, passes, groups[site.name], most or len(passes)) for site in sites}
    room_within(table, budget.value, graph.macs(), Coupling(graph, sites, passes).fronts(table, macs_of))


def _candidates(site: Site, passes: Sequence[Pass], group: Group | str, most: int) -> list[Candidate]:
    """All that may be offered for a layer, with their MACs and no errors."""
    rules, _ = split(passes)
    dense = site_macs(site, rules, {})
    ways = [Candidate(dense, 0.0)]
    for rule in (rule for rule in rules if rule.refuse(site.outline) is None):
        settings = [{rule.name: setting} for setting in rule.settings(site.outline)]
        ways += [Candidate(site_macs(site, [rule], own), 0.0, own) for own in settings]
    known = Known([ways[0], *(c for c in ways[1:] if c.macs < dense)])
    found = estimates_for(site, passes, known, group, most)
    if found.thinning is not None:
        known.pruned = [0.0] * len(found.thinning.settings)
    return found.candidates()
