"""`python -m benchmarks.readme`: README's "Results" and the pictures, drawn from benchmarks/results.

    python -m benchmarks.readme [--check]

Words are in benchmarks/results.md.j2, every figure comes from the rows; what has no rows yet is left out. `--check`
changes nothing and exits with 1 where README differs from what would be written.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks import cost, plots, rows, speed, summary
from benchmarks.rows import Row, latest

FOLDER = Path(__file__).parent
README = FOLDER.parent / "README.md"
TEMPLATE = "results.md.j2"
SECTION = re.compile(r"^## Results\n.*?(?=^## )", re.MULTILINE | re.DOTALL)
QUICK = "_quick"
COMMANDS = ("ranks_", "depth_", "inspect_")  # what `ndpass ... --json` has written
NAMES = {
    "vgg16_cifar10": "VGG16 for CIFAR-10",
    "resnet20_cifar10": "ResNet-20 for CIFAR-10",
    "vgg16": "VGG16",
    "ssd300": "SSD300",
}
DROPS = {"resnet20_cifar10": (1.0, 1.4)}  # points that the table of fewer MACs is read at, where not at one alone
FAMILIES = {"vgg": "VGG", "resnet": "ResNet-"}
PAPER = {
    network: {p: speed.PAPER_ORIGINAL[network] / g for p, g in own.items()} for network, own in speed.PAPER.items()
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where README would change")
    check = parser.parse_args().check
    found, now = read(rows.RESULTS), README.read_text(encoding="utf-8")
    wanted = updated(now, render(found))
    if check:
        if wanted != now:
            raise SystemExit("README's Results are not those of benchmarks/results: run python -m benchmarks.readme")
        return
    for name in found:
        plots.draw(name)
    README.write_text(wanted, encoding="utf-8")
    print(f"wrote {README.name}" if wanted != now else f"{README.name} is as it would be written")


def read(folder: Path) -> dict[str, Any]:
    """The rows of every file by its name; what --quick left and candidates that are kept are no results."""
    names = sorted(path for path in folder.glob("*.json") if not path.stem.endswith(QUICK))
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in names
        if not path.stem.startswith("candidates")
    }


def render(found: dict[str, Any]) -> str:
    """The section, from its heading to an empty line."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"fixed": fixed, "span": span, "named": named, "quoted": quoted}
    environment.filters |= {"latest": latest, "median": median}
    own = [kept for name, kept in found.items() if not name.startswith(COMMANDS)]
    environment.globals |= {"summary": summary, "costs": cost.costs, "PAPER": PAPER, "DROPS": DROPS, "cost": cost}
    text = environment.get_template(TEMPLATE).render(
        files=found,
        of=lambda kind: of(found, kind),
        machines=machines(own),
        untold=sum("about" not in row for kept in own for row in kept),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n\n"


def updated(readme: str, section: str) -> str:
    """README with this section; SystemExit where it has none to replace."""
    if not SECTION.search(readme):
        raise SystemExit('README needs a section "## Results" with another one behind it')
    return SECTION.sub(lambda _: section, readme, count=1)


def of(found: dict[str, Any], kind: str) -> dict[str, list[Row]]:
    """Model -> rows of the files `<kind>_<model>.json`, those first that have a name of their own."""
    own = {name[len(kind) + 1 :]: rows for name, rows in found.items() if name.startswith(f"{kind}_")}
    return dict(sorted(own.items(), key=lambda item: [*NAMES, item[0]].index(item[0])))


def machines(files: Iterable[Sequence[Row]]) -> list[str]:
    """Where rows come from, that say so: CPU and versions, without ndpass' own and the command."""
    said = (row["about"].partition(", ndpass ")[0] for rows in files for row in rows if "about" in row)
    return list(dict.fromkeys(said))


def fixed(value: float, digits: int = 0) -> str:
    """In so many digits behind the point, thousands with a comma."""
    return f"{value:,.{digits}f}"


def span(values: Sequence[float], digits: int = 2) -> str:
    """From the first to the last; one number where they are the same to so many digits."""
    first, last = fixed(values[0], digits), fixed(values[-1], digits)
    return first if first == last else f"{first}–{last}"


def quoted(budget: str) -> str:
    """Options as code; without any the settings are pinned."""
    return f"`{budget}`" if budget else "pinned settings"


def named(model: str) -> str:
    """A file's name as one would write it; see benchmarks.scaling for how networks are called by their sizes."""
    found = re.fullmatch(r"(vgg|resnet)(\d+)(?:x([\d.]+))?_(\d+)", model)
    if found is None:
        return NAMES.get(model, model)
    family, depth, width, size = found.groups()
    name = f"{FAMILIES[family]}{depth}{f' with {width} of the channels' if width else ''}"
    return f"{name} at {size}×{size}"


if __name__ == "__main__":
    main()
