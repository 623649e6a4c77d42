"""Numbers, names and settings as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndpass.report import Refinement

PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
ARROW = " -> "


def human(number: float, unit: str = "") -> str:
    """Three or four digits with a decimal prefix: 15.35 G, 313 M, 1.20 kB, 42."""
    for size, prefix in PREFIXES:
        if abs(number) >= 0.9995 * size:  # what would be rounded to 1000 of the smaller prefix
            value = number / size
            return f"{value:.0f} {prefix}{unit}" if abs(value) >= 99.995 else f"{value:.2f} {prefix}{unit}"
    return f"{number:.0f} {unit}".rstrip()


def change(pair: tuple[int, int], unit: str = "") -> str:
    """15.35 G -> 4.10 G (26.7 %)"""
    before, after = pair
    share = f" ({100 * after / before:.1f} %)" if before else ""
    return f"{human(before, unit)}{ARROW}{human(after, unit)}{share}"


def setting_text(setting: Mapping[str, Mapping[str, Any]]) -> str:
    """As the command line takes it: cd:rank=64 nd:rank=2:form=dw-pw"""
    return " ".join(":".join([name, *(f"{k}={v}" for k, v in options.items())]) for name, options in setting.items())


def refinement_text(done: Refinement) -> str:
    """20 epochs in 312 s on 4500 images, KL at temperature 2 0.814 -> 0.312 held out: kept, the held-out figure fell"""
    verdict = f"{'kept' if done.kept else 'not kept'}: {done.reason}"
    if done.epochs is None or done.before is None:
        return verdict
    after = "not finite" if done.after is None else f"{done.after:.3g}"
    length = f"{done.epochs:.3g} epochs in {done.seconds or 0:.0f} s on {done.images} samples"
    return f"{length}, {done.measure} {done.before:.3g}{ARROW}{after} held out{_factors(done)}; {verdict}"


def _factors(done: Refinement) -> str:
    """orthonormal factors: 12, penalty 3.1 -> 0.02"""
    found = done.orthonormal
    if found is None:
        return ""
    if not found.factors:
        return ", no pointwise factor of low rank to be held orthonormal"
    return f", orthonormal factors: {found.factors}, penalty {found.before:.3g}{ARROW}{found.after:.3g}"


def printable(text: str) -> str:
    """The text without characters that move the cursor or change the terminal: names come from files."""
    return "".join(c if c.isprintable() else "?" for c in text)
