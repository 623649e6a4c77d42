"""`python -m benchmarks.machine`: which times are not measured yet on this kind of CPU, most wanted first.

    python -m benchmarks.machine

Commands need the models and the data that their docstrings name. What is listed and measured goes into
benchmarks/results and, by `python -m benchmarks.readme`, onto a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks import options
from benchmarks.results import rows
from benchmarks.results.rows import Row

MINUTES = 1
VGG = "vgg16_cifar10"
BOTH = f"resnet20_cifar10.onnx {VGG}.onnx"
DATA = "--calibration A.npz --validation B.npz"


@dataclass(frozen=True)
class Table:
    """Rows that a command measures. file: of benchmarks/results; key: what such a row holds; minutes: on two cores."""

    command: str
    file: str
    minutes: int
    key: Row = field(default_factory=dict)


WANTED = (
    Table("speed --networks vgg16", "speed", 85, {"network": "vgg16"}),
    Table("speed --networks ssd300", "speed", 15, {"network": "ssd300"}),
    Table(f"max_drop {VGG}.onnx {DATA}", f"max_drop_{VGG}", 150),
    Table("same_latency --networks vgg16", "same_latency", 100, {"network": "vgg16"}),
    Table("same_latency --networks ssd300", "same_latency", 40, {"network": "ssd300"}),
    Table(f"plans_timed {VGG}.onnx", f"plans_timed_{VGG}", 6),
    Table(f'plans_timed {VGG}.onnx --budget "--max-drop 1.0" --threads 2', f"budget_timed_{VGG}", 3),
    Table(f"curves {BOTH} --stage time plot", f"curves_timed_{VGG}", 12),
    Table(f"peers {BOTH} {DATA}", f"peers_timed_{VGG}", 290),
    Table(f"prediction {VGG}.onnx vgg16_224.onnx --threads 2 --speedup 2", "prediction", 30),
    Table(f"lazy {BOTH} --calibration A.npz --samples 300", "lazy", 40),
    Table("real", "real", 900),
    Table("cost", "cost", 4),
    Table("scaling", "scaling", 40),
)


def main() -> None:
    options.described(__doc__).parse_args()
    for line in lines(rows.cpu()):
        print(line)


def missing(cpu: str, wanted: Sequence[Table] = WANTED) -> list[Table]:
    """The tables without a row that was measured on this kind of CPU, most wanted first."""
    return [table for table in wanted if not rows.known(table.file, {"cpu": cpu, **table.key})]


def lines(cpu: str, wanted: Sequence[Table] = WANTED) -> Iterator[str]:
    """What is printed."""
    left = missing(cpu, wanted)
    if not left:
        yield f"{cpu}: every table has rows"
        return
    yield f"{cpu}: no rows of {len(left)} of {len(wanted)} tables, {sum(t.minutes for t in left)} minutes on two cores"
    for table in left:
        yield f"{table.minutes:4} min  python -m benchmarks.{table.command}"


if __name__ == "__main__":
    main()
