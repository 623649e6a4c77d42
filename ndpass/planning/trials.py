"""What merging a block does to the outputs, measured: the one block in the network as it is, on some images.

The slopes of `ndpass.planning.sensitivity` stand for errors of a few per cent. One convolution in the place of a branch
errs by a tenth to a half of its response. But the blocks of a network are few, and each has few kernels, so they are
tried one by one.
"""

from __future__ import annotations

from functools import cached_property

from ndpass.calibration.collect import Data
from ndpass.conv import Block
from ndpass.graph.branches import Branch
from ndpass.graph.graph import Graph
from ndpass.measuring.evaluate import compare, stored
from ndpass.measuring.runtime import OpenVINO, Outputs
from ndpass.planning.probe_runs import divergence
from ndpass.planning.sensitivity import probing_data, probing_floor


class Trials:
    """graph: as it is, which it stays; data: some of whose images are run; count: how many trials there will be."""

    def __init__(self, graph: Graph, data: Data, count: int) -> None:
        self._graph = graph
        self._few = probing_data(data, count, *probing_floor(graph))

    @cached_property
    def _before(self) -> list[Outputs]:
        return stored(self._runner(self._graph), self._few.feeds, self._few.batch)

    def damage(self, branch: Branch, block: Block) -> float:
        """How far the outputs move, as `probe_runs.divergence` counts it, with the branch as this block."""
        merged = self._graph.copy()
        merged.merge(branch, block)
        return self.damage_of(merged)

    def damage_of(self, rewritten: Graph) -> float:
        """The same of a network that was rewritten."""
        return divergence(compare(self._before, self._runner(rewritten), self._few.feeds, self._few.batch))

    def _runner(self, graph: Graph) -> OpenVINO:
        outputs = graph.compared() or graph.outputs()
        return OpenVINO(graph.segment(outputs, None, self._few.batch), threads=self._few.threads)
