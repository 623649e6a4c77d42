"""`python -m benchmarks.training.ssd300`: trains an SSD300 with a quarter of VGG16's width.

    python -m benchmarks.detection_data FOLDER --train cifar10_train.npz --test cifar10_test.npz
    python -m benchmarks.training.ssd300 FOLDER --crops cifar10_train.npz [-o OUT.onnx] [--threads 1]

Needs the extra `bench`, and one thread that computes in bf16. First conv1_1 to conv5_3 learn to classify the images
that the objects were made from (the published SSD starts from ImageNet's weights). Then the whole network but conv1_1
and conv1_2 learns to detect, with the loss of `benchmarks/training/multibox.py`.

The state is written every minute beside the output (.pt); the same command goes on from it. The mAP every other epoch
and the minutes go to benchmarks/results/train_ssd.json. That mAP chooses nothing: the last weights are written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks import options
from benchmarks.detection_data import NAMES, read
from benchmarks.mean_ap import points_of
from benchmarks.networks import ssd300 as ssd
from benchmarks.networks.layers import Network, with_weights
from benchmarks.networks.torch_network import TorchNetwork
from benchmarks.results import rows
from benchmarks.training.augment import enlarged, lit, view
from benchmarks.training.multibox import matched, multibox
from benchmarks.training.steps import fit

MINUTES = 40
WIDTH = 0.25
OUTPUT = Path(ssd.__file__).with_name("ssd300_quarter.onnx")
SEED = 0
EPOCHS, CROP_EPOCHS = 6, 14
BATCH, CROP_BATCH = 16, 64
CROP_SIDES = (48, 64, 80, 96)  # pixels that a 32x32 image is enlarged to: objects are of many sizes
EARLY_IMAGES = 200  # that the mAP is measured on before the last epoch
FROZEN = ("conv1_1", "conv1_2")  # while boxes are learnt: they see edges and colours, which crops have too

Floats = NDArray[np.float32]


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    net = TorchNetwork(network())
    crops_s = learn_crops(net, args)
    learn_boxes(net, args, crops_s)
    onnx.save(written(net), args.output)
    print(f"wrote {args.output}")


def arguments() -> argparse.Namespace:
    parser = options.described(__doc__)
    parser.add_argument("folder", type=options.existing, help="what benchmarks.detection_data wrote")
    parser.add_argument("--crops", type=options.existing, required=True, metavar="NPZ", help="of its training objects")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, metavar="OUT.onnx")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the training images")
    parser.add_argument("--crop-epochs", type=int, default=CROP_EPOCHS)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def network() -> Network:
    """The network that is trained: 10 classes and the background."""
    return ssd.ssd300(WIDTH, 1 + len(NAMES))


def written(net: TorchNetwork) -> onnx.ModelProto:
    """The network with its present weights, checked."""
    model = with_weights(net.network, net.weights())
    onnx.checker.check_model(model, full_check=True)
    return model


def learn_crops(net: TorchNetwork, args: argparse.Namespace) -> float:
    """Learns the classes of 32x32 images from conv4_3 and conv5_3, averaged over positions; returns the seconds."""
    stored = np.load(args.crops)
    images, labels = stored["images"], stored["labels"]
    signals = ["conv4_3.relu", "conv5_3.relu"]
    linear = torch.nn.ModuleList(torch.nn.Linear(net.network.shapes["conv5_3.bias"][0], len(NAMES)) for _ in signals)
    steps = len(images) // CROP_BATCH

    def loss(step: int) -> Any:
        rng = np.random.default_rng([SEED, 1, step])
        order = np.random.default_rng([SEED, 2, step // steps]).permutation(len(images))
        chosen = order[step % steps * CROP_BATCH :][:CROP_BATCH]
        side = int(rng.choice(CROP_SIDES))
        batch = np.stack([lit(rng, enlarged(rng, images[i], side)) for i in chosen])
        values = seen(net, batch, signals)
        wanted = torch.from_numpy(labels[chosen])
        heads = [head(v.mean(dim=(2, 3))) for head, v in zip(linear, values, strict=True)]
        return torch.stack([functional.cross_entropy(scores, wanted) for scores in heads]).mean()

    return fit(torch.nn.ModuleList([net, linear]), args.crop_epochs * steps, loss, args.output.with_suffix(".crops.pt"))


def learn_boxes(net: TorchNetwork, args: argparse.Namespace, crops_s: float) -> None:
    """Learns to detect, with a row of results every other epoch; crops_s: the seconds that `learn_crops` took."""
    examples, tested = read(args.folder, "train"), read(args.folder, "test")
    priors = ssd.prior_boxes()
    steps = len(examples) // BATCH

    def loss(step: int) -> Any:
        rng = np.random.default_rng([SEED, 3, step])
        order = np.random.default_rng([SEED, 4, step // steps]).permutation(len(examples))
        drawn = [view(rng, examples[i]) for i in order[step % steps * BATCH :][:BATCH]]
        offsets, logits = seen(net, np.stack([pixels for pixels, *_ in drawn]), ["offsets", "logits"])
        wanted = [matched(priors, boxes, labels) for _, boxes, labels in drawn]
        return multibox(offsets, logits, *(torch.from_numpy(np.stack(part)) for part in zip(*wanted, strict=True)))

    def after(step: int, spent: float) -> None:
        if step % (2 * steps) == 0 or step == args.epochs * steps:
            net.eval()
            few = tested if step == args.epochs * steps else tested[:EARLY_IMAGES]
            found = points_of(written(net), few, args.threads)
            ready(net)
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

    ready(net)
    fit(torch.nn.ModuleList([net]), args.epochs * steps, loss, args.output.with_suffix(".boxes.pt"), after)
    net.eval()


def ready(net: TorchNetwork) -> None:
    """Switches to training; the FROZEN layers stay as they are."""
    net.train()
    net.freeze(FROZEN)


def seen(net: TorchNetwork, pixels: Floats, wanted: Sequence[str]) -> list[Any]:
    """Tensors of images (N, height, width, 3) by their names, computed in bf16 where that is as good."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (N, 3, height, width), channels still innermost
    with torch.autocast("cpu", torch.bfloat16):
        return [value.float() for value in net(images, wanted)]


if __name__ == "__main__":
    main()
