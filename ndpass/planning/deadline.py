"""A time limit: which layers are planned so that the rest of a run has its time, and which are left out.

Planning goes through the layers in the graph's order and cannot begin with those that matter most. But what a layer
will take is known beforehand (`ndpass.planning.work`), and what has been done tells how fast the machine is. So before
each layer the time that is left is dealt out to the layers that are still to come, those with the most MACs for their
work first, and a layer that gets none is left as it is.

Probing stops when its share is over: a layer that was not probed counts as the most sensitive one. What is left after
timing is for the fit, which takes no longer than planning did: it makes the same moments, and fits once what planning
has fitted many times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ndpass.graph.graph import Site
from ndpass.planning.work import planning_work

PLANNED, PROBED, TIMED = 0.35, 0.5, 0.65  # shares of the limit when candidates have to be known, weighed and timed
SETTLED = 0.75  # the same of a plan: what is left then is for fitting and measuring
REASON = "the time limit left no time for it"


@dataclass
class Deadline:
    """limit: seconds from the begin of the run until it should end; passed: seconds since then; left_out: layers, with
    their MACs; weighed_alike: how many layers were not probed; hurried: whether plans were timed in a hurry;
    fitted_once: whether the plan is a part of one that lost too much."""

    limit: float
    passed: Callable[[], float]
    left_out: dict[str, int] = field(default_factory=dict)
    weighed_alike: int = 0
    hurried: bool = False
    fitted_once: bool = False

    def is_near(self, share: float, more: float = 0.0) -> bool:
        """Whether this share of the limit will be over in `more` seconds."""
        return self.passed() + more >= share * self.limit

    def is_probed(self) -> bool:
        """Whether there is no more time for probing."""
        return self.is_near(PROBED)

    def is_settled(self) -> bool:
        """Whether there is no more time to improve a plan by timing others."""
        return self.is_near(SETTLED)

    def is_over(self) -> bool:
        """Whether there is no more time at all: what is known has to do."""
        return self.is_near(1.0)

    def leave_out(self, site: Site) -> None:
        self.left_out[site.name] = site.macs(site.outline) or 0

    def warning(self, total: int) -> str | None:
        """What is to be said of what there was no time for, None where there was time; total: MACs of the model."""
        said, share = [], sum(self.left_out.values()) / max(total, 1)
        if self.left_out:
            said.append(f"for {_layers(len(self.left_out))} with {share:.1%} of the MACs")
        if self.weighed_alike:
            said.append(f"to try how much an error in {_layers(self.weighed_alike)} costs")
        if self.hurried:
            said.append("to time other plans")
        if self.fitted_once:
            said.append("to fit another" if self.hurried else "to fit another plan")
        return f"--time-limit left no time {', nor '.join(said)}: more time may give a faster model" if said else None


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


class Ration:
    """Deals out the time for planning; `has` is asked of one layer after the other, in the graph's order."""

    def __init__(self, sites: Sequence[Site], deadline: Deadline) -> None:
        self._deadline, self._begun = deadline, deadline.passed()
        self._work = [planning_work(site) for site in sites]
        gain = [(site.macs(site.outline) or 0) / work for site, work in zip(sites, self._work, strict=True)]
        self._order = sorted(range(len(sites)), key=lambda i: -gain[i])
        self._done = 0.0

    def has(self, number: int) -> bool:
        """Whether there is time for this layer; if so, it counts as done when the next one is asked for."""
        left = PLANNED * self._deadline.limit - self._deadline.passed()
        took = self._deadline.passed() - self._begun
        room = left * self._done / took if self._done and took > 0 else float("inf")
        for i in self._order:
            if left <= 0 or i < number:
                continue
            room -= self._work[i]
            if room < 0:
                break
            if i == number:
                self._done += self._work[i]
                return True
        return False
