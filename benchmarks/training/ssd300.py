"""Trains an SSD300 with a quarter of VGG16's width on the set of `benchmarks.detection_data`.

    python -m benchmarks.train_ssd FOLDER --crops cifar10_train.npz [-o benchmarks/ssd300_quarter.onnx] [--threads 1]

Needs the extra `bench`, and about 40 minutes of one thread that computes in bf16 (39 on a machine that was busy
besides). First conv1_1 to conv5_3 learn to tell the classes on the images that the objects were made from (the
published SSD starts from ImageNet's weights), then the whole but conv1_1 and conv1_2 learns to detect (Liu et al. 2016,
section 2.2):

    L = (Σ smooth L1 of the matched priors' offsets + Σ cross entropy of these and of the hardest others, 3 for each)
        / number of matched priors

where a prior is matched to the object that it overlaps most, if by more than 0.5, and an object also to its best prior.
The state is written every minute beside the output (.pt), from which the same command goes on; a mAP every other
epoch and the minutes go to benchmarks/results/train_ssd.json. That mAP chooses nothing: the last weights are written.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from benchmarks import options, rows
from benchmarks.detection_data import NAMES, Example, read
from benchmarks.layers import Network, with_weights
from benchmarks.mean_ap import points
from benchmarks.ssd300 import SIZE, VARIANCES, prior_boxes, ssd300
from benchmarks.twin import Twin
from ndpass.measuring.runtime import OpenVINO

WIDTH = 0.25
OUTPUT = Path(__file__).parent / "ssd300_quarter.onnx"
SEED = 0
EPOCHS, CROP_EPOCHS = 6, 14
BATCH, CROP_BATCH = 16, 64
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.02
WARM_UP = 100  # steps
LONGEST_GRADIENT = 5.0
CROP_SIDES = (48, 64, 80, 96)  # pixels that a 32x32 image is enlarged to: objects are of many sizes
MATCHED = 0.5  # overlap of a prior and its object
NEGATIVES = 3  # for each matched prior
VIEW = (0.6, 1.2)  # side of what is seen of an image, as a share of it
CHECKPOINT_S = 60
EARLY_IMAGES = 200  # that the mAP is measured on before the last epoch
FROZEN = ("conv1_1", "conv1_2")  # while boxes are learnt: they see edges and colours, which crops have too

Loss = Callable[[int], Any]  # step -> loss
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    net = network()
    twin = Twin(net)
    crops_s = learn_crops(twin, args)
    learn_boxes(twin, args, crops_s)
    onnx.save(written(twin), args.output)
    print(f"wrote {args.output}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_ssd", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=options.existing, help="what benchmarks.detection_data wrote")
    parser.add_argument("--crops", type=options.existing, required=True, metavar="NPZ", help="of its training objects")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, metavar="OUT.onnx")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the training images")
    parser.add_argument("--crop-epochs", type=int, default=CROP_EPOCHS)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def network() -> Network:
    """The one that is trained: 10 classes and the background."""
    return ssd300(WIDTH, 1 + len(NAMES))


def written(twin: Twin) -> onnx.ModelProto:
    """The network with what was learnt, checked."""
    model = with_weights(twin.net, twin.weights())
    onnx.checker.check_model(model, full_check=True)
    return model


# ------------------------------------------------------------------------------------------------------ both parts


def fit(
    name: str,
    modules: torch.nn.ModuleList,
    steps: int,
    loss: Loss,
    args: argparse.Namespace,
    after: Callable[[int, float], None],
) -> float:
    """Steps of AdamW with a cosine; what is drawn at a step depends on its number, so a run goes on as if never cut.

    after: called behind every step with how many are done and the seconds that they took. Returns these seconds.
    """
    optimizer = torch.optim.AdamW(modules.parameters(), weight_decay=WEIGHT_DECAY)
    state = args.output.with_suffix(f".{name}.pt")
    first, spent = restore(state, modules, optimizer)
    saved = time.perf_counter()
    for step in range(first, steps):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), LONGEST_GRADIENT)
        optimizer.step()
        now = time.perf_counter()
        spent += now - start
        if step % 20 == 19 or step + 1 == steps:
            print(f"{name} {step + 1}/{steps}: loss {value.item():.3f}, {spent / 60:.1f} minutes", flush=True)
        after(step + 1, spent)
        if now - saved > CHECKPOINT_S or step + 1 == steps:
            keep(state, modules, optimizer, step + 1, spent)
            saved = now
    return spent


def rate(step: int, steps: int) -> float:
    """Of learning: a rise over `WARM_UP` steps, then half a cosine to 0."""
    return LEARNING_RATE * min((step + 1) / WARM_UP, 1.0) * (1 + math.cos(math.pi * step / steps)) / 2


def keep(state: Path, modules: torch.nn.ModuleList, optimizer: Any, step: int, spent: float) -> None:
    """Write the state under another name first, so that a kill leaves a whole file."""
    fresh = state.with_suffix(".new")
    torch.save({"modules": modules.state_dict(), "optimizer": optimizer.state_dict(), "done": (step, spent)}, fresh)
    fresh.replace(state)


def restore(state: Path, modules: torch.nn.ModuleList, optimizer: Any) -> tuple[int, float]:
    """Steps that are done and their seconds, 0 where there is no file."""
    if not state.exists():
        return 0, 0.0
    found = torch.load(state)
    modules.load_state_dict(found["modules"])
    optimizer.load_state_dict(found["optimizer"])
    step, spent = found["done"]
    return step, spent


def seen(twin: Twin, pixels: Floats, wanted: Sequence[str]) -> list[Any]:
    """Tensors of images (N, height, width, 3) by the twin, in bf16 where that is as good."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (N, 3, height, width), channels still innermost
    with torch.autocast("cpu", torch.bfloat16):
        return [value.float() for value in twin(images, wanted)]


