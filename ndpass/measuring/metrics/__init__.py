"""Metrics by name: what a model is worth beside the original, gathered batch by batch.

    seen = Seen.of(stored(original, feeds, batch), feeds, batch)
    metric = default_metric(seen)                        # or named_metric("iou", seen)
    print(metric)                                        # detection: output 'output0' (batch, 84, 2100) looks like ...
    evaluate(seen.outputs, rewritten, feeds, batch, metric.begin())

| name      | what                                                                                   | original |
|-----------|----------------------------------------------------------------------------------------|----------|
| top1      | per cent of samples whose label has the highest score                                  | measured |
| top5      | per cent of samples whose label is among the five highest scores                       | measured |
| agreement | per cent of samples, or places of a sequence, with the original's best class           | 100      |
| iou       | mean intersection over union with the original's masks, times 100                      | 100      |
| psnr      | peak signal-to-noise ratio against the original's output in dB, at most 100            | 100      |
| detection | F1 of the original's detections found again, times 100                                 | 100      |
| explained | 100 × (1 − E|y − ŷ|² / Var(y)) of the worst output or group of channels                | 100      |

All are better when higher.
"""

from ndpass.measuring.metrics.choose import NAMES, checked_name, default_metric, named_metric
from ndpass.measuring.metrics.named import NamedMetric
from ndpass.measuring.metrics.seen import Seen

__all__ = ["NAMES", "NamedMetric", "Seen", "checked_name", "default_metric", "named_metric"]
