"""Which candidates of a layer are timed, a few at a time, and what the others take.

Seconds rise with MACs almost along a straight line within a kind (passes and forms), and no kind does more MACs a
second than the layer itself by more than a little. So of each pass alone the cheapest and the dearest are timed first.
A kind that is a composition is timed only if some candidate of it might be worth having, at the best rate seen: not if
an exact one is known that takes no longer and errs no more. It begins with one of those, in the middle. In the end more
of those kinds are timed that candidates of the front are of, where they lie far from what was timed. The others'
seconds are interpolated by MACs, and beyond what was timed they follow a power of them.

On a VGG16 of 240×240 pixels, ten layers of different shapes, this took 399 of the 641 timings that six of each pass and
three of each composition take, and at a trade of seconds for damage at any rate the choice in a layer was at most 8 %
dearer (0.1 % in the mean). To begin a composition with one timing instead of both its ends took 585 instead of 778 in
21 layers of a YOLOv8n; the choice was at most 6 % dearer than by those (0.1 % in the mean).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ndpass.planning.candidate import Candidate, macs_of, pareto, possible, seconds_of
from ndpass.planning.latency_table import kind

PER_KIND = 4  # of a kind are timed at most
KINDS_AT_ONCE = 4  # compositions that are begun in one round: what one shows may rule out the next
OPTIMISM = 0.9  # of the fewest seconds per MAC that were seen, for what was not timed
FAR = 1.5  # times as many MACs as the nearest one that was timed
FEWER, MORE = 0.6, 0.8  # powers of the MACs that seconds follow below and above what was timed

Timer = Callable[[Sequence[Candidate]], Sequence[float]]  # seconds of candidates, the first as the layer is

log = logging.getLogger(__name__)


@dataclass
class _Kind:
    """Candidates of the same passes and forms that no other of them is known to beat, fewest MACs first, and the
    seconds of those that were timed, by MACs."""

    front: Sequence[Candidate]
    timed: dict[int, float] = field(default_factory=dict)

    def estimated(self) -> list[Candidate]:
        """All with seconds: by MACs between those that were timed, by a power of them beyond."""
        macs = sorted(self.timed)
        seconds = [self.timed[m] for m in macs]
        beyond = [min(1.0, c.macs / macs[0]) ** FEWER * max(1.0, c.macs / macs[-1]) ** MORE for c in self.front]
        return [
            replace(c, seconds=float(np.interp(c.macs, macs, seconds)) * factor)
            for c, factor in zip(self.front, beyond, strict=True)
        ]

    def farthest(self, wanted: Sequence[Candidate]) -> Candidate | None:
        """Of the wanted the one that is farthest from all that were timed, if it is far."""
        away = [(min(abs(math.log(c.macs / m)) for m in self.timed), c.macs, c) for c in wanted if c.macs]
        distance, _, candidate = max(away, key=lambda one: one[:2], default=(0.0, 0, None))
        return candidate if distance > math.log(FAR) else None


def timed_in_rounds(ways: Sequence[Candidate], time: Timer) -> list[Candidate]:
    """The candidates that may be worth having, with seconds; ways: of one layer, the first as it is."""
    rounds = _Rounds(ways[0], fronts_of(ways), time)
    rounds.run()
    log.debug("timed %d of %d candidates", rounds.count, len(ways) - 1)
    return rounds.known()


def fronts_of(ways: Sequence[Candidate]) -> list[list[Candidate]]:
    """Of every kind among ways[1:] the candidates that no other of their kind is known to beat, fewest MACs first."""
    kinds: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in ways[1:]:
        kinds.setdefault(kind(candidate), []).append(candidate)
    return [possible(same) for same in kinds.values()]


class _Rounds:
    def __init__(self, dense: Candidate, fronts: Sequence[Sequence[Candidate]], time: Timer) -> None:
        self._dense, self._time = dense, time
        self._kinds = [_Kind(front) for front in fronts]
        self.count = 0

    def run(self) -> None:
        """Time what has to be."""
        alone = [each for each in self._kinds if len(each.front[0].setting) == 1] or self._kinds
        self._round([(each, c) for each in alone for c in _ends(each.front)])
        while rivals := self._rivals():
            self._round(rivals)
        while gaps := self._gaps():
            self._round(gaps)

    def known(self) -> list[Candidate]:
        """The layer as it is, then all of the kinds that were timed, with seconds."""
        return [self._dense, *(c for each in self._kinds if each.timed for c in each.estimated())]

    def _round(self, wanted: Sequence[tuple[_Kind, Candidate]]) -> None:
        dense, *seconds = self._time([self._dense, *(c for _, c in wanted)])
        self._dense = replace(self._dense, seconds=dense)
        for (each, candidate), own in zip(wanted, seconds, strict=True):
            each.timed[candidate.macs] = own
        self.count += len(wanted)

    def _rivals(self) -> list[tuple[_Kind, Candidate]]:
        """Of kinds that were not timed, those with the most candidates that might be worth having, one of each."""
        rate, front = self._best_rate(), pareto([c for c in self.known() if not c.bound], seconds_of)
        seconds, damage = (np.array([of(c) for c in front]) for of in (seconds_of, lambda c: c.damage))

        def worth(c: Candidate) -> bool:
            return not np.any((seconds <= OPTIMISM * rate * c.macs) & (damage <= c.damage))

        rivals = [(each, [c for c in each.front if worth(c)]) for each in self._kinds if not each.timed]
        rivals = sorted((one for one in rivals if one[1]), key=lambda one: -len(one[1]))[:KINDS_AT_ONCE]
        return [(each, found[len(found) // 2]) for each, found in rivals]

    def _best_rate(self) -> float:
        """The fewest seconds per MAC that were seen."""
        seen = [s / m for each in self._kinds for m, s in each.timed.items() if m]
        return min([*seen, seconds_of(self._dense) / max(macs_of(self._dense), 1)])

    def _gaps(self) -> list[tuple[_Kind, Candidate]]:
        """Of kinds that have a part in the front, what is far from all that was timed of them."""
        known = self.known()
        front = {id(c) for c in pareto(known, seconds_of)}
        chosen = [(kind(c), c) for c in known[1:] if id(c) in front]
        gaps = []
        for each in self._kinds:
            if 0 < len(each.timed) < PER_KIND:
                far = each.farthest([c for of, c in chosen if of == kind(each.front[0])])
                gaps += [(each, far)] if far else []
        return gaps


def _ends(front: Sequence[Candidate]) -> Sequence[Candidate]:
    """The one with the fewest MACs and the one with the most."""
    return [front[0], front[-1]] if front[0].macs < front[-1].macs else [front[-1]]
