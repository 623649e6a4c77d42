"""Whether the calibration data have the size that a run counts, fits and measures at."""

from __future__ import annotations

from ndpass.calibration.feeds import Feeds
from ndpass.errors import InputError
from ndpass.graph.graph import Graph


def check_one_size(graph: Graph, fit: Feeds | None, by: str) -> None:
    """Raise InputError for calibration data of another size than the graph is taken at, where it leaves sizes open.

    by: where that size is from, as 'in the validation data'.
    """
    if fit is None:
        return
    feed = next(fit.batches(1))
    for spec in graph.inputs():
        size, own = graph.sizes.get(spec.name), feed[spec.name].shape[1:]
        if size is None or own == (wanted := size[1:] if spec.batched else size):
            continue
        has, takes = ("x".join(map(str, axes)) for axes in (own, wanted))
        raise InputError(
            f"{fit.origin}: a run takes samples of one size; input {spec.name!r} is {has} in the calibration data and "
            f"{takes} {by}; set size=HxW in --preprocess, or give arrays of that size"
        )
