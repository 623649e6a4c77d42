"""What share of a merged block's damage is left once the layers behind it are fitted anew.

A trial (`ndpass.planning.trials`) has one merged block in the network as it is. In a network that is written, every
layer behind it is fitted to the original again, and makes up for part of it: the more, the more layers there are. KL of
a ResNet-20 for CIFAR-10 with one block as one 3×3 convolution, 1,500 images:

    block        1      2      3      4      5      6      7      8      9
    trial    0.038  0.050  0.224  0.186  0.066  0.070  0.219  0.173  0.204
    fitted   0.013  0.029  0.095  0.049  0.048  0.048  0.146  0.181  0.190

By trials alone, blocks seemed to do up to four times the damage that they do, and none was merged. So a few blocks are
merged on trial and layers behind them fitted (`Rewrite`). The shares that are left of the trials are interpolated for
the blocks between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from ndpass.graph.graph import Graph
from ndpass.listener import Listener, Step, tell
from ndpass.planning.candidate import Candidate, CandidateStore
from ndpass.planning.compositions import key
from ndpass.planning.estimates import Estimates
from ndpass.planning.trials import Trials

log = logging.getLogger(__name__)

MOST = 3  # blocks that are rehearsed, spread over the network
LEAST = 0.1  # share of a trial's damage that is left at the least

# last layer of a block, how it is merged -> the network with that block merged and layers behind it fitted anew
Rewrite = Callable[[str, Candidate], Graph]


def rehearse(
    blocks: Sequence[tuple[str, Estimates]],
    trials: Trials,
    rewrite: Rewrite,
    listen: Listener,
    store: CandidateStore | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Set in the estimates of every block the share of its damage that is left (`Estimates.left`).

    blocks: by the names of their last layers, in the order of the graph; store: where shares are kept as they come;
    enough: asked before each rehearsal, whether there is no time for it. Without any, all of the damage is left.
    """
    tried = [(name, own, way) for name, own in blocks if (way := _least_harm(own)) is not None]
    if not tried:
        return
    chosen = sorted({round(i) for i in np.linspace(0, len(tried) - 1, MOST)})
    shares = []
    for number, i in enumerate(chosen):
        if enough():
            break
        name, own, way = tried[i]
        tell(listen, Step("trying blocks", number, len(chosen), name))
        known = store.load_layer(f"{name} rehearsed", lambda kept: float(kept["left"])) if store else None
        if known is None:
            known = trials.damage_of(rewrite(name, way)) / own.known.damages[key(way.setting)]
            if store:
                store.save_layer(f"{name} rehearsed", {"left": known})
        shares.append(float(np.clip(known, LEAST, 1.0)))
        log.info("%s: layers behind leave %.2f of what merging its block does", name, known)
    for i, (_, own, _) in enumerate(tried if shares else ()):
        own.left = float(np.interp(i, chosen[: len(shares)], shares))


def _least_harm(own: Estimates) -> Candidate | None:
    """Of the block as one convolution, the one that harms least; None where none does any harm."""
    known = own.known.damages
    ways = [c for c in own.known.merged if len(c.setting) == 1 and c.macs and known.get(key(c.setting), 0.0) > 0]
    return min(ways, key=lambda c: known[key(c.setting)], default=None)
