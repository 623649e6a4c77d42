"""What is heard of a cluster while it works: workers, shards done, bytes moved."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ndpass.listener import Listener, Step, Watcher, expect, tell


class Progress(Watcher):
    """Hands on what happens; while a step waits for a cluster, the step is told again with how far the cluster is."""

    def __init__(self, listen: Listener) -> None:
        self._listen, self._now = listen, Step("", 0, 0)
        self._parts: Sequence[Any] = ()
        self.sent = self.came = 0  # bytes, from here and to here
        self._lock = threading.RLock()

    def step(self, now: Step) -> None:
        with self._lock:
            if now.total:
                self._now = now
            tell(self._listen, now)

    def expect(self, seconds: Mapping[str, float]) -> None:
        expect(self._listen, seconds)

    def say(self, text: str) -> None:
        """News."""
        self._listen(text, 0, 0)

    def moved(self, *, sent: int = 0, came: int = 0) -> None:
        """So many bytes were sent from here, or came here."""
        with self._lock:
            self.sent, self.came = self.sent + sent, self.came + came

    @property
    def bytes(self) -> int:
        """That were moved so far."""
        return self.sent + self.came

    def watch(self, parts: Sequence[Any]) -> None:
        """The shards that are under way: futures."""
        self._parts = parts

    def tell(self, workers: int) -> None:
        """Say how far they are."""
        done = sum(part.status == "finished" for part in self._parts)
        text = f"{workers} worker{'' if workers == 1 else 's'}, {self.bytes / 1e6:.0f} MB moved"
        if self._parts:
            text = f"{done} of {len(self._parts)} shards, {text}"
        if self._now.total:
            layer = f"{self._now.layer}: {text}" if self._now.layer else text
            with self._lock:  # several layers may be waited for, each in a thread
                tell(self._listen, replace(self._now, layer=layer))
