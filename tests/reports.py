"""A report of two layers, as a run makes it."""

from __future__ import annotations

from typing import Any

from ndpass.report import Latency, Layer, Machine, MetricChange, ModelSize, Report, Seconds, Verified


def report(**changes: Any) -> Report:
    """conv[1] rewritten and fc left alone; changes: fields that are others."""
    full: dict[str, Any] = {
        "ndpass": "0.1.0",
        "passes": ["cd", "nd"],
        "budget": {"max_drop": 1.0},
        "target": Machine(cpu="Some CPU", precision="f32", threads=None, batch=1, openvino="2026.4"),
        "model": ModelSize(macs=(15_350_000_000, 313_000_000), params=(138_000_000, 20_000_000), bytes=(553, 80)),
        "metric": MetricChange(name="accuracy", before=91.5, after=91.25, samples=400),
        "latency_ms": Latency(before=8.34, after=3.1, speedup=2.7, spread=(2.5, 2.9)),
        "seconds": Seconds(calibrate=1, plan=2, rewrite=3, verify=4, total=10),
        "peak_memory_bytes": 2_000_000_000,
        "layers": [
            Layer(
                name="conv[1]",
                op="Conv",
                shape="64x64x3x3",
                status="done",
                macs=(1_850_000_000, 462_500_000),
                setting={"cd": {"rank": 64}, "nd": {"rank": 2, "form": "dw-pw"}},
                latency_us=(120.0, 60.5),
                latency_predicted_us=58.7,
                error_predicted=0.05,
                error_measured=0.0512,
            ),
            Layer(name="fc", op="Gemm", status="skipped", reason="no pass takes Gemm", macs=(4_096_000, 4_096_000)),
        ],
        "verified": {"onnxruntime": Verified(samples=32, relative_error=1e-6, top1_agreement=100.0)},
    }
    return Report(**(full | changes))
