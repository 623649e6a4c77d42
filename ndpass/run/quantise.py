"""int8 on top of the passes, by NNCF (the extra `int8`)."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ndpass.calibration.feeds import Feed, Feeds
from ndpass.errors import UsageError, blaming
from ndpass.graph.input_spec import StaticBatch, filled, single, static_batch
from ndpass.graph.openvino.fold import fold_and_unpack
from ndpass.graph.openvino.port_names import port_name
from ndpass.measuring.openvino_core import read_model

if TYPE_CHECKING:
    import openvino as ov

    from ndpass.graph.input_spec import InputSpec

SAMPLES = 300  # what NNCF looks at unless told otherwise


def check_nncf() -> None:
    """Raise UsageError where NNCF is not installed."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import nncf  # noqa: F401 - only whether it is there
    except ImportError as e:
        raise UsageError(f"--int8 quantises with NNCF, which is not there ({e}): pip install 'ndpass[int8]'") from e


def quantise(model: Path | bytes | ov.Model, feeds: Feeds, inputs: Sequence[InputSpec]) -> ov.Model:
    """The model (a file, ONNX in bytes, or in memory) in int8 by NNCF, with ranges from SAMPLES evenly spread samples.

    inputs: what the model takes. Constants are folded first: NNCF looks for the channels of a depthwise weight on the
    axis where they are then.
    Raises InputError where OpenVINO or NNCF refuses the model.
    """
    import nncf
    import openvino as ov

    with blaming("the model that is to be quantised: OpenVINO cannot read it"):
        read = model.clone() if isinstance(model, ov.Model) else read_model(model)
    fold_and_unpack(read)
    order = [port_name(port) for port in read.inputs]
    batch = static_batch(inputs)
    taken = feeds.take(np.linspace(0, len(feeds) - 1, min(SAMPLES, len(feeds)), dtype=np.intp))  # may be class by class
    # by number: NNCF runs a model that it has changed, whose tensors may go by other names
    items = [
        {i: _whole(feed, batch, inputs)[name] for i, name in enumerate(order)}
        for feed in taken.batches(batch.size if batch else 1)
    ]
    with _silenced(logging.getLogger("nncf")), blaming("the model cannot be quantised: NNCF"):
        return nncf.quantize(read, nncf.Dataset(items), subset_size=len(items))


def _whole(feed: Feed, batch: StaticBatch | None, inputs: Sequence[InputSpec]) -> Feed:
    """The samples as the model takes them, a batch of a fixed size filled up."""
    return single({n: filled(v, batch.size) if batch else v for n, v in feed.items()}, inputs)


@contextlib.contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    """Progress bars and all but errors; both go to stdout, where results are."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
