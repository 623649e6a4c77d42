"""What a planner asks of other machines, on which the moments of layers are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ndpass.calibration.collect import Data
from ndpass.calibration.moments import Moments
from ndpass.graph.channel_groups import Group
from ndpass.graph.graph import Site
from ndpass.passes.compose import Settings
from ndpass.planning.estimates import Estimates, Known
from ndpass.planning.probe_runs import Prober


class Away(Protocol):
    """jobs: layers that are worth planning at once."""

    @property
    def jobs(self) -> int: ...

    def known(
        self,
        site: Site,
        group: Group | str,
        made: Callable[[], Moments],
        others: Sequence[tuple[Site, Callable[[], Moments] | None]],
        whole: bool,
    ) -> Known:
        """As `ndpass.planning.candidates.known_of`, without fitted blocks. made: of the walk that the layer was met on;
        others: that read its channels, too; whole: with all fits, after which the moments go."""
        ...

    def prober(self, few: Data, memory: int) -> Prober:
        """Who runs probes on few of the calibration's images there, in so many bytes for activations."""
        ...

    def stop(self) -> None:
        """Have whoever waits for these machines wait no longer: the run was interrupted, or has failed."""
        ...

    def settle(self, site: Site, found: Estimates, settings: Settings) -> bool:
        """As `Estimates.settle`; False where the layer's moments are not there."""
        ...
