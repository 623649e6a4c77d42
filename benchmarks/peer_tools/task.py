"""What a tool is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from ndpass.calibration.feeds import Feeds, open_feeds
from ndpass.calibration.preprocess import Preprocess
from ndpass.graph.graph import Graph

SAMPLES = 300  # calibration images that a tool other than ndpass looks at


@dataclass(frozen=True)
class Task:
    """A model to make faster, and where the result goes."""

    model: Path
    out: Path
    setting: str
    calibration: Path
    validation: Path
    preprocess: str
    samples: int | None
    threads: int | None

    def feeds(self, samples: int | None) -> Feeds:
        """So many of the calibration data; None: all."""
        proto = onnx.load(self.model)
        return open_feeds(self.calibration, Graph(proto).inputs(), Preprocess.parse(self.preprocess), samples=samples)

    def share(self) -> float:
        """The share of the MACs in a setting such as macs=0.8."""
        return float(self.setting.removeprefix("macs="))
