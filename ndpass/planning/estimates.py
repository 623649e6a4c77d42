"""What is known of the candidates of one layer: exact errors of what has been fitted, bounds of the rest.

Errors of single passes are the passes' own and come first. Those of compositions are estimates that fits are needed for
(`ndpass.planning.compositions`). Until somebody asks for them (`settle`) they are bounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ndpass.calibration.moments import Moments
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Site
from ndpass.passes import Decomposition, Pruning, Setting
from ndpass.passes.compose import Settings
from ndpass.planning.candidate import Candidate, possible
from ndpass.planning.compositions import MOST_RANKS, Composition, Fit, key, site_macs, spread


@dataclass
class Known:
    """What took data to find out.

    ways: the layer as it is, then what needs no more fits; pruned: the error of each setting of the pass that
    prunes; shared: the same of each other layer that reads these channels, in the order of `Group.readers`; fitted:
    key of the settings that a fit was asked for -> all that it has told; whole: whether all of them were made
    before any was asked for; merged: candidates of a pass that rewrites blocks, of the block that the layer ends;
    damages: key of the settings of these -> damage, measured.
    """

    ways: Sequence[Candidate]
    pruned: Sequence[float] = ()
    fitted: dict[str, dict[str, float | None]] = field(default_factory=dict)
    whole: bool = False
    merged: Sequence[Candidate] = ()
    damages: dict[str, float] = field(default_factory=dict)
    shared: Sequence[Sequence[float]] = ()

    def pack(self) -> dict[str, Any]:
        """For JSON."""
        ways, merged = ([[c.macs, c.error, c.setting] for c in own] for own in (self.ways, self.merged))
        pruned = {"pruned": list(self.pruned), "shared": [list(errors) for errors in self.shared]}
        known = {**pruned, "fitted": self.fitted, "whole": self.whole}
        return {"ways": ways, "merged": merged, "damages": self.damages, **known}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Known:
        """What `pack` has packed."""
        ways, merged = ([Candidate(*fields) for fields in packed[key]] for key in ("ways", "merged"))
        rest = packed["whole"], merged, packed["damages"], packed["shared"]
        return cls(ways, packed["pruned"], packed["fitted"], *rest)


@dataclass(frozen=True)
class Thinning:
    """What a pass that prunes input channels makes of a layer, alone and with what decompositions make of the rest."""

    site: Site
    rules: Sequence[Decomposition]
    pruning: Pruning
    group: Group
    _macs: dict[str, int] = field(default_factory=dict)

    @cached_property
    def settings(self) -> list[Setting]:
        return self.pruning.settings(self.site.conv, size=self.group.size)

    def candidates(self, inside: Sequence[Candidate], errors: Sequence[float]) -> Iterator[Candidate]:
        """inside: of decompositions, `MOST_RANKS` exact ones and as many bounds are tried; errors: of each setting."""
        worth = possible(inside)
        exact, bounds = [c for c in worth if not c.bound], [c for c in worth if c.bound]
        thinned = [*spread(exact, MOST_RANKS), *spread(bounds, MOST_RANKS)]
        for setting, error in zip(self.settings, errors, strict=True):
            if not (self.pruning.pinned_fully and self.rules and thinned):
                yield Candidate(self._cost(setting, {}), error, {self.pruning.name: setting})
            for c in thinned:
                yield self.with_inside(setting, error, c)

    def with_inside(self, setting: Setting, error: float, inside: Candidate) -> Candidate:
        """What decompositions make of the smaller layer, estimated."""
        whole = {self.pruning.name: setting, **inside.setting}
        together = error + (1 - error) * inside.error
        return Candidate(self._cost(setting, inside.setting), together, whole, bound=inside.bound)

    def _cost(self, setting: Setting, inside: Settings) -> int:
        name = key({self.pruning.name: setting, **inside})
        if name not in self._macs:
            spare = (
                len(self.group.filled(np.zeros(0, np.int64))) - 1
            )  # that branches of a Concat may add, each its last
            most = self.group.consumers[0].most_kept(self.pruning.kept(setting) + spare)
            outline = replace(self.site.outline, weight=self.site.outline.weight[:, :most])
            self._macs[name] = site_macs(replace(self.site, outline=outline), self.rules, inside)
        return self._macs[name]


class Estimates:
    """The candidates of one layer.

    asked: the fits that were asked for; added: what they have told. `known` may hold more, from a run that was cut off.
    left: of the damage that merging the layer's block does alone, the share that layers behind leave.
    """

    def __init__(
        self, site: Site, rules: Sequence[Decomposition], known: Known, thinning: Thinning | None, most: int
    ) -> None:
        """most: how many decompositions are composed at most."""
        self.site, self.known, self.thinning = site, known, thinning
        self.left = 1.0
        self.asked: list[str] = []
        self.added: dict[str, float | None] = {}
        self._compositions: list[Composition] = []
        for size in range(2, min(len(rules), most) + 1):
            for chosen in itertools.combinations(rules, size):
                if all(rule.may_follow for rule in chosen[1:]):
                    self._compositions.append(Composition(site, chosen, list(self._inside().values())))

    def candidates(self) -> list[Candidate]:
        """The layer as it is, single passes, compositions, what pruning makes of these, and merged blocks."""
        return [*self._layer(), *self.known.merged]

    def _layer(self) -> list[Candidate]:
        """Those of the layer by itself."""
        dense, *inside = self._inside().values()
        if self.thinning is None or (self.thinning.settings and not self.known.pruned):
            return [dense, *inside]  # the first layer that reads these channels was left out
        pruned = list(self.thinning.candidates(inside, self.known.pruned))
        pinned = self.thinning.pruning.pinned_fully and all(rule.pinned_fully for rule in self.thinning.rules)
        return [dense, *pruned] if pinned else [dense, *inside, *pruned]

    def _inside(self) -> dict[str, Candidate]:
        """Those of decompositions alone, by key, the layer as it is first."""
        found = {key(c.setting): c for c in self.known.ways}
        for composition in self._compositions:
            made = composition.candidates(found, self.added)
            found.update((key(c.setting), c) for c in made)
        return found

    @property
    def is_open(self) -> bool:
        """Whether any candidate is a bound."""
        return any(c.bound for c in self._inside().values())

    def current(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates of this layer with the errors that are known now, without those that turned out to be no use."""
        now, found = self._inside(), []
        for c in candidates:
            other = self._pruned(c, now) if c.bound and self._is_pruned(c.setting) else now.get(key(c.setting))
            if not c.bound:
                found.append(c)
            elif other:
                found.append(replace(c, error=other.error, bound=other.bound))
        return found

    def _is_pruned(self, settings: Settings) -> bool:
        return self.thinning is not None and self.thinning.pruning.name in settings

    def _pruned(self, candidate: Candidate, now: Mapping[str, Candidate]) -> Candidate | None:
        assert self.thinning
        inside, setting = now.get(key(self._unpruned(candidate.setting))), candidate.setting[self.thinning.pruning.name]
        error = self.known.pruned[self.thinning.settings.index(setting)]
        return self.thinning.with_inside(setting, error, inside) if inside else None

    def _unpruned(self, settings: Settings) -> Settings:
        """Those of the decompositions."""
        pruning = self.thinning.pruning.name if self.thinning else None
        return {name: s for name, s in settings.items() if name != pruning}

    def settle(self, settings: Settings, moments: Callable[[], Moments | None]) -> None:
        """Make the candidate of these settings exact, or nearer to it by a fit at least.

        moments: of the layer, asked for only if a fit needs them.
        """
        names = tuple(self._unpruned(settings))
        composition = next((c for c in self._compositions if c.names == names), None)
        if composition is None:
            return
        self.settle({name: settings[name] for name in names[:-1]}, moments)
        inside = {name: settings[name] for name in names}
        fit = composition.next_fit(inside, self._inside(), self.added)
        if fit is not None:
            self._fit(composition, fit, moments)

    def settle_all(self, moments: Callable[[], Moments | None]) -> None:
        """Make all candidates exact."""
        while wanted := next((c for c in self._inside().values() if c.bound), None):
            self.settle(wanted.setting, moments)

    def _fit(self, composition: Composition, fit: Fit, moments: Callable[[], Moments | None]) -> None:
        name = composition.key_of(fit)
        if name not in self.known.fitted:
            self.known.fitted[name] = composition.fit(fit, self.site.conv, moments())
        self.recall([name])

    def recall(self, fits: Sequence[str]) -> None:
        """Count these fits as asked for, those that are known."""
        for name in fits:
            if name in self.known.fitted:
                self.asked.append(name)
                self.added.update(self.known.fitted[name])
