"""What is called as work goes on: (stage, steps done, steps in all)."""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, int, int], None]  # stage, steps done, steps in all
