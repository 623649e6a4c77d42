"""From sites to a plan: the candidates of every layer, what their errors cost at the outputs, and the choice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TypeVar

from ndpass.calibration.moments import Moments
from ndpass.calibration.reference import Calibration
from ndpass.errors import VerificationError
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Graph, Site
from ndpass.listener import Listener, Step, shares, tell
from ndpass.measuring.memory import room_beside
from ndpass.passes import Pass
from ndpass.passes.pruning import Reader
from ndpass.planning.away import Away
from ndpass.planning.block_candidates import candidates_of, damages
from ndpass.planning.blocks import Mergeable, mergeable, without_merged
from ndpass.planning.candidate import Budget, Candidate, CandidateStore, Choice
from ndpass.planning.candidates import candidates_for, estimates_for, known_of
from ndpass.planning.channel_savings import Coupling
from ndpass.planning.choose import choose, choose_local
from ndpass.planning.compositions import key, site_macs
from ndpass.planning.deadline import REASON, Deadline, Ration
from ndpass.planning.estimates import Estimates, Known
from ndpass.planning.ledger import Ledger, Table, decided
from ndpass.planning.planning_walk import PlanningWalk
from ndpass.planning.rehearsals import Rewrite, rehearse
from ndpass.planning.sensitivity import Slopes, slopes_of
from ndpass.planning.shared_channels import SharedChannels, channel_groups
from ndpass.planning.shelf import DERIVED, Shelf
from ndpass.planning.threads import Room, blas_threads, cores, side_by_side
from ndpass.planning.trials import Trials
from ndpass.planning.work import planning_work

T = TypeVar("T")

NARROW = 1_024  # elements of a patch; with fewer all compositions take less time to fit than plans to ask for some


@dataclass(frozen=True)
class Planner:
    """Plans for one graph, which stays as it is.

    calibration: None plans on the weights alone. most: passes that are composed in a layer, at most; None: all.
    jobs: layers that are planned side by side, None: one for each core, as memory allows. store: where what is known of
    each layer is kept as it comes; effects: the same of what its errors do to the outputs. shelf: where moments are
    kept for compositions that are fitted only when a plan asks for them; without one, all are fitted. weighed_by: what
    tells how much an error in a layer moves the outputs, where that is not the calibration data; with neither all
    layers weigh alike. deadline: what leaves out layers for want of time. away: the machines that have the moments of
    the calibration, and fit there. rewrite: gives the network with one block merged and layers behind it fitted anew;
    without it, merged blocks count as if nothing behind them made up for them.
    """

    graph: Graph
    passes: Sequence[Pass]
    calibration: Calibration | None
    most: int | None = None
    jobs: int | None = None
    store: CandidateStore | None = None
    shelf: Shelf | None = None
    weighed_by: Calibration | None = None
    effects: CandidateStore | None = None
    deadline: Deadline | None = None
    away: Away | None = None
    rewrite: Rewrite | None = None

    def plan(self, sites: Sequence[Site], budget: Budget, listen: Listener) -> dict[str, Choice]:
        """A choice for every site. Raises BudgetError where none meets the budget."""
        plan = self.plan_with(self.ledger(sites, listen), sites, budget)
        out = self.deadline.left_out if self.deadline else {}
        return {name: Choice(choice.candidate, REASON) if name in out else choice for name, choice in plan.items()}

    def plan_with(self, ledger: Ledger, sites: Sequence[Site], budget: Budget) -> dict[str, Choice]:
        """A choice for every site, whose candidates the ledger has. Raises BudgetError where none meets the budget."""
        blocks, total = self.blocks(sites), self.graph.macs()
        coupling = Coupling(self.graph, sites, self.passes, blocks)

        def chosen(table: Table) -> dict[str, Choice]:
            return choose(table, budget, total, coupling.fronts, coupling.together)

        while True:
            table = ledger.table()
            plan = chosen(table)
            best = decided(plan, table, chosen)
            if best is not None:
                return without_merged(best, blocks)
            ledger.settle(plan)

    def ledger(self, sites: Sequence[Site], listen: Listener, *, fitted: bool = False) -> Ledger:
        """The candidates of every site and their damage. fitted: all of them are, else there are bounds among them."""
        found = self.estimates(sites, listen, fitted=fitted)
        self._rehearse(sites, found, listen)
        data = self.weighed_by or self.calibration
        slopes = cache(lambda: self._slopes(data, sites, listen) if data else None)
        together = SharedChannels.of(self.graph, sites, self.passes)
        return Ledger(found, slopes, partial(self._settle, sites, found, listen), together=together)

    def _slopes(self, data: Calibration, sites: Sequence[Site], listen: Listener) -> Slopes:
        out = self.deadline.left_out if self.deadline else {}
        probed = [site for site in sites if site.name not in out]
        enough = self.deadline.is_probed if self.deadline else (lambda: False)
        away = self.away.prober if self.away is not None and data is self.calibration else None
        found = slopes_of(data, self.graph, probed, self.passes, listen, self.effects, enough, away)
        if self.deadline:
            self.deadline.weighed_alike = len([site for site in probed if site.name not in found.plain])
        return found.beside([site.name for site in sites])

    def candidates(self, sites: Sequence[Site], listen: Listener) -> dict[str, list[Candidate]]:
        """Site name -> all its candidates, fitted, with data on the activations of the network as it is now."""
        found = self.estimates(sites, listen, fitted=True)
        return {name: estimates.candidates() for name, estimates in found.items()}

    def estimates(self, sites: Sequence[Site], listen: Listener, *, fitted: bool) -> dict[str, Estimates]:
        """What is known of each site, on the activations of the network as it is now; fitted: all that there is."""
        walk = PlanningWalk(self.calibration, self.graph, self.passes)
        blocks = {block.branch.first: block for block in self.blocks(sites).values()}
        merged: dict[str, Merged] = {}
        trials = self._trials(blocks)
        ration = Ration(sites, self.deadline) if self.deadline else None
        named, together = {site.name: site for site in sites}, SharedChannels.of(self.graph, sites, self.passes)
        groups = channel_groups(self.graph, sites, self.passes)

        def tasks() -> Iterator[tuple[str, Callable[[], Estimates]]]:
            done = shares([planning_work(site) for site in sites])
            for i, site in enumerate(sites):
                tell(listen, Step("planning", i, len(sites), site.name, done[i]))
                waits = not fitted and self._can_wait(site)
                known = self._known(site.name)
                if known is None and self.deadline and ration and not ration.has(i):
                    self.deadline.leave_out(site)
                    walk.past(site)
                    yield site.name, partial(_left_out, site)
                    continue
                if site.name in blocks and not (self.store and self._known(blocks[site.name].branch.last)):
                    merged.update(self._merged(site, blocks[site.name], walk, trials))
                if known is None:
                    own, made = merged.pop(site.name, Merged()), walk.sums(site)
                    others = walk.readers(site, [named[name] for name in together.groups.get(site.name, ())[1:]])
                    yield site.name, partial(self._planned, site, groups[site.name], made, waits, own, others)
                else:
                    walk.past(site)
                    again = partial(self._moments, sites, site)
                    yield site.name, partial(self._restored, site, groups[site.name], known, again)

        found = self._side_by_side(sites, tasks())
        for first, readers in together.groups.items():
            for name, errors in zip(readers[1:], found[first].known.shared, strict=False):
                found[name].known.pruned = errors
        return found

    def _known(self, layer: str) -> Known | None:
        return self.store.load_layer(layer, Known.unpack) if self.store else None

    def blocks(self, sites: Sequence[Site]) -> dict[str, Mergeable]:
        """Last layer -> residual block that may be merged: there are data for it."""
        calibration = self.calibration
        found = mergeable(self.graph, self.passes, [site.name for site in sites], calibration is not None)
        return {n: one for n, one in found.items() if calibration and one.branch.name in calibration.responses}

    def _trials(self, blocks: Mapping[str, Mergeable]) -> Trials | None:
        """What measures the damage of merging; None where there is nothing to merge."""
        count = sum(len(block.settings()) for block in blocks.values())
        return Trials(self.graph, self.calibration.data, count) if self.calibration and count else None

    def _rehearse(self, sites: Sequence[Site], found: Mapping[str, Estimates], listen: Listener) -> None:
        """Find out what layers behind merged blocks make up for, where there is something to find out, and time."""
        if self.rewrite is None:
            return
        blocks = self.blocks(sites)
        trials = self._trials(blocks)
        if trials is None:
            return
        enough = self.deadline.is_probed if self.deadline else (lambda: False)
        residual = [last for last, block in blocks.items() if not block.branch.is_plain]
        rehearse([(last, found[last]) for last in residual], trials, self.rewrite, listen, self.store, enough)

    def _merged(self, first: Site, block: Mergeable, walk: PlanningWalk, trials: Trials | None) -> dict[str, Merged]:
        """Last layer -> the candidates of its block, fitted to the network as it is now, and their damage."""
        moments = walk.of_block(block, first)
        ways = candidates_of(block, moments)
        alone = {key(c.setting): block.fitted(c, moments)[0] for c in ways if len(c.setting) == 1}
        measured = {name: trials.damage(block.branch, made) for name, made in alone.items()} if trials else {}
        return {block.branch.last: Merged(ways, damages(ways, measured))}

    def _can_wait(self, site: Site) -> bool:
        """Whether a layer's compositions are fitted only when they are asked for."""
        if site.outline.unknowns < NARROW:
            return False
        return self.calibration is None or (self.shelf is not None and self.shelf.has_room(site))

    def _planned(
        self,
        site: Site,
        group: Group | str,
        made: Callable[[], Moments] | None,
        waits: bool,
        merged: Merged,
        others: Sequence[tuple[Site, Callable[[], Moments] | None]],
    ) -> Estimates:
        """made: makes the layer's moments; waits: whether compositions are fitted when they are asked for, not now;
        merged: of the block it ends; others: that read the channels after it, and what makes their moments."""
        if self.away is not None and made is not None:
            known = self.away.known(site, group, made, others, not waits)
            return self._noted(site, group, known, merged, waits, _not_here)
        moments, theirs = made() if made else None, [(other, make() if make else None) for other, make in others]
        known = known_of(site, self.passes, moments, group, readers(group, theirs))
        if waits and moments is not None and self._estimates_for(site, group, known).is_open:
            waits = self.shelf is not None and self.shelf.put(site.name, moments)
        return self._noted(site, group, known, merged, waits, lambda: moments)

    def _noted(
        self,
        site: Site,
        group: Group | str,
        known: Known,
        merged: Merged,
        waits: bool,
        moments: Callable[[], Moments | None],
    ) -> Estimates:
        """The layer as it is kept; moments: asked for where a fit is wanted that is not known."""
        known.merged, known.damages = merged.ways, dict(merged.damages)
        known.ways = [replace(c, block=None) for c in known.ways]  # layers before it change before it is written
        found = self._estimates_for(site, group, known)
        if not waits:
            found.settle_all(moments)
        known.whole = not waits
        self._keep(site, found)
        return found

    def _restored(
        self, site: Site, group: Group | str, known: Known, moments: Callable[[], Moments | None]
    ) -> Estimates:
        """As it was when it was kept, but for what was fitted later: that is asked for again, and is there."""
        found = self._estimates_for(site, group, known)
        if known.whole:
            found.settle_all(moments)
        return found

    def _estimates_for(self, site: Site, group: Group | str, known: Known) -> Estimates:
        most = len(self.passes) if self.most is None else self.most
        return estimates_for(site, self.passes, known, group, most)

    def _settle(
        self,
        sites: Sequence[Site],
        found: Mapping[str, Estimates],
        listen: Listener,
        wanted: Mapping[str, Candidate],
    ) -> None:
        """Fit what makes candidates exact."""

        def task(site: Site) -> None:
            settings = wanted[site.name].setting
            if self.away is None or not self.away.settle(site, found[site.name], settings):
                found[site.name].settle(settings, cache(partial(self._moments, sites, site)))
            self._keep(site, found[site.name])

        def tasks() -> Iterator[tuple[str, Callable[[], None]]]:
            for site in sites:
                if site.name in wanted:
                    tell(listen, Step("fitting candidates", 0, 1, site.name))  # how many come after these is not known
                    yield site.name, partial(task, site)

        self._side_by_side(sites, tasks())

    def _moments(self, sites: Sequence[Site], site: Site) -> Moments | None:
        """Of a layer that was planned before; from the data again where they are not on the shelf."""
        if self.calibration is None:
            return None
        moments = self.shelf.get(site.name) if self.shelf else None
        if moments is None:
            walk = PlanningWalk(self.calibration, self.graph, self.passes)
            for before in itertools.takewhile(lambda other: other.name != site.name, sites):
                walk.past(before)
            moments = walk.moments(site)
        return moments

    def _keep(self, site: Site, found: Estimates) -> None:
        if self.store:
            self.store.save_layer(site.name, found.known.pack())

    def _side_by_side(self, sites: Sequence[Site], tasks: Iterable[tuple[str, Callable[[], T]]]) -> dict[str, T]:
        """All tasks, named after sites, as many at once as there are cores and room for their moments."""
        if self.away is not None:
            return side_by_side(tasks, self.away.jobs, stop=self.away.stop)
        sizes = {site.name: 8 * site.outline.group * site.outline.unknowns**2 for site in sites}
        memory = self.calibration.memory if self.calibration else 0
        room = Room(room_beside(memory), lambda name: DERIVED * sizes[name]) if memory else None
        return side_by_side(tasks, cores() if self.jobs is None else self.jobs, room)


