"""A plan without the layers that are no faster rewritten, for runs whose budget says nothing of time.

Fewer MACs are not fewer milliseconds. Unless a user asks for MACs, energy or pinned settings, what they want is a
faster model. So the plan is timed in place on a stand-in, and a layer that takes as long as before stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ndpass.errors import BudgetError
from ndpass.graph.graph import Graph, Site
from ndpass.measuring.machine import Machine
from ndpass.measuring.turns import Range, percentiles
from ndpass.planning.candidate import Candidate, Choice
from ndpass.planning.latency_table import LatencyTable, TimedPlan
from ndpass.planning.shared_channels import SharedChannels
from ndpass.planning.stand_in import PlanTimer, time_original

log = logging.getLogger(__name__)

MOST_ROUNDS = 4  # of timing; a plan that is still slower somewhere after that is judged as a whole
NOISY = 1.15  # between the 10th and the 90th percentile of rounds; on an idle machine they are a few per cent apart
HELP = (
    "give images with --calibration, try --passes auto, or give a budget such as --macs 0.6 to have it written all the "
    "same"
)


def keep_faster(
    plan: Mapping[str, Choice],
    opened: tuple[Graph, Sequence[Site]],
    machine: Machine,
    timer: PlanTimer,
    together: SharedChannels | None = None,
) -> tuple[TimedPlan, LatencyTable]:
    """The plan with every layer that is no faster in place as it was, its times, and those of the original.

    plan: what the budget chose. opened: the original, to be timed, and the sites of the plan. timer: times plans
    beside it. together: layers that read the same channels. Raises BudgetError where nothing is left, or the whole
    is no faster; the message says what would help.
    """
    graph, sites = opened
    whole, in_place = time_original(graph, machine, list(plan))
    ways = {site.name: _ways(site, plan[site.name], in_place[site.name]) for site in sites}
    table = LatencyTable(ways, whole, in_place, together=together or SharedChannels())
    now = dict(plan)
    for _ in range(MOST_ROUNDS):
        times = timer.time(now)
        seconds = whole / float(np.median(times.speedups))
        timed = TimedPlan(now, times.speedups, seconds, {name: seconds * times.shares[name] for name in now})
        slower = table.learn(timed)
        if not slower:
            break
        log.info("no faster in place: %s", ", ".join(slower))
        now = table.without(now, slower)
    if not timed.rewritten or timed.speedup <= 1:
        raise BudgetError(f"{_why_none(percentiles(timed.speedups), table)}{HELP}")
    return timed, table


def _why_none(spread: Range, table: LatencyTable) -> str:
    """That nothing is faster, or, where the rounds lie on both sides of one for noise, that it could not be told."""
    noise, (low, high) = busy(spread), spread
    if noise and low <= 1 <= high:
        return f"it could not be told whether a rewrite is faster than the original on this CPU: {noise}"
    return f"no rewrite is faster than the original on this CPU{_tried(table)}: {noise}"


def busy(spread: Range) -> str:
    """What to do first where the rounds of one comparison differ by more than NOISY; nothing where they do not."""
    low, high = spread
    if high <= NOISY * low:
        return ""
    return f"this machine is busy (single rounds gave {low:.2f} to {high:.2f} times), so try again when it is not, "


def _ways(site: Site, choice: Choice, seconds: float) -> list[Candidate]:
    """The layer as it is and as chosen; until it has been timed that counts with the seconds of the layer as it is."""
    dense = Candidate(site.macs(site.outline) or 0, seconds=seconds)
    return [dense, replace(choice.candidate, seconds=seconds)] if choice.candidate.setting else [dense]


def _tried(table: LatencyTable) -> str:
    """The first of the layers that were taken back, as an example."""
    name = next(iter(table.reverted), None)
    return f" (layer '{name}': {table.reverted[name]})" if name else ""
