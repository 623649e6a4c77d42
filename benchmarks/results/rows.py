"""Rows of figures in benchmarks/results: added as they come, so that a run that was interrupted goes on where it was.

A row that holds times says on which kind of CPU they were measured, `cpu`. Rows of one kind never replace those of
another, and no table or picture mixes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ndpass.files.staging import write_bytes
from ndpass.measuring.environment import environment

RESULTS = Path(__file__).parent
FIRST_CPU = "AMD AVX-512"  # the kind that rows from before `cpu` were measured on, and that docs/results.md shows
UNSAID = {"seed": 0, "cpu": FIRST_CPU}  # what a row stands for where it does not say so
TIMED = (  # names of the files whose rows hold times, or what they begin with
    "budget_timed_",
    "cost",
    "curves_timed_",
    "lazy",
    "max_drop_",
    "peers_timed_",
    "plans_timed_",
    "prediction",
    "real",
    "same_latency",
    "scaling",
    "speed",
)

Row = dict[str, Any]


def read(name: str) -> list[Row]:
    """All rows of benchmarks/results/<name>.json; none if there is no such file."""
    path = RESULTS / f"{name}.json"
    found: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found


def known(name: str, key: Row) -> list[Row]:
    """The rows whose entries are those of `key`."""
    return [row for row in read(name) if all(row.get(k, UNSAID.get(k)) == v for k, v in key.items())]


def latest(found: Iterable[Row], keys: Sequence[str]) -> list[Row]:
    """The last of the rows that agree in `keys` and in their CPU, in the order in which the first ones came."""
    return list({(cpu_of(row), *(row.get(key) for key in keys)): row for row in found}.values())


def add(name: str, *rows: Row) -> None:
    """Appends rows, each with where it comes from. Reads the file again: another run may have added some."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps([*read(name), *({**row, "about": about()} for row in rows)], indent=1) + "\n"
    write_bytes(RESULTS / f"{name}.json", lambda file: file.write(text.encode()))


def by_name(text: str, *paths: Path | None) -> str:
    """The text with these files by their names alone: folders are the machine's own."""
    folders = {str(path.parent) for path in paths if path and path.parent != Path()}
    for folder in sorted(folders, key=len, reverse=True):  # one may lie in another
        text = text.replace(f"{folder}{os.sep}", "")
    return text


@cache
def cpu() -> str:
    """Kind of this CPU, a key of rows that hold times: its maker and the newest instructions that runtimes use."""
    found = environment()
    maker = next((maker for maker in ("AMD", "Intel") if maker in found.cpu), found.cpu)
    newest = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
    return f"{maker} {next((name for flag, name in newest.items() if flag in found.features), '')}".strip()


def cpu_of(row: Row) -> str:
    """Kind of the CPU that a row was measured on."""
    return str(row.get("cpu", FIRST_CPU))


def cpus(found: Iterable[Row]) -> list[str]:
    """The kinds of CPU that the rows were measured on: FIRST_CPU, then the others in the order in which they came."""
    kinds = dict.fromkeys(cpu_of(row) for row in found)
    return sorted(kinds, key=lambda kind: kind != FIRST_CPU)


def of_cpu(found: Iterable[Row], kind: str) -> list[Row]:
    """The rows that were measured on this kind of CPU."""
    return [row for row in found if cpu_of(row) == kind]


@cache
def about() -> str:
    """CPU, versions and command in a line: what somebody needs to run it again."""
    found = environment()
    kept = [Path(a).name if os.sep in a else a for a in sys.argv[1:]]  # files by name: folders are the machine's own
    command = " ".join(["python -m", _module(), *kept])
    return (
        f"{found.cpu} ({' '.join(found.features)}), {os.cpu_count()} cores, OpenVINO {found.openvino.split('-')[0]}, "
        f"onnxruntime {found.onnxruntime}, Python {found.python}, ndpass {version('ndpass')} {_commit()}: {command}"
    )


def _module() -> str:
    """The command that runs, as `python -m` takes it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec and spec.name.startswith("benchmarks.") else f"benchmarks.{Path(sys.argv[0]).stem}"


def _commit() -> str:
    """Of the checkout; empty outside of one."""
    command = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
