"""Where the samples of a batch lie in the tensors of a network: most often one after the other along axis 0.

Not in networks that put time first, (T, N, C), nor where frames, views or regions of each sample are maps of their own,
(N·k, C, H, W). Shapes at two batches tell the axis; in which order it has samples and maps, only a run does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ndpass.calibration.feeds import Feed, Feeds
from ndpass.calibration.runners import Runners
from ndpass.conv import Array
from ndpass.errors import InputError
from ndpass.graph.graph import Graph
from ndpass.graph.input_spec import static_batch
from ndpass.graph.shapes import Shape
from ndpass.measuring.sample_order import Order, another_first, axes_of, told

LOOKED_AT = 8  # samples, of which one takes the place of the first


def orders_of(
    graph: Graph, tensors: Mapping[str, str], maps: Sequence[str], feeds: Feeds, batch: int, threads: int | None
) -> dict[str, Order]:
    """Of the tensors of these layers. tensors: layer -> tensor; maps: layers that are convolutions, whose axis 0 it is.

    batch: that the network will be run at. Raises InputError for a layer whose rows do not come with the samples.
    """
    if batch == 1:
        return {name: Order() for name in tensors}
    shapes = graph.shapes(batch)
    other = {} if static_batch(graph.inputs()) else _shapes_or_none(graph, batch + 1)
    ways = {
        name: [
            axis
            for axis in _axes(shapes[tensor], other.get(tensor), batch)
            if axis == 0 or (name not in maps and axis < len(shapes[tensor]) - 1)
        ]
        for name, tensor in tensors.items()
    }
    if lost := next((name for name, axes in ways.items() if not axes), None):
        shape = "x".join(map(str, shapes[tensors[lost]]))
        law = f"layer '{lost}' gives {shape} for {batch} samples, and nothing is fitted where rows come with no sample"
        raise InputError(f"{law}: leave it out with --ignore {lost}")
    orders = {name: Order(axes[0]) for name, axes in ways.items()}
    open_ = {n: axes for n, axes in ways.items() if len(axes) > 1 or shapes[tensors[n]][axes[0]] != batch}
    if not open_:
        return orders
    size = batch if static_batch(graph.inputs()) else 2
    same, changed = _two_runs(graph, sorted({tensors[name] for name in open_}), feeds, size, threads)
    for name, axes in open_.items():
        tensor = tensors[name]
        orders[name] = told(same[tensor], changed[tensor], axes, size) or Order(axes[0], told=False)
    return orders


def _shapes_or_none(graph: Graph, batch: int) -> Mapping[str, Shape]:
    try:
        return graph.shapes(batch)
    except InputError:  # the model takes no such batch
        return {}


def _axes(shape: Shape, other: Shape | None, batch: int) -> list[int]:
    """The axes that may be that of the samples. other: the shape with one sample more, None where it is not known."""
    if other is None or len(other) != len(shape):
        return axes_of(shape, batch)
    longer = [axis for axis, size in enumerate(shape) if size != other[axis]]
    return longer if len(longer) == 1 and shape[longer[0]] * (batch + 1) == other[longer[0]] * batch else []


def _two_runs(
    graph: Graph, tensors: Sequence[str], feeds: Feeds, size: int, threads: int | None
) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
    """The tensors of the first samples, and with another sample in the place of the first."""
    runner = Runners(graph, threads)(tensors, None, size)
    feed = next(feeds.batches(max(size, LOOKED_AT)))
    fed: Feed = {spec.name: feed[spec.name] for spec in runner.inputs}
    own = dict(runner({name: rows[:size] for name, rows in fed.items()}))
    return own, runner(another_first(fed, size))
