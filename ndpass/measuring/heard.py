"""A model whose inferences are heard of, for progress."""

from __future__ import annotations

from ndpass.listener import Listener, Step, tell
from ndpass.measuring.runtime import Feed, Outputs, Runner


class Heard:
    """A runner that tells a listener of each batch."""

    def __init__(self, runner: Runner, listen: Listener, stage: str, batches: int) -> None:
        self._runner, self._listen, self._stage, self._batches = runner, listen, stage, batches
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self._done = 0

    def __call__(self, feed: Feed) -> Outputs:
        tell(self._listen, Step(self._stage, self._done, self._batches))
        self._done += 1
        return self._runner(feed)
