"""The pages drawn from the rows: docs/results.md, and docs/results_other_cpus.md for other kinds of CPU.

Words are in results.md.j2, every figure comes from the rows. A section whose files have no rows is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from benchmarks.networks import paper
from benchmarks.results import real_table, rows, summary
from benchmarks.results.pictures import named as picture_of
from benchmarks.results.rows import FIRST_CPU, TIMED, Row, latest

TEMPLATE = "results.md.j2"
PICTURES = "../benchmarks/results"  # as seen from docs/
QUICK = "_quick"
COMMANDS = ("ranks_", "depth_", "inspect_")  # files that `ndpass ... --json` wrote
NAMES = {
    "vgg16_cifar10": "VGG16 for CIFAR-10",
    "resnet20_cifar10": "ResNet-20 for CIFAR-10",
    "vgg16": "VGG16",
    "ssd300": "SSD300",
}
DROPS = {"resnet20_cifar10": (1.0, 1.4)}  # points that the table of fewer MACs is read at, where not at one alone
FAMILIES = {"vgg": "VGG", "resnet": "ResNet-"}
Files = dict[str, Any]  # name of a file without its ending -> its rows


def read(folder: Path) -> Files:
    """The rows of every file; not what --quick left, nor candidates that are kept, which are no results."""
    names = sorted(path for path in folder.glob("*.json") if not path.stem.endswith(QUICK))
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in names
        if not path.stem.startswith("candidates")
    }


def results_page(found: Files) -> str:
    """The page of the results: accuracy, and the times of the first kind of CPU."""
    kept = {
        name: rows.of_cpu(own, FIRST_CPU) if name.startswith((*TIMED, "peers_", "refine_")) else own
        for name, own in found.items()
    }
    kept = {name: own for name, own in kept.items() if own}
    return f"# Results\n\n{_rendered(kept, FIRST_CPU, others(found))}\n"


def others_page(found: Files) -> str:
    """The page of the other kinds of CPU, a section each; empty where there are none."""
    texts = {cpu: _rendered(timed_on(found, cpu), cpu, []) for cpu in others(found)}
    parts = [f"## {cpu}\n\n{re.sub('^##', '###', text, flags=re.MULTILINE)}\n" for cpu, text in texts.items()]
    return "\n".join(["# Times on other kinds of CPU\n", *parts]) if parts else ""


def others(found: Files) -> list[str]:
    """The kinds of CPU that there are times of, but for the first one."""
    timed = (row for name, own in found.items() if name.startswith(TIMED) for row in own)
    return [cpu for cpu in rows.cpus(timed) if cpu != FIRST_CPU]


def timed_on(found: Files, cpu: str) -> Files:
    """The rows with times of this kind of CPU; of peers that were timed on it also the accuracy, which has no CPU."""
    kept = {name: rows.of_cpu(own, cpu) for name, own in found.items() if name.startswith(TIMED)}
    for name in [name for name, own in kept.items() if own and name.startswith("peers_timed_")]:
        peers = name.replace("_timed", "")
        kept[peers] = summary.peers_of(found[peers], cpu)
    return {name: own for name, own in kept.items() if own}


def _rendered(files: Files, cpu: str, elsewhere: Sequence[str]) -> str:
    """The template for rows of one kind of CPU; elsewhere: the other kinds, which are pointed at."""
    own = [kept for name, kept in files.items() if not name.startswith(COMMANDS)]
    text = _template().render(
        files=files,
        of=lambda kind: of(files, kind),
        picture=lambda name: f"{PICTURES}/{picture_of(name, cpu)}.svg",
        first=cpu == FIRST_CPU,
        elsewhere=elsewhere,
        machines=machines(own),
        untold=sum("about" not in row for kept in own for row in kept),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"fixed": fixed, "span": span, "named": named, "quoted": quoted}
    environment.filters |= {"latest": latest, "median": median}
    environment.globals |= {
        "summary": summary,
        "real_table": real_table,
        "PAPER": paper.TIMES_FEWER,
        "DROPS": DROPS,
        "FIRST_CPU": FIRST_CPU,
    }
    return environment.get_template(TEMPLATE)


def of(files: Mapping[str, Any], kind: str) -> dict[str, list[Row]]:
    """Model -> rows of the files `<kind>_<model>`, those first that have a name in NAMES."""
    own = {name[len(kind) + 1 :]: found for name, found in files.items() if name.startswith(f"{kind}_")}
    return dict(sorted(own.items(), key=lambda item: [*NAMES, item[0]].index(item[0])))


def machines(files: Iterable[Sequence[Row]]) -> list[str]:
    """CPU and versions of the rows that say where they come from, without ndpass' own version and the command."""
    said = (row["about"].partition(", ndpass ")[0] for found in files for row in found if "about" in row)
    return list(dict.fromkeys(said))


def fixed(value: float, digits: int = 0) -> str:
    """With so many digits behind the point, thousands with a comma."""
    return f"{value:,.{digits}f}"


def span(values: Sequence[float], digits: int = 2) -> str:
    """From the first to the last; one number where they are the same to so many digits."""
    first, last = fixed(values[0], digits), fixed(values[-1], digits)
    return first if first == last else f"{first}–{last}"


def quoted(budget: str) -> str:
    """Options as code; without any the settings are pinned."""
    return f"`{budget}`" if budget else "pinned settings"


def named(model: str) -> str:
    """A model as one would write it; `benchmarks.networks.by_name` says how networks are called by their sizes."""
    found = re.fullmatch(r"(vgg|resnet)(\d+)(?:x([\d.]+))?_(\d+)", model)
    if found is None:
        return NAMES.get(model, model)
    family, depth, width, size = found.groups()
    name = f"{FAMILIES[family]}{depth}{f' with {width} of the channels' if width else ''}"
    return f"{name} at {size}×{size}"