def lit(rng: np.random.Generator, pixels: NDArray[Any]) -> Floats:
    """An image (height, width, 3) in other light; 0..255."""
    light = rng.uniform(-25, 25) + rng.uniform(-10, 10, 3)
    return np.asarray((pixels * rng.uniform(0.7, 1.3) + light).clip(0, 255), np.float32)


# ----------------------------------------------------------------------------------------------------- on crops


def learn_crops(twin: Twin, args: argparse.Namespace) -> float:
    """The classes of 32x32 images from what conv4_3 and conv5_3 see of them, averaged over positions; seconds."""
    stored = np.load(args.crops)
    images, labels = stored["images"], stored["labels"]
    signals = ["conv4_3.relu", "conv5_3.relu"]
    linear = torch.nn.ModuleList(torch.nn.Linear(twin.net.shapes["conv5_3.bias"][0], len(NAMES)) for _ in signals)
    steps = len(images) // CROP_BATCH

    def loss(step: int) -> Any:
        rng = np.random.default_rng([SEED, 1, step])
        order = np.random.default_rng([SEED, 2, step // steps]).permutation(len(images))
        chosen = order[step % steps * CROP_BATCH :][:CROP_BATCH]
        side = int(rng.choice(CROP_SIDES))
        batch = np.stack([lit(rng, enlarged(rng, images[i], side)) for i in chosen])
        values = seen(twin, batch, signals)
        wanted = torch.from_numpy(labels[chosen])
        heads = [head(v.mean(dim=(2, 3))) for head, v in zip(linear, values, strict=True)]
        return torch.stack([functional.cross_entropy(scores, wanted) for scores in heads]).mean()

    return fit("crops", torch.nn.ModuleList([twin, linear]), args.crop_epochs * steps, loss, args, lambda *_: None)


def enlarged(rng: np.random.Generator, image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(32, 32, 3) -> (side, side, 3), what is seen moved by up to 4 pixels along both axes, its width and height too,
    and mirrored in half of the cases.
    """
    left, top, right, bottom = rng.uniform(-4, 4, 4) + np.array([0, 0, 32, 32])
    if rng.random() < 0.5:
        left, right = right, left
    view = Image.fromarray(image).transform(
        (side, side),
        Image.Transform.EXTENT,
        (left, top, right, bottom),
        Image.Resampling.BICUBIC,
        fillcolor=tuple(rng.integers(0, 256, 3).tolist()),
    )
    return np.asarray(view)


# ----------------------------------------------------------------------------------------------------- on boxes


def learn_boxes(twin: Twin, args: argparse.Namespace, crops_s: float) -> None:
    """The whole network, with a row of results every other epoch; crops_s: seconds that went before."""
    examples, tested = read(args.folder, "train"), read(args.folder, "test")
    priors = prior_boxes()
    steps = len(examples) // BATCH

    def loss(step: int) -> Any:
        rng = np.random.default_rng([SEED, 3, step])
        order = np.random.default_rng([SEED, 4, step // steps]).permutation(len(examples))
        drawn = [view(rng, examples[i]) for i in order[step % steps * BATCH :][:BATCH]]
        offsets, logits = seen(twin, np.stack([pixels for pixels, *_ in drawn]), ["offsets", "logits"])
        wanted = [matched(priors, boxes, labels) for _, boxes, labels in drawn]
        return multibox(offsets, logits, *(torch.from_numpy(np.stack(part)) for part in zip(*wanted, strict=True)))

    def after(step: int, spent: float) -> None:
        if step % (2 * steps) == 0 or step == args.epochs * steps:
            twin.eval()
            few = tested if step == args.epochs * steps else tested[:EARLY_IMAGES]
            found = score(written(twin), few, args.threads)
            ready(twin)
            minutes = (crops_s + spent) / 60
            row = {
                "output": args.output.name,
                "epoch": step / steps,
                "epochs": args.epochs,
                "minutes": minutes,
                "map50": found,
                "images": len(few),
                "threads": args.threads,
            }
            print(f"epoch {row['epoch']:g}: mAP {found:.2f} on {len(few)} test images", flush=True)
            rows.add("train_ssd", row)

    ready(twin)
    fit("boxes", torch.nn.ModuleList([twin]), args.epochs * steps, loss, args, after)
    twin.eval()


def ready(twin: Twin) -> None:
    """For learning, but for the layers that are frozen."""
    twin.train()
    twin.freeze(FROZEN)


def score(model: onnx.ModelProto, examples: Sequence[Example], threads: int) -> float:
    """100 mAP at an overlap of 0.5, in OpenVINO and f32."""
    return points(OpenVINO(model.SerializeToString(), precision="f32", threads=threads).compiled, examples)


def view(rng: np.random.Generator, example: Example) -> tuple[Floats, Floats, Ints]:
    """A part of an image, or more than it, as (300, 300, 3), and the objects whose centre is seen.

    Boxes (objects, 4) are corners in shares of what is seen, clipped to it. Half of the images are seen as they are.
    """
    side, corner = float(SIZE), np.zeros(2)
    if rng.random() < 0.5:
        side = SIZE * rng.uniform(*VIEW)
        corner = rng.uniform(min(0.0, SIZE - side), max(0.0, SIZE - side), 2)
    extent = (*corner, *(corner + side))
    picture = example.pixels().transform(
        (SIZE, SIZE), Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR, fillcolor=(123, 117, 104)
    )
    boxes = (example.boxes - np.tile(corner, 2)) / side
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres > 0) & (centres < 1)).all(axis=1)
    boxes, pixels = boxes[inside].clip(0, 1), np.asarray(picture)
    if rng.random() < 0.5:
        pixels, boxes = pixels[:, ::-1], boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (1, 0, 1, 0)
    return lit(rng, pixels), boxes.astype(np.float32), example.labels[inside]


def matched(priors: Floats, boxes: Floats, labels: Ints) -> tuple[Floats, Ints]:
    """Offsets (8732, 4) and labels (8732,), 0 for the background, that each prior is to predict.

    priors: centre and size; boxes: (objects, 4) corners; labels: (objects,).
    """
    offsets, wanted = np.zeros_like(priors), np.zeros(len(priors), np.int64)
    if not len(boxes):
        return offsets, wanted
    overlap = overlaps(priors, boxes)  # (8732, objects)
    best = overlap.argmax(axis=1)
    hit = overlap.max(axis=1) > MATCHED
    own = overlap.argmax(axis=0)  # an object's best prior is its own whatever the overlap
    best[own], hit[own] = np.arange(len(boxes)), True
    box = boxes[best[hit]]
    centre, size = (box[:, :2] + box[:, 2:]) / 2, np.maximum(box[:, 2:] - box[:, :2], 1e-3)
    prior = priors[hit]
    offsets[hit, :2] = (centre - prior[:, :2]) / prior[:, 2:] / VARIANCES[0]
    offsets[hit, 2:] = np.log(size / prior[:, 2:]) / VARIANCES[1]
    wanted[hit] = labels[best[hit]]
    return offsets, wanted


def overlaps(priors: Floats, boxes: Floats) -> Floats:
    """Intersection over union: centre and size (n, 4), corners (m, 4) -> (n, m)"""
    low, high = priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2
    common = np.minimum(high[:, None], boxes[None, :, 2:]) - np.maximum(low[:, None], boxes[None, :, :2])  # (n, m, 2)
    inner = np.prod(common.clip(0), axis=2)
    areas = np.prod(priors[:, 2:], axis=1)[:, None] + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)[None]
    return np.asarray(inner / (areas - inner), np.float32)


def multibox(offsets: Any, logits: Any, wanted_offsets: Any, wanted: Any) -> Any:
    """The loss L of the module docstring: (N, 8732, 4), (N, 8732, classes), (N, 8732, 4), (N, 8732) -> ()"""
    positive = wanted > 0
    regression = functional.smooth_l1_loss(offsets[positive], wanted_offsets[positive], reduction="sum")
    each = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").reshape(wanted.shape)
    hardness = each.detach().masked_fill(positive, 0.0)
    rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
    negative = rank < NEGATIVES * positive.sum(dim=1, keepdim=True)
    return (regression + each[positive | negative].sum()) / positive.sum().clamp(min=1)


if __name__ == "__main__":
    main()
