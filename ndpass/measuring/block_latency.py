"""How long a block takes on a target, by the clock, and what has been measured before.

A block is timed in a small model (see `ndpass.measuring.block_model`) in turns with the dense original, so that what
slows the machine down slows both.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ndpass.conv import Block, Conv
from ndpass.errors import blaming
from ndpass.measuring.block_model import copies_for, geometry, small_model, width_of
from ndpass.measuring.fake_int8 import quantised
from ndpass.measuring.latency_cache import LatencyCache
from ndpass.measuring.target import Target
from ndpass.measuring.turns import Timed

PRECISION = 0.015  # half-width of a latency's interval at which two that are 3 % apart can be told apart
SECONDS = 0.4  # time for each block; twice that where it is not precise enough by then
MIN_ROUNDS = 6
CALLS = 4  # a turn is the fastest of so many: what disturbs a single inference only ever adds to it
AT_ONCE = 8  # blocks that are compiled and timed together, beside the dense one


@dataclass(frozen=True)
class _Turns:
    """times: (rounds, models) seconds of the bases, the dense layer and the blocks; bases: how many come first.

    The first base is the dense layer's, the last the blocks', another one where their input is narrower.
    """

    times: NDArray[np.float64]
    bases: int

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
        """(rounds, blocks), to dense of the same round.

        A base that was disturbed alone would turn single ratios round, so its median counts.
        """
        base, own = (np.median(self.times[:, i]) for i in (0, self.bases - 1))
        smallest = 1e-3 * np.median(self.dense)
        return np.maximum(self.blocks - own, smallest) / np.maximum(self.dense - base, smallest)[:, None]

    def spread(self) -> float:
        """Widest 95 % interval of a median ratio, half of it, relative; of the dense one itself where it is alone."""
        values = self.ratios() if self.blocks.size else self.dense[:, None]
        middle = np.median(values, axis=0)
        deviation = 1.4826 * np.median(np.abs(values - middle), axis=0)
        return float(np.max(1.96 * 1.2533 * deviation / np.sqrt(len(values)) / middle))


class Latencies:
    """Seconds that blocks take on a target, measured once and remembered.

    cache: folder of remembered latencies, None for none. Raises UsageError where the target is not to be had here.
    spread: of the last measurement, half a 95 % interval of the median, relative. noisy: that is more than what tells
    3 % apart although it was measured twice as long; the figures are given all the same.
    """

    def __init__(self, target: Target, cache: Path | None) -> None:
        self.target = target
        self.spread = 0.0
        self.noisy = False
        self._config = target.properties()
        self._remembered = LatencyCache(cache, target.environment())

    def of(self, blocks: Sequence[Block], in_hw: tuple[int, ...], rows: int | None = None) -> list[float]:
        """Seconds of each block on an input (batch, n_i, *in_hw), in order; blocks[0] is the dense original.

        Weights mean nothing, only shapes do. rows: how many a matrix product takes, the batch if left out.
        A latency that is not remembered is the block's ratio to the dense one, in turns with it, times the latency
        that is remembered of the dense one.
        """
        dense, rows = blocks[0], rows or self.target.batch
        if not isinstance(dense, Conv):
            raise ValueError("the first block is the dense original, a Conv")
        copies = copies_for(dense, in_hw, rows)
        size = f"{'x'.join(map(str, in_hw))} rows={rows} copies={copies}"
        keys = [f"{geometry(block)} @ {size}" for block in blocks]
        missing = {key: block for key, block in zip(keys, blocks, strict=True) if self._remembered.get(key) is None}
        alone = missing.pop(keys[0], None) is not None and not missing
        for part in [{}] if alone else _parts(missing):
            widths = dict.fromkeys([dense.n_i, *map(width_of, part.values())])
            models = [small_model(None, dense, in_hw, rows, copies, width) for width in widths]
            models += [small_model(block, dense, in_hw, rows, copies) for block in (dense, *part.values())]
            self._measure(keys[0], list(part), models, copies)
        return [self._remembered.get(key) or 0.0 for key in keys]

    def _measure(self, dense: str, keys: Sequence[str], models: Sequence[bytes], copies: int) -> None:
        """Times the bases, dense and the blocks in turns and remembers what is new."""
        turns = self._turns([self._compiled(model) for model in models], len(models) - 1 - len(keys))
        known = self._remembered.get(dense) or turns.dense_seconds() / copies
        ratios = np.median(turns.ratios(), axis=0)
        self._remembered.put({dense: known} | {k: float(r) * known for k, r in zip(keys, ratios, strict=True)})

    def _compiled(self, model: bytes) -> Timed:
        """One inference on random numbers."""
        import openvino as ov

        with blaming("a block that is to be timed: OpenVINO cannot run it"):
            read = ov.Core().read_model(model)
            if self.target.precision == "int8":
                read = quantised(read)
            request = ov.Core().compile_model(read, self.target.device, self._config).create_infer_request()
            shape = list(request.get_input_tensor(0).shape)
            x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
            request.set_input_tensor(0, ov.Tensor(x))
            request.infer()
        return lambda: request.infer(share_outputs=True)

    def _turns(self, calls: Sequence[Timed], bases: int) -> _Turns:
        start, limit = time.perf_counter(), SECONDS * len(calls)
        rows: list[list[float]] = []
        while True:
            step = -1 if len(rows) % 2 else 1  # forwards, backwards
            rows.append([_turn(call) for call in calls[::step]][::step])
            turns = _Turns(np.array(rows), bases)
            if len(rows) < MIN_ROUNDS or len(rows) % 2:
                continue
            self.spread, passed = turns.spread(), time.perf_counter() - start
            self.noisy = self.spread > PRECISION
            if passed > 2 * limit or (not self.noisy and passed > limit / 4):
                return turns


def _parts(missing: Mapping[str, Block]) -> Iterator[dict[str, Block]]:
    """AT_ONCE at the most, of the same width."""
    widths = {key: width_of(block) for key, block in missing.items()}
    for _, same in itertools.groupby(sorted(widths, key=widths.__getitem__), widths.__getitem__):
        keys = list(same)
        for start in range(0, len(keys), AT_ONCE):
            yield {key: missing[key] for key in keys[start : start + AT_ONCE]}


def _turn(call: Timed) -> float:
    """Seconds of the fastest of CALLS inferences, after one that brings the code back to the caches."""
    call()
    best = float("inf")
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
