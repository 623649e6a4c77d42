"""What layers behind merged blocks make up for, on blocks that are written: measured for some, read off for others."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from models import network, normal

from ndpass.calibration.feeds import open_feeds
from ndpass.calibration.reference import Calibration
from ndpass.graph.branches import Branch
from ndpass.graph.graph import Graph
from ndpass.passes import parse
from ndpass.planning.candidate import Candidate
from ndpass.planning.compositions import key
from ndpass.planning.ledger import Ledger
from ndpass.planning.plan import Planner
from ndpass.planning.rehearsals import LEAST, MOST, Rewrite, rehearse
from ndpass.planning.trials import Trials
from ndpass.rewriting.checkpoint import Checkpoint
from ndpass.run.job import Opened
from ndpass.run.planner import Network, with_one_block

IMAGES = 48


def stream(blocks: int) -> str:
    """Residual blocks one behind the other, and a layer that reads the last sum."""
    lines, x = [], "x"
    for i in range(blocks):
        lines.append(f"a{i} = Conv<pads=[1,1,1,1]>({x}, A{i})  r{i} = Relu(a{i})")
        lines.append(f"b{i} = Conv<pads=[1,1,1,1]>(r{i}, B{i})  s{i} = Add(b{i}, {x})")
        x = f"s{i}"
    return f"(float[N,6,8,8] x) => (float[N,4,8,8] y) {{ {'  '.join(lines)}  y = Conv({x}, Y) }}"


@dataclass(frozen=True)
class Subject:
    """A network of so many blocks; written: the last layers of the blocks that were merged by way of rehearsal."""

    blocks: int
    written: list[str] = field(default_factory=list)

    @cached_property
    def network(self) -> Network:
        weights = {f"{name}{i}": normal(6, 6, 3, 3, seed=i) / 4 for name in "AB" for i in range(self.blocks)}
        model = network(stream(self.blocks), Y=normal(4, 6, 1, 1), **weights)

        def opened() -> Opened:
            graph = Graph(model)
            found = graph.sites()
            return Opened.of(graph, found, frozenset(site.name for site in found))

        one = opened()
        feeds = open_feeds(normal(IMAGES, 6, 8, 8, seed=9), one.graph.inputs())
        branches = [block for block in one.graph.blocks() if isinstance(block, Branch)]
        assert len(branches) == self.blocks
        calibration = Calibration.of(one.graph, one.sites, feeds, 1, 0, 1 << 30, branches)
        return Network(opened, parse("bm"), calibration)

    def rewrite(self, last: str, way: Candidate) -> Graph:
        self.written.append(last)
        return with_one_block(self.network, last, way)

    def ledger(self, store: Checkpoint | None = None, rewrite: Rewrite | None = None) -> Ledger:
        one = self.network.open()
        planner = Planner(one.graph, self.network.passes, self.network.calibration, store=store, rewrite=rewrite)
        return planner.ledger(one.sites, lambda *_: None)

    def damages(self, ledger: Ledger) -> dict[str, dict[str, float]]:
        """Last layer of each block -> how it is merged -> the damage that plans count."""
        table = ledger.table()
        return {f"b{i}": {key(c.setting): c.damage for c in table[f"b{i}"] if c.setting} for i in range(self.blocks)}


def test_a_merged_block_counts_what_layers_behind_leave_of_it() -> None:
    """What the written network does to the outputs, and the same share of what other kernels do alone."""
    subject = Subject(2)
    alone, counted = subject.damages(subject.ledger()), subject.damages(subject.ledger(rewrite=subject.rewrite))
    assert subject.written == ["b0", "b1"]
    calibration = subject.network.calibration
    assert calibration is not None
    trials = Trials(subject.network.open().graph, calibration.data, 6)  # three kinds a block: on the same images
    left: list[float] = []
    for last in subject.written:
        shares = np.array([counted[last][way] / alone[last][way] for way in alone[last]])
        assert len(shares) > 2
        assert np.ptp(shares) < 1e-9
        best = Candidate(1 << 20, 0.0, {"bm": {"kernel": 3}})
        written = trials.damage_of(with_one_block(subject.network, last, best))
        assert counted[last][key(best.setting)] == pytest.approx(written, rel=1e-6)
        left.append(float(shares[0]))
    assert LEAST < left[0] < 0.95  # three layers are behind the first block, one behind the other
    assert left[0] < left[1] <= 1


def test_blocks_between_are_read_off_and_shares_are_kept(tmp_path: Path) -> None:
    subject, checkpoint = Subject(6), Checkpoint(tmp_path / "kept")
    checkpoint.start({})
    alone = subject.damages(subject.ledger())
    counted = subject.damages(subject.ledger(checkpoint, subject.rewrite))
    assert subject.written == ["b0", "b2", "b5"]
    assert len(subject.written) == MOST
    shares = [next(counted[b][way] / alone[b][way] for way in alone[b]) for b in alone]
    assert shares[1] == pytest.approx((shares[0] + shares[2]) / 2)
    assert shares[4] == pytest.approx((shares[2] + 2 * shares[5]) / 3)
    again = subject.damages(subject.ledger(checkpoint, subject.rewrite))
    assert len(subject.written) == MOST
    assert again == counted


def test_without_time_for_more_the_blocks_behind_count_as_the_last_that_was_tried() -> None:
    subject = Subject(6)
    one = subject.network.open()
    planner = Planner(one.graph, subject.network.passes, subject.network.calibration)
    found = planner.estimates(one.sites, lambda *_: None, fitted=False)
    blocks, calibration = [(f"b{i}", found[f"b{i}"]) for i in range(6)], subject.network.calibration
    assert calibration is not None
    trials = Trials(one.graph, calibration.data, 18)
    rehearse(blocks, trials, subject.rewrite, lambda *_: None, enough=lambda: len(subject.written) == 2)
    left = [own.left for _, own in blocks]
    assert left[0] < 1
    assert left[2:] == [left[2]] * 4
    rehearse(blocks[:0], trials, subject.rewrite, lambda *_: None)
    assert subject.written == ["b0", "b2"]
