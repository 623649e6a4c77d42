"""`ndpass` as a process of its own that takes as few timing rounds as tests in their own process do.

`python tests/quick_command.py run model.onnx` is `ndpass run model.onnx` with a comparison of milliseconds at its end
that takes hundredths of a second on both cores in the place of whole ones: no test asks what the milliseconds are.
"""

from __future__ import annotations

import sys
from importlib import import_module

FEW_ROUNDS = (
    ("ndpass.measuring.block_latency", "SECONDS", 0.01),
    ("ndpass.planning.stand_in", "SECONDS", 0.02),
    ("ndpass.run.before_after", "SECONDS", 0.01),
    ("ndpass.run.before_after", "ROUNDS", 12),
    ("ndpass.measuring.turns", "TURN", 1e-3),
    ("ndpass.measuring.turns", "WARM_UP", 1e-3),
)


def time_briefly() -> None:
    """In this process, from now on."""
    for module, name, value in FEW_ROUNDS:
        setattr(import_module(module), name, value)


def main() -> None:
    time_briefly()
    import_module("ndpass.cli.app").main()


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, which `python -m ndpass` does not look into
    main()
