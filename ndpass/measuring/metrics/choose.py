"""A metric by its name, or the one that goes with the kind of a model's outputs, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ndpass.errors import UsageError, did_you_mean
from ndpass.measuring.class_scores import FEWEST
from ndpass.measuring.metrics import kinds
from ndpass.measuring.metrics.boxes import SCORE
from ndpass.measuring.metrics.classes import Accuracy, SameClass, SameReading
from ndpass.measuring.metrics.detection import F1
from ndpass.measuring.metrics.maps import MeanIou
from ndpass.measuring.metrics.named import NamedMetric
from ndpass.measuring.metrics.seen import Seen
from ndpass.measuring.metrics.values import Explained, Psnr, decibels


def checked_name(metric: str) -> str:
    """The metric as it was typed: one of NAMES or module:function. Raises UsageError for anything else."""
    if metric in NAMES or ":" in metric:
        return metric
    raise UsageError(f"--metric {metric}: give {', '.join(NAMES)} or module:function{did_you_mean(metric, NAMES)}")


def default_metric(seen: Seen) -> NamedMetric:
    """The metric that goes with the outputs: detection, top1 or agreement, iou, psnr, else explained.

    Labels count only where an output can be class scores.
    """
    for build in (_detection, _classes, _sequence, _iou, _psnr):
        if (found := build(seen)) is not None:
            return found
    return _explained(seen)


def named_metric(name: str, seen: Seen) -> NamedMetric:
    """The metric with this name, one of NAMES, on these outputs.

    Raises UsageError where the outputs or the data do not allow it.
    """
    found = BUILDERS[name](seen)
    if found is None:
        outputs = ", ".join(f"'{output}' {seen.shape(output)}" for output in seen.names)
        fitting = default_metric(seen).name
        raise UsageError(f"--metric {name} needs {NEEDS[name]}; the model gives {outputs}: use --metric {fitting}")
    return found


def _detection(seen: Seen) -> NamedMetric | None:
    layout = kinds.layout(seen)
    if layout is None:
        return None
    reason = f"{layout.reason}; boxes with a score above {SCORE:g} count"
    return NamedMetric("detection", reason, partial(F1, layout), layout.one_by_one)


def _classes(seen: Seen) -> NamedMetric | None:
    return _agreement_of_classes(seen) if seen.labels is None else _accuracy("top1", 1, seen)


def _accuracy(name: str, k: int, seen: Seen) -> NamedMetric | None:
    output, labels = kinds.class_output(seen), seen.labels
    if labels is None:
        raise UsageError(f"--metric {name} needs labels and the data have none: give labels, or use --metric agreement")
    if output is None:
        return None
    heads, _ = kinds.class_heads(seen, output)
    others = f"; {_quoted(heads[1:])} {'is' if len(heads) == 2 else 'are'} too and not measured" if heads[1:] else ""
    reason = f"the data have labels, output '{output}' {seen.shape(output)} is class scores{others}"
    shown = "accuracy" if k == 1 else name
    return NamedMetric(name, reason, lambda: Accuracy(shown, output, k, labels))


def _agreement_of_classes(seen: Seen, asked: bool = False) -> NamedMetric | None:
    output = kinds.class_output(seen, asked)
    if output is None:
        return None
    heads, alike = kinds.class_heads(seen, output)
    labels = "no labels, " if seen.labels is None else ""
    shapes = " and ".join(", ".join(part) for part in _but_last([f"'{name}' {seen.shape(name)}" for name in heads]))
    are = "is class scores" if len(heads) == 1 else "are class scores, and a sample counts where all agree"
    left = f"; {_quoted(alike)} {'answers' if len(alike) == 1 else 'answer'} alike" if alike else ""
    reason = f"{labels}output{'s' * (len(heads) > 1)} {shapes} {are}{left}"
    return NamedMetric("agreement", reason, lambda: SameClass(heads))


def _but_last(words: list[str]) -> list[list[str]]:
    return [part for part in (words[:-1], words[-1:]) if part]


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _sequence(seen: Seen) -> NamedMetric | None:
    return _reading(seen, kinds.sequence_output(seen), "is class scores")


def _agreement(seen: Seen) -> NamedMetric | None:
    """Scores that do not sum to one may be anything, so that they are taken for classes only where that is asked."""
    asked = _reading(seen, kinds.any_sequence_output(seen), "is taken for class scores, as asked,")
    return _agreement_of_classes(seen) or _sequence(seen) or _agreement_of_classes(seen, asked=True) or asked


def _reading(seen: Seen, output: str | None, what: str) -> NamedMetric | None:
    if output is None:
        return None
    reason = f"output '{output}' {seen.shape(output)} {what} at each place of a sequence"
    return NamedMetric("agreement", reason, lambda: SameReading(output, seen.batch_axis(output) or 0))


def _iou(seen: Seen) -> NamedMetric | None:
    found = kinds.mask_output(seen)
    if found is None:
        return None
    return NamedMetric("iou", found.what, lambda: MeanIou(found.output, found.axis, found.threshold))


def _psnr(seen: Seen) -> NamedMetric | None:
    outputs = kinds.picture_outputs(seen)
    if not outputs:
        return None
    return _psnr_of(seen, outputs, f"output '{outputs[0]}' {seen.shape(outputs[0])} is a picture;")


def _any_psnr(seen: Seen) -> NamedMetric | None:
    outputs = kinds.picture_outputs(seen) or [name for name in seen.names if seen.is_float(name)]
    return _psnr_of(seen, outputs, "as asked;") if outputs else None


def _psnr_of(seen: Seen, outputs: list[str], why: str) -> NamedMetric:
    plain = min((_plain(seen, name) for name in outputs if name in seen.added), default=None)
    reason = f"{why} in dB below those of equal pictures, 100"
    if plain is not None:
        reason += f"; plain interpolation of the input has {plain:.1f}"
    return NamedMetric("psnr", reason, lambda: Psnr(outputs), plain=plain)


def _plain(seen: Seen, name: str) -> float:
    """The dB of the input, interpolated and regressed to the output."""
    return decibels(seen.added[name], sum(value.size for value in seen.all(name)), *seen.range(name))


def _explained(seen: Seen) -> NamedMetric:
    outputs = ", ".join(f"'{name}' {seen.shape(name)}" for name in seen.names)
    few = [name for name in kinds.tables(seen) if seen.first(name).shape[1] < FEWEST]
    hint = " (--metric agreement where they are classes)" if few else ""
    kind = f"neither class scores{hint}, boxes, masks nor pictures"
    reason = f"{outputs}: {kind}; 100 minus the worst output's error in per cent"
    return NamedMetric("explained", reason, lambda: Explained(seen.added))


BUILDERS: dict[str, Callable[[Seen], NamedMetric | None]] = {
    "top1": partial(_accuracy, "top1", 1),
    "top5": partial(_accuracy, "top5", 5),
    "agreement": _agreement,
    "iou": _iou,
    "psnr": _any_psnr,
    "detection": _detection,
    "explained": _explained,
}
NAMES = tuple(BUILDERS)
NEEDS = {
    "top1": "class scores (samples, classes)",
    "top5": "class scores (samples, classes)",
    "agreement": "class scores (samples, classes), or of a sequence (samples, places, classes)",
    "iou": "masks (samples, maps, height, width)",
    "psnr": "an output of floating point",
    "detection": "boxes and scores",
}
