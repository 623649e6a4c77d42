"""The keys that scripts rely on, JSON there and back, and renderings without colour, bars or surprises."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError
from reports import report

from ndpass.cli.report_text import SLOWER, STYLES, for_terminal, plain, summary
from ndpass.measuring.environment import peak_memory_bytes
from ndpass.report import Latency, Layer, MetricChange, Report, Verified
from ndpass.run.figures import change, human, setting_text

PROMISED = {
    "": "ndpass passes budget target model metric latency_ms seconds peak_memory_bytes layers",
    "target": "cpu precision threads batch openvino",
    "model": "macs params bytes",
    "metric": "name before after samples",
    "latency_ms": "before after speedup spread",
    "seconds": "calibrate plan rewrite verify total",
    "layers": "name status reason setting macs latency_us error_predicted error_measured",
}


@pytest.mark.parametrize("part", PROMISED)
def test_the_keys_that_scripts_rely_on_are_there(part: str) -> None:
    written = json.loads(report().to_json())
    found = written[part] if part else written
    found = found[0] if isinstance(found, list) else found
    assert set(PROMISED[part].split()) <= set(found)


def test_pairs_are_lists_of_before_and_after() -> None:
    written = json.loads(report().to_json())
    assert written["model"]["macs"] == [15_350_000_000, 313_000_000]
    assert written["layers"][0]["macs"] == [1_850_000_000, 462_500_000]
    assert written["layers"][0]["setting"] == {"cd": {"rank": 64}, "nd": {"rank": 2, "form": "dw-pw"}}


def test_what_was_not_measured_is_null_and_still_a_key() -> None:
    written = json.loads(report(latency_ms=None, metric=None, peak_memory_bytes=None).to_json())
    assert [written[key] for key in ("latency_ms", "metric", "peak_memory_bytes")] == [None] * 3
    assert written["layers"][1]["error_measured"] is None


def test_a_report_is_read_back_as_it_was() -> None:
    assert Report.model_validate_json(report().to_json()) == report()


def test_what_is_not_finite_is_null_and_can_be_read_back() -> None:
    broken = report(verified={"onnxruntime": Verified(samples=1, relative_error=float("inf"))})
    read = Report.model_validate_json(broken.to_json())
    assert read.verified["onnxruntime"].relative_error is None
    assert "relative error not finite, 1 samples" in plain(read)


def test_misspelt_keys_and_unknown_statuses_are_errors() -> None:
    with pytest.raises(ValidationError, match="latency"):
        report(latency={})
    with pytest.raises(ValidationError, match="status"):
        Layer(name="conv", status="gone")  # type: ignore[arg-type]


def test_the_schema_names_every_key() -> None:
    schema = json.loads(Report.json_schema())
    assert set(PROMISED[""].split()) <= set(schema["properties"])
    assert set(PROMISED["layers"].split()) <= set(schema["$defs"]["Layer"]["properties"])


def test_plain_text_is_aligned_and_can_be_searched() -> None:
    text = plain(report())
    head, conv, fc = text.splitlines()[-3:]
    assert conv.split("  ")[0] == "conv[1]"
    assert "cd:rank=64 nd:rank=2:form=dw-pw" in conv
    assert "1.85 G -> 462 M" in conv or "1.85 G -> 463 M" in conv
    assert "120.0 -> 60.5" in conv
    assert "0.0512 (0.0500)" in conv
    assert [line.index(word) for line, word in ((head, "status"), (conv, "done"), (fc, "skipped"))] == [
        head.index("status")
    ] * 3
    assert fc.endswith("no pass takes Gemm")
    assert "\x1b" not in text
    assert plain(report()) == text


def test_a_layer_that_takes_what_it_took_shows_it_once() -> None:
    kept = Layer(name="a", op="Conv", shape="8x8x3x3", status="kept", latency_us=(24.3, 24.3), reason="why")
    row = plain(report(layers=[kept])).splitlines()[-1]
    assert row.split() == ["a", "Conv", "8x8x3x3", "kept", "24.3", "why"]


def test_the_summary_has_a_line_for_each_thing_measured() -> None:
    lines = plain(report(warnings=["look here"])).splitlines()
    for line in (
        "layers: 1 done, 1 skipped",
        "MACs: 15.35 G -> 313 M (2.0 %)",
        "accuracy: 91.50 -> 91.25 (-0.25, 400 samples)",
        "latency: 8.34 ms -> 3.1 ms (2.70 times as fast in f32: median of paired rounds, 2.50 to 2.90)",
        "against onnxruntime: relative error 1e-06, top-1 agreement 100.00 %, 32 samples",
        "took: 10.0 s, peak memory 2.00 GB",
        "warning: look here",
    ):
        assert line in lines


def test_a_slower_result_is_said_with_what_to_do() -> None:
    slow = Latency(before=3.0, after=5.0, speedup=0.6, spread=(0.5, 0.7), is_slower=True)
    lines = list(summary(report(latency_ms=slow)))
    (line,) = [line for line in lines if line.startswith("SLOWER")]
    assert "--speedup" in line
    assert not any(line.startswith("SLOWER") for line in summary(report()))


def test_a_difference_that_the_rounds_do_not_prove_is_not_called_faster() -> None:
    close = Latency(before=3.0, after=2.9, speedup=1.03, spread=(0.9, 1.2), is_faster=False)
    assert any(line.startswith("no difference that the rounds prove") for line in summary(report(latency_ms=close)))
    assert not any("rounds prove" in line for line in summary(report()))


def test_a_metric_that_has_lost_half_is_said() -> None:
    """A budget of errors allows what leaves few of the masks."""
    lost = MetricChange(name="iou", before=100.0, after=35.29, samples=12)
    (line,) = [x for x in summary(report(metric=lost)) if x.startswith("RUINED")]
    assert line.startswith("RUINED: iou falls from 100.00 to 35.29: give --max-drop")
    for fine in (lost.model_copy(update={"after": 51.0}), lost.model_copy(update={"name": "psnr"})):
        assert not any(x.startswith("RUINED") for x in summary(report(metric=fine)))


def test_what_latencies_are_of_is_said() -> None:
    """A gain in f32 may be none in the precision that the runtime picks."""
    target = report().target
    for threads, text in ((1, "in bf16 on 1 thread:"), (2, "in bf16 on 2 threads:"), (None, "in bf16:")):
        own = target.model_copy(update={"precision": "bf16", "threads": threads})
        assert text in next(iter(summary(report(target=own))))


def test_less_than_the_speed_that_was_asked_for_is_said() -> None:
    close = Latency(before=3.0, after=2.34, speedup=1.28, spread=(1.1, 1.6))
    (line,) = [x for x in summary(report(latency_ms=close, budget={"speedup": 1.3})) if x.startswith("less than")]
    assert line.startswith("less than the 1.3 times that were asked for")
    for budget in ({"speedup": 1.25}, {"max_drop": 1.0}):
        assert not any(x.startswith("less than") for x in summary(report(latency_ms=close, budget=budget)))


def test_a_ruined_output_and_a_metric_that_stands_are_told_apart() -> None:
    """Scores may be far off while the best class is mostly the same: two lines that had read as a contradiction."""
    verified = {"the original": Verified(samples=20, relative_error=0.2, outputs={"scores": 1.0})}
    stands = MetricChange(name="agreement", before=100.0, after=95.0, samples=20)
    (line,) = [x for x in summary(report(verified=verified, metric=stands)) if x.startswith("RUINED")]
    assert "says, although agreement is 95.00, which looks at the best classes alone: give --max-error" in line
    lost = stands.model_copy(update={"after": 20.0})
    assert not any("although" in x for x in summary(report(verified=verified, metric=lost)))


def test_a_ruined_output_is_said_with_what_to_do() -> None:
    """Whatever the budget allowed: it is no success that a script or a reader may take for one."""
    for error in (0.5, 3.0, None):
        verified = {"the original": Verified(samples=4, relative_error=0.7, outputs={"boxes": 0.01, "scores": error})}
        (line,) = [line for line in summary(report(verified=verified)) if line.startswith("RUINED")]
        assert "'scores'" in line
        assert "--max-error" in line
    fine = {"the original": Verified(samples=4, relative_error=0.2, outputs={"scores": 0.4})}
    runtimes = {"itself in onnxruntime": Verified(samples=4, relative_error=0.2, outputs={"scores": 0.9})}
    assert not any(line.startswith("RUINED") for line in summary(report(verified={**fine, **runtimes})))


def test_without_data_the_accuracy_is_said_to_be_unknown() -> None:
    """No share of answers on inputs that nobody gave."""
    made_up = {"the original on random inputs": Verified(samples=16, relative_error=0.1, top1_agreement=25.0)}
    text = "\n".join(summary(report(metric=None, verified=made_up)))
    assert "accuracy: unknown, no data given" in text
    assert "against the original on synthetic inputs: relative error 0.1, 16 samples" in text
    assert "25" not in text.partition("against")[2]


def test_columns_of_what_was_not_measured_are_left_out() -> None:
    layers = [Layer(name="conv", status="kept", reason="too small")]
    text = plain(report(layers=layers, latency_ms=None))
    assert text.splitlines()[-2].split() == ["layer", "status", "reason"]
    assert "latency" not in text


def test_a_model_without_layers_has_a_report_too() -> None:
    assert "layers: none\nMACs: " in plain(report(layers=[]))
    assert [line for line, _ in for_terminal(report(layers=[]), 200)] == plain(report(layers=[])).splitlines()


def test_the_summary_comes_first_and_speed_before_all() -> None:
    for lines in (plain(report()).splitlines(), [line for line, _ in for_terminal(report(), 100)]):
        assert lines[0].startswith("latency: ")
        assert lines.index("MACs: 15.35 G -> 313 M (2.0 %)") < next(i for i, x in enumerate(lines) if "status" in x)


def test_a_terminal_shows_names_with_brackets_and_reasons_below_the_table() -> None:
    lines = [line for line, _ in for_terminal(report(), 200)]
    (conv,) = [line for line in lines if line.startswith("conv[1]")]
    assert "cd:rank=64 nd:rank=2:form=dw-pw" in conv
    assert lines[-1] == "skipped: no pass takes Gemm: fc"


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_terminal_is_never_exceeded(width: int) -> None:
    layers = [
        layer.model_copy(update={"name": f"/model/stage{i}/{layer.name}/Conv_output"})
        for i in range(3)
        for layer in report().layers
    ]
    lines = [line for line, _ in for_terminal(report(layers=layers, warnings=["a long word " * 20]), width)]
    assert max(map(len, lines)) <= width
    assert any("cd:rank=64 nd:rank=2:form=dw-pw" in line for line in lines)
    assert sum("no pass takes Gemm" in line for line in lines) == 1


def test_rows_are_coloured_by_what_became_of_the_layer() -> None:
    slow = report().layers[0].model_copy(update={"name": "slow", "latency_us": (60.0, 90.0)})
    styles = {
        line.split()[0]: style for line, style in for_terminal(report(layers=[*report().layers, slow]), 120) if line
    }
    assert [styles[name] for name in ("conv[1]", "fc", "slow")] == [STYLES["done"], STYLES["skipped"], STYLES[SLOWER]]


@pytest.mark.parametrize(
    ("number", "unit", "expected"),
    [
        (15_346_630_656, "", "15.35 G"),
        (313_123_456, "", "313 M"),
        (99_994_000, "", "99.99 M"),
        (99_996_000, "", "100 M"),
        (999_999_999, "", "1.00 G"),
        (999, "", "999"),
        (1200, "B", "1.20 kB"),
        (0, "", "0"),
        (42, "B", "42 B"),
        (2.5e12, "", "2.50 T"),
    ],
)
def test_numbers_for_people(number: float, unit: str, expected: str) -> None:
    assert human(number, unit) == expected


def test_a_change_has_a_share_unless_there_was_nothing() -> None:
    assert change((1000, 250), "B") == "1.00 kB -> 250 B (25.0 %)"
    assert change((0, 0)) == "0 -> 0"


def test_a_setting_reads_as_on_the_command_line() -> None:
    assert setting_text({"cd": {"rank": 64}, "nd": {}}) == "cd:rank=64 nd"


def peak_of_a_child(held: int) -> int:
    code = (
        f"from ndpass.measuring.environment import peak_memory_bytes as peak; x = bytes({held}) + b'1'; print(peak())"
    )
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_peak_memory_is_that_of_this_process_in_bytes() -> None:
    ballast = bytearray(200_000_000)
    here = peak_memory_bytes()
    assert here is not None
    assert here > len(ballast)
    small, large = peak_of_a_child(1), peak_of_a_child(100_000_000)
    assert 80_000_000 < large - small < 300_000_000


def test_what_is_lost_of_what_an_upscaler_adds_is_said() -> None:
    """37 dB sound like much, and are a quarter of the details."""
    outputs = {"y": 0.0058, "y beyond the input": 0.76}
    lost = {"the original": Verified(samples=4, relative_error=0.07, outputs=outputs)}
    lines = list(summary(report(verified=lost)))
    assert "worst output: 'y', 0.76 of what the original adds to its input there, 0.0058 of its variance" in lines
    (line,) = [line for line in lines if line.startswith("RUINED")]
    assert line.startswith("RUINED: output 'y' has little left of what the original adds to its input: give")
