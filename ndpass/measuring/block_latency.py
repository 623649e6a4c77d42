"""How long blocks take on a machine, measured once and remembered.

A block is timed in a small model (`ndpass.measuring.block_model`) in turns with the dense original, so that what slows
the machine down slows both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ndpass.conv import Block, Conv
from ndpass.graph.transposed import Transposed
from ndpass.measuring.block_model import INPUT, copies_for, geometry, small_model, width_of
from ndpass.measuring.latency_cache import LatencyCache
from ndpass.measuring.machine import Machine
from ndpass.measuring.turns import Clock, Timed

PRECISION = 0.015  # half-width of a latency's interval at which two latencies that are 3 % apart can be told apart
NOISE = 0.03  # the same, from which on a machine is called noisy
SECONDS = 0.03  # time for each block; twice that where it is not precise enough by then
MIN_ROUNDS = 6
CALLS = 4  # a turn is the fastest of so many inferences: a disturbance only ever adds to one
LONG, LONGEST = 4e-3, 16e-3  # seconds from which on two inferences are a turn, or one: caches count for little then
DENSE = 0  # in the place of a width: the dense layer itself
AT_ONCE = 8  # blocks that are compiled and timed together, beside the dense one


@dataclass(frozen=True)
class _Turns:
    """times: (rounds, models) seconds of the bases, then the dense layer, then the blocks; bases: how many there are;
    own: the base of each block, by its position.

    A base is the small model without a block. The first one is the dense layer's; there are others where blocks have a
    narrower input.
    """

    times: NDArray[np.float64]
    bases: int
    own: Sequence[int]

    @property
    def dense(self) -> NDArray[np.float64]:
        """(rounds,)"""
        return self.times[:, self.bases]

    @property
    def blocks(self) -> NDArray[np.float64]:
        """(rounds, blocks)"""
        return self.times[:, self.bases + 1 :]

    def dense_seconds(self) -> float:
        return max(float(np.median(self.dense - self.times[:, 0])), 1e-7)

    def ratios(self) -> NDArray[np.float64]:
        """(rounds, blocks): time of each block over that of the dense layer in the same round.

        The median of each base is subtracted: a base that was disturbed in one round would spoil that round's ratio.
        """
        bases = np.median(self.times[:, : self.bases], axis=0)
        smallest = 1e-3 * np.median(self.dense)
        blocks = self.blocks - bases[list(self.own)]
        ratios: NDArray[np.float64] = (
            np.maximum(blocks, smallest) / np.maximum(self.dense - bases[0], smallest)[:, None]
        )
        return ratios

    def spread(self) -> float:
        """Half the widest 95 % interval of a median ratio, relative; of the dense time where there are no blocks."""
        values = self.ratios() if self.blocks.size else self.dense[:, None]
        middle = np.median(values, axis=0)
        deviation = 1.4826 * np.median(np.abs(values - middle), axis=0)
        return float(np.max(1.96 * 1.2533 * deviation / np.sqrt(len(values)) / middle))


class Latencies:
    """Seconds that blocks take on a machine, measured once and remembered.

    cache: folder of remembered latencies, None for none. seconds: time for each block, SECONDS if left out.
    spread: half the 95 % interval of the median, relative, of the least precise measurement so far; 0 before the first.
    """

    def __init__(self, machine: Machine, cache: Path | None, seconds: float | None = None) -> None:
        self.machine = machine
        self.spread = 0.0
        self._seconds = SECONDS if seconds is None else seconds
        self._remembered = LatencyCache(cache, machine.environment())
        self._beside: tuple[str, dict[int, Timed]] = ("", {})  # of one layer: the dense one, and bases by their width

    @property
    def noisy(self) -> bool:
        """Whether some measurement could not tell 6 % apart in twice its time; its figures are given all the same."""
        return self.spread > NOISE

    def of(
        self,
        blocks: Sequence[Block],
        in_hw: tuple[int, ...],
        rows: int | None = None,
        transposed: Transposed | None = None,
    ) -> list[float]:
        """Seconds of each block on an input (rows, n_i, *in_hw), in order; blocks[0] is the dense original.

        Only the shapes of the blocks count, not their weights. rows: the batch of the target if left out. transposed:
        where the blocks make the phases of this layer.
        A new latency is the block's ratio to the dense original, timed in turns, times the remembered latency of the
        dense original. Raises ValueError where blocks[0] is no `Conv`, InputError where OpenVINO cannot run a block.
        """
        dense, rows = blocks[0], rows or self.machine.target.batch
        if not isinstance(dense, Conv):
            raise ValueError("the first block is the dense original, a Conv")
        copies = copies_for(dense, in_hw, rows)
        size = f"{'x'.join(map(str, in_hw))} rows={rows} copies={copies}{f' {transposed}' if transposed else ''}"
        keys = [f"{geometry(block)} @ {size}" for block in blocks]
        missing = {key: block for key, block in zip(keys, blocks, strict=True) if self._remembered.get(key) is None}
        alone = missing.pop(keys[0], None) is not None and not missing
        for part in [{}] if alone else _parts(missing):
            widths = list(dict.fromkeys([dense.n_i, *map(width_of, part.values())]))

            def compiled(block: Block | None, width: int) -> Timed:
                model = small_model(block, dense, in_hw, rows, copies, width, transposed)
                return self._compiled(model, (rows, width, *in_hw))

            held = self._held(keys[0])
            for width in [width for width in widths if width not in held]:
                held[width] = compiled(None, width)
            if DENSE not in held:
                held[DENSE] = compiled(dense, dense.n_i)
            calls = [*(held[width] for width in (*widths, DENSE)), *(compiled(b, width_of(b)) for b in part.values())]
            own = [widths.index(width_of(block)) for block in part.values()]
            self._remember(keys[0], list(part), self._turns(calls, len(widths), own), copies)
        return [self._remembered.get(key) or 0.0 for key in keys]

    def _remember(self, dense: str, keys: Sequence[str], turns: _Turns, copies: int) -> None:
        """What the turns of the dense layer and of blocks tell that is new."""
        known = self._remembered.get(dense) or turns.dense_seconds() / copies
        ratios = np.median(turns.ratios(), axis=0)
        self._remembered.put({dense: known} | {k: float(r) * known for k, r in zip(keys, ratios, strict=True)})

    def let_go(self) -> None:
        """Of the models that the blocks of the last layer were timed beside."""
        self._beside = ("", {})

    def _held(self, layer: str) -> dict[int, Timed]:
        """The models that every block of a layer is timed beside, compiled once: candidates come a few at a time."""
        if self._beside[0] != layer:
            self._beside = (layer, {})
        return self._beside[1]

    def _compiled(self, model: bytes, shape: tuple[int, ...]) -> Timed:
        """One inference on random numbers; shape: of the model's input."""
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        return self.machine.load(model, {INPUT: x})()

    def _turns(self, calls: Sequence[Timed], bases: int, own: Sequence[int]) -> _Turns:
        """The bases, the dense layer and the blocks, timed in turns."""
        now = self.machine.now
        start, limit = now(), self._seconds * len(calls)
        rows: list[list[float]] = []
        while True:
            step = -1 if len(rows) % 2 else 1  # forwards, backwards
            rows.append(self.machine.turns(_turn, calls[::step])[::step])
            if len(rows) < MIN_ROUNDS or len(rows) % 2:
                continue
            turns, passed = _Turns(np.array(rows), bases, own), now() - start
            spread = turns.spread()
            if passed > 2 * limit or (spread <= PRECISION and passed > limit / 4):
                self.spread = max(self.spread, spread)
                return turns


def _parts(missing: Mapping[str, Block]) -> Iterator[dict[str, Block]]:
    """At most AT_ONCE blocks at a time, those of one width together."""
    keys = sorted(missing, key=lambda key: width_of(missing[key]))
    for start in range(0, len(keys), AT_ONCE):
        yield {key: missing[key] for key in keys[start : start + AT_ONCE]}


def _turn(call: Timed, now: Clock) -> float:
    """Seconds of the fastest of some inferences, after one that brings the code back to the caches.

    That one also tells how long they are. Of long ones it counts, too, beside a second one or alone.
    """
    start = now()
    call()
    first = now() - start
    if first >= LONGEST:
        return first
    best = first if first >= LONG else float("inf")
    for _ in range(1 if first >= LONG else CALLS):
        start = now()
        call()
        best = min(best, now() - start)
    return best
