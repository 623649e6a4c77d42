"""What is called as work goes on: (stage, steps done, steps in all). With 0 steps in all the text is news, no stage."""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, int, int], None]
