"""`python -m benchmarks.readme`: README's "Results" and the pictures, drawn from benchmarks/results.

    python -m benchmarks.readme [--check]

README shows the times of one kind of CPU; those of others go to benchmarks/results/README.md, a section each. `--check`
changes nothing and exits with 1 where a page differs from what would be written.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks import options
from benchmarks.results import page, plots, rows

MINUTES = 1
README = Path(__file__).parents[1] / "README.md"


class Page(NamedTuple):
    """A page, its text and what it would be."""

    name: str
    path: Path
    before: str
    after: str


def main() -> None:
    parser = options.described(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page would change")
    check = parser.parse_args().check
    found, now = page.read(rows.RESULTS), README.read_text(encoding="utf-8")
    others = rows.RESULTS / "README.md"
    pages = [
        Page("README.md", README, now, page.updated(now, page.section(found))),
        Page("benchmarks/results/README.md", others, text_of(others), page.others_page(found)),
    ]
    changed = [one for one in pages if one.before != one.after]
    names = " and ".join(one.name for one in changed)
    if check:
        if changed:
            raise SystemExit(f"{names}: not what benchmarks/results holds: run python -m benchmarks.readme")
        return
    for name in found:
        plots.draw(name)
    for one in changed:
        one.path.write_text(one.after, encoding="utf-8")
    print(f"wrote {names}" if changed else "the pages are as they would be written")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    main()
