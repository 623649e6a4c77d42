"""Steps of training that go on where they were cut off."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.02
WARM_UP = 100  # steps
LONGEST_GRADIENT = 5.0
CHECKPOINT_S = 60

Loss = Callable[[int], Any]  # step -> loss


def fit(
    modules: torch.nn.ModuleList,
    steps: int,
    loss: Loss,
    state: Path,
    after: Callable[[int, float], None] = lambda *_: None,
) -> float:
    """Steps of AdamW with a cosine; returns the seconds that they took.

    loss: may draw numbers that depend on the step alone, so that a run that was cut off goes on as if it never was.
    state: file that the steps done are kept in. after: called after every step with how many are done and the seconds.
    """
    optimizer = torch.optim.AdamW(modules.parameters(), weight_decay=WEIGHT_DECAY)
    first, spent = restore(state, modules, optimizer)
    saved = time.perf_counter()
    for step in range(first, steps):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), LONGEST_GRADIENT)
        optimizer.step()
        now = time.perf_counter()
        spent += now - start
        if step % 20 == 19 or step + 1 == steps:
            print(f"{state.stem} {step + 1}/{steps}: loss {value.item():.3f}, {spent / 60:.1f} minutes", flush=True)
        after(step + 1, spent)
        if now - saved > CHECKPOINT_S or step + 1 == steps:
            keep(state, modules, optimizer, step + 1, spent)
            saved = now
    return spent


def rate(step: int, steps: int) -> float:
    """Learning rate of a step: a rise over `WARM_UP` steps, then half a cosine to 0."""
    return LEARNING_RATE * min((step + 1) / WARM_UP, 1.0) * (1 + math.cos(math.pi * step / steps)) / 2


def keep(state: Path, modules: torch.nn.ModuleList, optimizer: Any, step: int, spent: float) -> None:
    """Write the state under another name first, so that a kill leaves a whole file."""
    fresh = state.with_suffix(".new")
    torch.save({"modules": modules.state_dict(), "optimizer": optimizer.state_dict(), "done": (step, spent)}, fresh)
    fresh.replace(state)


def restore(state: Path, modules: torch.nn.ModuleList, optimizer: Any) -> tuple[int, float]:
    """Loads the state; returns the steps that are done and their seconds, 0 where there is no file."""
    if not state.exists():
        return 0, 0.0
    found = torch.load(state)
    modules.load_state_dict(found["modules"])
    optimizer.load_state_dict(found["optimizer"])
    step, spent = found["done"]
    return step, spent
