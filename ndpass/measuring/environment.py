"""What a latency depends on besides the model: this CPU and these versions."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from ndpass.measuring.openvino_core import shared_core

FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd")


@dataclass(frozen=True)
class Environment:
    """threads: None leaves them to the runtimes; affinity: the CPUs that this process may use."""

    cpu: str
    features: tuple[str, ...]
    capabilities: tuple[str, ...]  # what OpenVINO finds this CPU fit for
    threads: int | None
    affinity: tuple[int, ...]
    system: str
    python: str
    openvino: str
    onnxruntime: str


def environment(threads: int | None = None) -> Environment:
    """This machine and these versions."""
    import onnxruntime as ort
    import openvino as ov

    core = shared_core()
    return Environment(
        cpu=str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip(),
        features=cpu_features(),
        capabilities=tuple(sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))),
        threads=threads,
        affinity=affinity(),
        system=platform.platform(),
        python=platform.python_version(),
        openvino=ov.__version__,
        onnxruntime=ort.__version__,
    )


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those of FEATURES that the kernel lists; none where there is no such list, as on macOS and Windows."""
    if not cpuinfo.is_file():
        return ()
    lines = (line for line in cpuinfo.read_text().splitlines() if line.lower().startswith(("flags", "features")))
    flags = next(lines, "").split()
    return tuple(feature for feature in FEATURES if feature in flags)


def affinity() -> tuple[int, ...]:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


STATUS = Path("/proc/self/status")


def peak_memory_bytes() -> int | None:
    """The most memory that this process has held so far; None on Windows."""
    if sys.platform == "win32":
        return None
    if STATUS.is_file():  # Linux; getrusage there counts what the parent held when it started this process, too
        lines = (line.split() for line in STATUS.read_text().splitlines())
        peak = next((int(words[1]) for words in lines if words[:1] == ["VmHWM:"]), None)
        if peak is not None:
            return 1024 * peak
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used  # bytes on macOS, kB elsewhere
