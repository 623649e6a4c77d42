"""Segments of a graph, compiled; remembered where several parts of the data go through the same ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from ndpass.graph.graph import Graph
from ndpass.measuring.runtime import OpenVINO


class Runners:
    """Compiles segments of one graph for any number of threads, each of which has its own.

    threads: of each inference. keep: how many are remembered in each thread until the graph changes. lock: to be held
    by whoever asks the graph anything while other threads may.
    """

    def __init__(self, graph: Graph, threads: int | None, keep: int = 0) -> None:
        self.graph, self.threads = graph, threads
        self.lock = threading.RLock()
        self._keep = keep
        self._known: dict[int, OrderedDict[object, OpenVINO]] = {}

    def __call__(self, outputs: Sequence[str], cut: Sequence[str] | None, batch: int) -> OpenVINO:
        """What computes `outputs` from the tensors `cut`, None: from the inputs, for so many samples at once."""
        wanted = (tuple(outputs), cut if cut is None else tuple(cut), batch)
        with self.lock:
            known = self._known.setdefault(threading.get_ident(), OrderedDict())
            if wanted in known:
                known.move_to_end(wanted)
                return known[wanted]
            model = self.graph.segment(outputs, cut, batch)
        runner = OpenVINO(model, threads=self.threads)
        if self._keep:
            known[wanted] = runner
            if len(known) > self._keep:
                known.popitem(last=False)
        return runner

    def forget(self) -> None:
        """The graph has changed."""
        with self.lock:
            self._known.clear()
