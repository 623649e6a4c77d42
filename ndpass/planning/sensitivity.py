"""How much an error in one layer's response moves the outputs, layer by layer, without labels.

Losing a tenth of the response may change every answer in one layer, and none in another. So each layer gets a slope:
the root of the divergence of the model's outputs over the relative error of the response that caused it. The planner
sums (slope · error)² over the layers. The square is how the divergence of a single layer grows (measured on VGG16, KL
against error of nd, sd and cd: exponents 1.1 to 2.6, mostly 2). The sum over all layers of a plan then came out at 1.6
times the measured divergence, KL 0.058 and 0.035.

Two errors are tried, and the steeper slope counts: in a ResNet-20 a layer that did not feel 5 % was the worst at 20 %.
The network is probed from the layer on, with a switch behind it: what comes before is run once for all layers. The
switch takes the weakest principal directions out of the response,

    y' = y − a UUᵀ(y − ȳ)    U (n_o, r): the last eigenvectors of E[yyᵀ], a ≤ 1 so that the relative error is as wanted

which is the error that a decomposition of low rank makes, and costs a pointwise convolution. Pruning makes another
error: strong directions of the response lose as much as weak ones. Where a pass prunes, random directions of the
whitened response are tried too,

    y' = y − a G^½ QQᵀ G^−½ (y − ȳ)    Q (n_o, r) orthonormal, r/n_o the relative error wanted
    relative error = tr(QᵀΛQ) / tr G    G = VΛVᵀ the covariance of the response, Q in the coordinates of V

for candidates that prune. Measured on ResNet-20, cp at 0.7 of the MACs: a drop of 11.3 points when planned with the
weakest directions alone, of 3.7 with both; the last layer before the average does not feel its weakest directions at
all. For candidates that do not prune they mislead: sd on VGG16 then has a KL of 0.047 instead of 0.040.

The divergence is that of the class probabilities (KL) where an output is class scores, else the error relative to the
outputs' variance. Of several outputs, and of groups of channels whose scales differ, all count.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial

import numpy as np

from ndpass.calibration.collect import Data, equal_batches
from ndpass.calibration.reference import Calibration
from ndpass.graph.graph import Graph, Site
from ndpass.graph.input_spec import static_batch
from ndpass.listener import Listener, Step, shares, tell
from ndpass.measuring.output_errors import channel_axis
from ndpass.passes import Pass, Pruning
from ndpass.planning.candidate import Candidate, CandidateStore
from ndpass.planning.probe_runs import Dose, LocalProber, Prober
from ndpass.planning.probes import Spectrum, random_directions, weakest_directions

ERRORS = (0.05, 0.2)  # relative errors of the response that are injected
PASSES_OVER_DATA = 2.0  # what all slopes together may cost, in forward passes over the calibration images
MOST = 128  # images
FEWEST = {0: 16, 100: 8, 10_000: 4}  # from so many places that outputs answer for in an image: images
LEAST = 0.03  # of the steepest slope

ProberOf = Callable[[Data, int], Prober]


@dataclass(frozen=True)
class Effect:
    """How far the outputs moved (`divergence`) when a response was given this relative squared error."""

    divergence: float
    error: float

    @property
    def slope(self) -> float:
        return math.sqrt(self.divergence) / self.error if self.error else 0.0


@dataclass(frozen=True)
class Slopes:
    """Site name -> √divergence of the outputs per relative error of its response; all above zero and finite.

    plain: of a decomposition's error; pruned: of one that pruning has part in, empty where no pass prunes; pruning: the
    names of the passes that do.
    """

    plain: Mapping[str, float]
    pruned: Mapping[str, float]
    pruning: Collection[str] = ()

    def beside(self, others: Collection[str]) -> Slopes:
        """With the steepest slope for layers that were not probed."""
        plain, pruned = (
            {**dict.fromkeys(others, max(of.values(), default=1.0)), **of} for of in (self.plain, self.pruned)
        )
        return Slopes(plain, pruned, self.pruning)

    def damage(self, name: str, candidate: Candidate) -> float:
        """The divergence that a candidate's error makes: (slope · error)²."""
        slopes = self.pruned if any(name in candidate.setting for name in self.pruning) else self.plain
        return (slopes[name] * candidate.error) ** 2


def weighed(candidates: Mapping[str, Sequence[Candidate]], slopes: Slopes) -> dict[str, list[Candidate]]:
    """The candidates of every site with their damage."""
    return {name: [replace(c, weighed=slopes.damage(name, c)) for c in ways] for name, ways in candidates.items()}


def slopes(
    calibration: Calibration,
    graph: Graph,
    sites: Sequence[Site],
    listen: Listener = lambda *_: None,
    *,
    pruning: Collection[str] = (),
    store: CandidateStore | None = None,
    enough: Callable[[], bool] = lambda: False,
    prober_of: ProberOf | None = None,
) -> Slopes:
    """What an error of each site costs at the outputs, on the calibration data.

    pruning: the names of the passes that prune channels, if any may be what makes the error. store: where the effects
    of each layer's probes are kept as they come. enough: asked before each layer, whether the rest is not probed.
    prober_of: (few images, memory) -> who runs the probes; left out, this process.
    """
    plain, pruned = effects(
        calibration, graph, sites, listen, pruning=bool(pruning), store=store, enough=enough, prober_of=prober_of
    )
    return Slopes(_above_zero(plain), _above_zero(pruned), pruning)