def readers(group: Group | str, others: Sequence[tuple[Site, Moments | None]]) -> list[Reader]:
    """What pruning asks about layers of the group, with their moments."""
    if isinstance(group, str):
        return []
    channels = {member.node.name: member.channels for member in group.consumers}
    return [Reader(site.conv.weight, moments, channels[site.name]) for site, moments in others]


def _not_here() -> Moments | None:
    raise VerificationError("a layer that was planned elsewhere needs a fit that was not made there")


def _left_out(site: Site) -> Estimates:
    """A layer that stays as it is."""
    return Estimates(site, [], Known([Candidate(site_macs(site, [], {}))], whole=True), None, 1)


@dataclass(frozen=True)
class Merged:
    """The candidates of a block, and key of their settings -> damage."""

    ways: Sequence[Candidate] = ()
    damages: Mapping[str, float] = field(default_factory=dict)


def local_choices(
    site: Site,
    passes: Sequence[Pass],
    moments: Moments | None,
    group: Group | str,
    budget: Budget,
    others: Sequence[Reader] = (),
) -> Iterator[Choice]:
    """What the budget makes of one layer by itself, best first: the next one is for when a fit misses its estimate.

    budget: energy or pinned settings; others: layers that read the same channels. The last choice is the layer as it
    is.
    """
    with blas_threads(site):
        found = candidates_for(site, passes, moments, group, others=others)
    while True:
        choice = choose_local(found, budget)
        yield choice
        if not choice.candidate.setting:
            return
        found = [c for c in found if c is not choice.candidate]
