"""Rows of benchmarks, made up for tests, and what holds for every page that is drawn from rows."""

from __future__ import annotations

import re

from benchmarks.results.rows import Row

SPEED: list[Row] = [  # of benchmarks.speed
    {
        "network": "vgg16",
        "condition": condition,
        "threads": threads,
        "batch": 1,
        "pipeline": pipeline,
        "times_fewer": 2.0 if pipeline else 1.0,
        "ms": 1.0,
        "speedup": speedup,
        "spread": [speedup, speedup],
    }
    for condition, threads, pipeline, speedup in (
        ("f32", 1, "", 1.0),
        ("f32", 1, "sd", 1.5),
        ("f32", 2, "sd", 2.5),
        ("int8", 1, "sd", 0.75),
    )
]
PLANS_TIMED: list[Row] = [  # of benchmarks.plans_timed
    {
        "precision": precision,
        "pipeline": "sd",
        "times_fewer": 4.0,
        "drop": 0.5,
        "speedup": 3.0,
        "spread": [2.5, 3.25],
        "threads": threads,
        "batch": 1,
    }
    for threads in (None, 1)
    for precision in ("f32", "bf16")
]

INTEL = "Intel AVX-512"


def on_intel(found: list[Row], times: float) -> list[Row]:
    """The same rows as another CPU would give them, so many times as fast beside the original."""
    return [{**row, "cpu": INTEL, "speedup": times * row["speedup"]} for row in found]


def assert_tables_are_even(text: str) -> None:
    """As many cells in every row of a table, and no row that ran into another one."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table