def slopes_of(
    calibration: Calibration,
    graph: Graph,
    sites: Sequence[Site],
    passes: Sequence[Pass],
    listen: Listener = lambda *_: None,
    store: CandidateStore | None = None,
    enough: Callable[[], bool] = lambda: False,
    prober_of: ProberOf | None = None,
) -> Slopes:
    """What an error of these passes costs; other arguments: as of `slopes`."""
    pruning = [rule.name for rule in passes if isinstance(rule, Pruning)]
    return slopes(calibration, graph, sites, listen, pruning=pruning, store=store, enough=enough, prober_of=prober_of)


def _above_zero(found: Mapping[str, Effect]) -> dict[str, float]:
    ratios = {name: effect.slope for name, effect in found.items()}
    most = max((ratio for ratio in ratios.values() if math.isfinite(ratio)), default=0.0)
    least = LEAST * most or 1.0  # no layer is free: what is lost there may show elsewhere
    return {name: max(ratio, least) if math.isfinite(ratio) else max(most, least) for name, ratio in ratios.items()}


def effects(
    calibration: Calibration,
    graph: Graph,
    sites: Sequence[Site],
    listen: Listener = lambda *_: None,
    *,
    pruning: bool = False,
    store: CandidateStore | None = None,
    enough: Callable[[], bool] = lambda: False,
    prober_of: ProberOf | None = None,
) -> tuple[dict[str, Effect], dict[str, Effect]]:
    """Site name -> the effect with the steepest slope, of a decomposition's probes; with `pruning` also of all probes.

    Other arguments: as of `slopes`. An effect is zero where the response never varies; a layer for which there was
    no time has none.
    """
    kinds_of_error = (weakest_directions, random_directions) if pruning else (weakest_directions,)
    kinds = [(kind, error) for kind in kinds_of_error for error in ERRORS]
    few = probing_data(calibration.data, len(kinds) * len(sites), *probing_floor(graph))
    prober = (prober_of or partial(LocalProber, graph))(few, calibration.memory)
    done = shares([1.0 + sum(other.macs(other.outline) or 0 for other in sites[i:]) for i in range(len(sites))])
    found: dict[str, list[Effect]] = {}
    coming: deque[tuple[str, list[Dose], Callable[[], list[float]]]] = deque()

    def settle(most: int) -> None:
        """Wait until at most so many layers are under way."""
        while len(coming) > most:
            name, doses, moved = coming.popleft()
            found[name] = [Effect(each, dose.injected) for each, dose in zip(moved(), doses, strict=True)]
            if store:
                store.save_layer(name, {"effects": [astuple(effect) for effect in found[name]]})

    for i, site in enumerate(sites):
        tell(listen, Step("probing", i, len(sites), site.name, done[i]))
        known = (
            store.load_layer(site.name, lambda kept: [Effect(*fields) for fields in kept["effects"]]) if store else None
        )
        if known is not None:
            found[site.name] = known
        elif not enough():
            given = calibration.responses[site.name]
            spectrum = Spectrum.of(site.transposed.rows(given) if site.transposed else given)
            doses = [Dose(kind(spectrum, error), error) for kind, error in kinds]
            coming.append((site.name, doses, prober.probe(site, doses)))
            settle(prober.ahead)
    settle(0)
    probed = [site.name for site in sites if site.name in found]
    plain = {name: max(found[name][: len(ERRORS)], key=lambda e: e.slope) for name in probed}
    pruned = {name: max(found[name], key=lambda e: e.slope) for name in probed}
    return plain, pruned if pruning else {}


def probing_floor(graph: Graph) -> tuple[int, bool]:
    """The fewest images that tell what an error does to the outputs, and whether any number may be run at once.

    An image of a detector or of masks is an answer at each of its places. In a text detector (147,456 places) slopes
    from 8 images were within 6 % of those from 16 in the median and within 23 % in nine layers of ten, those from 4
    images within 6 and 22 %.
    """
    shapes = graph.shapes(1)
    found = [shapes[name] for name in graph.compared() or graph.outputs() if len(shapes.get(name, ())) > 2]
    places = max((math.prod(shape) // max(shape[channel_axis(shape)], 1) for shape in found), default=1)
    fewest = next(images for least, images in reversed(FEWEST.items()) if places >= least)
    return fewest, static_batch(graph.inputs()) is None


def probing_data(data: Data, probes: int, fewest: int = FEWEST[0], open_batch: bool = False) -> Data:
    """Whole batches within the share of the calibration's time that slopes may take, spread over all images.

    probes: how often the network is run on them; open_batch: whether a batch may be smaller than the data's. Without
    labels, which nothing is fitted to.
    """
    wanted = min(max(round(PASSES_OVER_DATA * data.images / max(probes, 1)), fewest), MOST, data.images)
    batch = equal_batches(wanted, min(data.batch, wanted)) if open_batch else data.batch
    count = max(1, wanted // batch) * batch
    spread = data.feeds.take(np.linspace(0, data.images - 1, count).round().astype(int))  # folders go class by class
    return replace(data, feeds=replace(spread, labels=None), batch=batch)
