"""`python -m benchmarks.readme`: README's figures, the pages of results and their pictures, from benchmarks/results.

    python -m benchmarks.readme [--check]

docs/results.md shows the times of one kind of CPU; those of others go to docs/results_other_cpus.md, a section each.
`--check` changes nothing and exits with 1 where a page differs from what would be written.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks import options
from benchmarks.results import headline, page, plots, rows

MINUTES = 1
ROOT = Path(__file__).parents[1]


class Page(NamedTuple):
    """A page, its text and what it would be."""

    path: Path
    before: str
    after: str


def main() -> None:
    parser = options.described(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page would change")
    check = parser.parse_args().check
    found = page.read(rows.RESULTS)
    changed = [one for one in pages(found) if one.before != one.after]
    names = " and ".join(one.path.relative_to(ROOT).as_posix() for one in changed)
    if check:
        if changed:
            raise SystemExit(f"{names}: not what benchmarks/results holds: run python -m benchmarks.readme")
        return
    for name in found:
        plots.draw(name)
    headline.draw(found)
    for one in changed:
        one.path.write_text(one.after, encoding="utf-8")
    print(f"wrote {names}" if changed else "the pages are as they would be written")


def pages(found: page.Files) -> list[Page]:
    """README, and the pages of results."""
    readme, results = ROOT / "README.md", ROOT / "docs" / "results.md"
    others = results.with_name("results_other_cpus.md")
    now = readme.read_text(encoding="utf-8")
    return [
        Page(readme, now, headline.updated(now, found)),
        Page(results, text_of(results), page.results_page(found)),
        Page(others, text_of(others), page.others_page(found)),
    ]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    main()
