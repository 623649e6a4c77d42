"""Layers planned by workers, which have their moments: the largest first, and fits for which plans ask later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ndpass.calibration.collect import Data
from ndpass.calibration.gather import Gathered, with_prior
from ndpass.calibration.gather import Layer as Gathers
from ndpass.calibration.moments import Moments
from ndpass.engine.calibration import Coming, Spread
from ndpass.engine.model import Log, Model, site_of
from ndpass.engine.probing import ClusterProber
from ndpass.engine.tasks import one_thread
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Site
from ndpass.passes import Pass
from ndpass.passes.compose import Settings
from ndpass.planning.candidates import estimates_for, known_of
from ndpass.planning.estimates import Estimates, Known
from ndpass.planning.plan import readers
from ndpass.planning.work import planning_work

if TYPE_CHECKING:
    from distributed import Future

WHOLE = 1e6  # of `planning_work`: far more than any layer is


@dataclass(frozen=True)
class Planning:
    """most: passes that are composed in a layer. kept: layer -> its moments, with a worker, for fits to come."""

    spread: Spread
    passes: Sequence[Pass]
    most: int
    kept: dict[str, tuple[Future, Layer]] = field(default_factory=dict)

    @property
    def jobs(self) -> int:
        """As many as there are threads, and one that is on its way."""
        return 1 + self.spread.cluster.threads

    def known(
        self,
        site: Site,
        group: Group | str,
        made: Callable[[], Moments],
        others: Sequence[tuple[Site, Callable[[], Moments] | None]],
        whole: bool,
    ) -> Known:
        """As of `ndpass.planning.away.Away`."""
        layer = Layer(site.name, self.passes, self.most, group if isinstance(group, str) else None)
        own, theirs = self._moments(site, made), [(other.name, self._moments(other, make)) for other, make in others]
        cluster, given = self.spread.cluster, (own, self.spread.model, layer, theirs, whole)
        found = cluster.result(cluster.submit(f"plan {site.name}", plan, *given, priority=planning_work(site) / WHOLE))
        if not whole:
            self.kept[site.name] = own, layer
        return Known.unpack(found)

    def _moments(self, site: Site, made: Callable[[], Moments] | None) -> Future:
        assert isinstance(made, Coming)
        given = made.whole, self.spread.model, site.name
        return self.spread.cluster.submit("moments", finish, *given, priority=planning_work(site) / WHOLE)

    def prober(self, few: Data, memory: int) -> ClusterProber:
        """As of `ndpass.planning.away.Away`."""
        return ClusterProber(self.spread.cluster, self.spread.model, few, memory)

    def stop(self) -> None:
        """As of `ndpass.planning.away.Away`."""
        self.spread.cluster.stop()

    def settle(self, site: Site, found: Estimates, settings: Settings) -> bool:
        """As of `ndpass.planning.away.Away`."""
        if site.name not in self.kept:
            return False
        moments, layer = self.kept[site.name]
        cluster, known = self.spread.cluster, (found.known.pack(), list(found.asked))
        given = moments, self.spread.model, layer, *known, settings
        fits = cluster.result(cluster.submit(f"fit {site.name}", fit, *given))
        found.known.fitted.update(fits)
        found.recall(list(fits))
        return True


@dataclass(frozen=True)
class Layer:
    """A layer of the original. most: passes that are composed; apart: why its input channels cannot be pruned, None
    where the graph says who shares them."""

    name: str
    passes: Sequence[Pass]
    most: int
    apart: str | None

    def of(self, model: Model) -> tuple[Site, Group | str]:
        """In a worker: the layer, and who shares its input channels."""
        with model.at(Log()) as runners, runners.lock:
            group = runners.graph.channel_groups()[self.name] if self.apart is None else self.apart
            return site_of(runners.graph, self.name), group


def finish(found: Gathered, model: Model, layer: str) -> Moments:
    """A worker's part: the moments with the prior in them."""
    with model.at(Log()) as runners, runners.lock:
        site = site_of(runners.graph, layer)
    with one_thread():
        return with_prior(Gathers.of(site), found.owned())


def plan(
    moments: Moments, model: Model, layer: Layer, others: Sequence[tuple[str, Moments]], whole: bool
) -> dict[str, Any]:
    """A worker's part: what is known of the layer, packed. others: layers that read its channels, too."""
    site, group = layer.of(model)
    with model.at(Log()) as runners, runners.lock:
        theirs = [(site_of(runners.graph, name), found) for name, found in others]
    with one_thread():
        known = known_of(site, layer.passes, moments, group, readers(group, theirs))
        known.ways = [replace(c, block=None) for c in known.ways]
        if whole:
            estimates_for(site, layer.passes, known, group, layer.most).settle_all(lambda: moments)
    return known.pack()


def fit(
    moments: Moments,
    model: Model,
    layer: Layer,
    packed: Mapping[str, Any],
    asked: Sequence[str],
    settings: Settings,
) -> dict[str, dict[str, float | None]]:
    """A worker's part: the fits that make a candidate exact, in their order. packed, asked: of its `Estimates`."""
    site, group = layer.of(model)
    found = estimates_for(site, layer.passes, Known.unpack(packed), group, layer.most)
    found.recall(asked)
    with one_thread():
        found.settle(settings, lambda: moments)
    return {name: found.known.fitted[name] for name in found.asked[len(asked) :]}
