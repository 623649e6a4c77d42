"""A page for a browser: one file, which needs no network and can be read without JavaScript, printed and sorted.

What a page says is made by `html_report` and `study_pages`; here is what it can be made of. All text is escaped by the
template, for names of layers come from models of anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ndpass.run.figures import printable
from ndpass.run.next_steps import NextStep
from ndpass.version import VERSION

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = Path(__file__).with_name("page.html.j2")
Tone = Literal["", "good", "bad"]


@dataclass(frozen=True)
class Card:
    """A figure at the top: what it is of, the figure, its spread or unit in small letters."""

    label: str
    value: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Cell:
    """text: as it is read; number: what it is sorted by, None for its text; kind: its colour; bar: 0 to 1 of a bar."""

    text: str
    number: float | None = None
    kind: str = ""
    bar: float | None = None


@dataclass(frozen=True)
class Table:
    """numbers: the columns that are aligned to the right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[int] = frozenset()

    @classmethod
    def of(cls, heads: Sequence[str], rows: Sequence[Sequence[Cell]], numbers: Sequence[str] = ()) -> Table:
        """Without the columns that are empty everywhere. numbers: the heads of those aligned to the right."""
        used = [i for i in range(len(heads)) if any(row[i].text or row[i].bar is not None for row in rows)]
        right = frozenset(place for place, i in enumerate(used) if heads[i] in numbers)
        return cls([heads[i] for i in used], [[row[i] for i in used] for row in rows], right)


@dataclass(frozen=True)
class Segment:
    """A layer in a bar. start, width: shares of the longer bar, 0 to 1; kind: its colour; title: what it says."""

    start: float
    width: float
    kind: str
    title: str


@dataclass(frozen=True)
class Bar:
    """A network, layer after layer."""

    label: str
    segments: Sequence[Segment]


@dataclass(frozen=True)
class Point:
    """A point of a picture, in the units of its axes."""

    x: float
    y: float
    title: str
    kind: str = ""


@dataclass(frozen=True)
class Scatter:
    """Points between two axes that are named. limit: a height that is marked, with its name."""

    x: str
    y: str
    points: Sequence[Point]
    limit: tuple[float, str] | None = None

    def placed(self) -> list[tuple[float, float, Point]]:
        """Each point's place in a square of 0 to 1, y upwards."""
        xs, ys = self.ranges
        return [(_place(p.x, xs), _place(p.y, ys), p) for p in self.points]

    @property
    def ranges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """What the axes reach from and to."""
        heights = [p.y for p in self.points] + ([self.limit[0]] if self.limit else [])
        return _range([p.x for p in self.points]), _range(heights)

    @property
    def height_of_limit(self) -> float:
        """Where the limit is, 0 to 1."""
        return _place(self.limit[0], self.ranges[1]) if self.limit else 0.0


@dataclass(frozen=True)
class Picture:
    """source: a data address; name: what it is of; note: what is said below it."""

    source: str
    name: str
    note: str


@dataclass(frozen=True)
class Section:
    """What stands under one heading; only what is given is shown."""

    heading: str
    text: Sequence[str] = ()
    table: Table | None = None
    bars: Sequence[Bar] = ()
    legend: Sequence[tuple[str, str]] = ()  # kind -> what it means
    scatter: Scatter | None = None
    pictures: Sequence[Picture] = ()
    steps: Sequence[NextStep] = ()


@dataclass(frozen=True)
class Page:
    """title: of the window and the page; lead: a sentence below it."""

    title: str
    lead: str
    cards: Sequence[Card] = ()
    sections: Sequence[Section] = field(default_factory=tuple)

    def html(self) -> str:
        """The page as a file has it."""
        return _template().render(page=self, version=VERSION)


def segments(sizes: Sequence[float], total: float, kinds: Sequence[str], titles: Sequence[str]) -> list[Segment]:
    """One for each size, behind each other; total: of the longest bar that they are drawn beside."""
    made, start = [], 0.0
    for size, kind, title in zip(sizes, kinds, titles, strict=True):
        width = size / total if total else 0.0
        made.append(Segment(start, width, kind, title))
        start += width
    return made


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the largest, with some room; never empty."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.5 * abs(high) or 1.0
    return low - room, high + room


def _place(value: float, ends: tuple[float, float]) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["printable"] = printable
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
