"""What `ndpass run` alone takes, an alias for each parameter; `parameters` has what other commands take, too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ndpass.cli.parameters import BUDGET, DATA, EFFORT, METRIC, OUTPUT, PASSES, REFINE, TARGET, Precision

OptionalModel = Annotated[
    Path | None,
    typer.Argument(help="ONNX file or OpenVINO IR (.xml). Left out: a small model, pruned to half its MACs."),
]
OutputModel = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="OUT.onnx, or OUT.xml for OpenVINO IR.", metavar="FILE", rich_help_panel=OUTPUT
    ),
]
PassSpec = Annotated[
    str | None,
    typer.Option(
        help="Passes in their order inside a layer, as nd or cd,nd. nd:rank=2 pins a setting. auto: each layer "
        "takes what pays. ndpass passes lists them. Default: nd.",
        metavar="SPEC",
        rich_help_panel=PASSES,
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        help="Leave this layer alone: NAME or re:REGEX. Repeatable.", metavar="PATTERN", rich_help_panel=PASSES
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        help="Unlabelled data that layers are fitted to: a folder of images, .npz or .npy.", rich_help_panel=DATA
    ),
]
Validation = Annotated[
    Path | None,
    typer.Option(
        help="Data that the metric is measured on. Default: a fifth of the calibration data, held out.",
        rich_help_panel=DATA,
    ),
]
Anyway = Annotated[
    bool,
    typer.Option(
        "--anyway",
        help="Go on although another preprocessing makes the original right far more often.",
        rich_help_panel=DATA,
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        help="Largest allowed drop of the metric, in points. Finds the fastest model within it. Default with data: "
        "1.0, of pictures 60 dB of 100.",
        rich_help_panel=BUDGET,
    ),
]
MaxError = Annotated[
    float | None,
    typer.Option(
        help="Largest allowed error of any output, as a share of its variance, 0 to 1. Needs no labels. Finds the "
        "fastest model within it.",
        rich_help_panel=BUDGET,
    ),
]
Speedup = Annotated[
    float | None,
    typer.Option(
        help="Times as fast on this CPU, measured, at the least error. Beside --max-drop or --max-error: at least.",
        rich_help_panel=BUDGET,
    ),
]
MacsShare = Annotated[
    float | None, typer.Option(help="Share of the model's MACs that is left, 0 to 1.", rich_help_panel=BUDGET)
]
EnergyShare = Annotated[
    float | None,
    typer.Option(
        help="Share of the energy that every layer keeps, 0 to 1: of its response, or without data of its weights. "
        "Default without data: 0.95.",
        rich_help_panel=BUDGET,
    ),
]
SavedPlan = Annotated[
    Path | None,
    typer.Option(help="Apply a saved plan in the place of a budget.", metavar="PLAN.json", rich_help_panel=BUDGET),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        help="What is measured before and after, for --max-drop: top1, top5, agreement, iou, psnr, detection, "
        "explained, or your own MODULE:FUNCTION of a compiled OpenVINO model. Default: by the kind of the outputs.",
        metavar="NAME",
        rich_help_panel=METRIC,
    ),
]
TimedPrecision = Annotated[
    Precision | None,
    typer.Option(
        help="Precision used when timing layers. Default: what OpenVINO picks on this device.",
        rich_help_panel=TARGET,
    ),
]
Device = Annotated[
    str, typer.Option(help="Device used when timing layers, by OpenVINO's name.", rich_help_panel=TARGET)
]
TimedBatch = Annotated[
    int | None,
    typer.Option(
        min=1, help="Batch used when timing layers. Default: the model's own, else 1.", rich_help_panel=TARGET
    ),
]
Latency = Annotated[
    bool,
    typer.Option("--latency/--no-latency", help="Time the original and the result at the end.", rich_help_panel=TARGET),
]
Int8 = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Quantise the result with NNCF on the calibration data. The result is IR (.xml).",
        rich_help_panel=TARGET,
    ),
]
RefineFor = Annotated[
    str | None,
    typer.Option(
        help="Then train all weights to the original's outputs on the calibration data, without labels: for a time "
        "(10min) or for epochs (20). Needs torch.",
        metavar="TIME|EPOCHS",
        rich_help_panel=REFINE,
    ),
]
Memory = Annotated[
    str,
    typer.Option(
        help="Most memory for activations in calibration and training, as 4GB. What is more goes to disk where "
        "there is room; planning puts up to 4 times that on disk besides.",
        rich_help_panel=EFFORT,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Layers planned side by side; left out, one for each core, as far as --memory or a quarter of the "
        "machine's goes.",
        rich_help_panel=EFFORT,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        help="Spread calibration over a Dask cluster: dask://HOST:PORT, dask://scheduler.json or dask://local:4. "
        "Needs the extra dask.",
        metavar="dask://...",
        rich_help_panel=EFFORT,
    ),
]
Shards = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Parts that the calibration data are cut into: with as many, one machine and many give the "
        "same bytes. Default: 16 with --engine, else the data stay whole.",
        metavar="N",
        rich_help_panel=EFFORT,
    ),
]
TimeOn = Annotated[
    str | None,
    typer.Option(
        help="Worker of --engine that models are made fast for and timed on, by its name or address. Default: this "
        "machine.",
        metavar="WORKER",
        rich_help_panel=TARGET,
    ),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        help="About how long the run may take, as 10min: small layers are left alone and fewer plans fitted.",
        metavar="TIME",
        rich_help_panel=EFFORT,
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where a calibrated run was cut off.", rich_help_panel=EFFORT)
]
SavePlan = Annotated[
    Path | None,
    typer.Option(help="Write the setting of every layer.", metavar="PLAN.json", rich_help_panel=OUTPUT),
]
ModelServer = Annotated[
    Path | None,
    typer.Option(
        help="Also write DIR/1/model.xml, or the next version, as OpenVINO Model Server reads it.",
        metavar="DIR",
        rich_help_panel=OUTPUT,
    ),
]
CompressToFp16 = Annotated[
    bool,
    typer.Option("--compress-to-fp16", help="Store the weights of OUT.xml in half precision.", rich_help_panel=OUTPUT),
]
