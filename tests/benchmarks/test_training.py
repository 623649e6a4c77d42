"""What trains the small networks: the torch module is the network that is written, and the loss is the paper's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import relative, run_ort

from benchmarks.detection_data import SIZE
from benchmarks.networks.layers import with_weights
from benchmarks.networks.ssd300 import prior_boxes, ssd300

pytest.importorskip("torch", reason="the extra `bench` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


def test_the_trained_network_computes_what_is_written() -> None:
    """Offsets and logits of torch, BatchNorms and all, and of onnxruntime from the folded weights."""
    import torch

    from benchmarks.networks.torch_network import TorchNetwork

    torch.manual_seed(0)
    net = TorchNetwork(ssd300(0.0625, 4))
    image = np.random.default_rng(0).integers(0, 256, (1, 3, SIZE, SIZE)).astype(np.float32)
    names = ["offsets", "logits"]
    with torch.no_grad():
        for norm in net.norms.values():  # as after training
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.2, 0.2)
        net.train()
        net(torch.from_numpy(np.concatenate([image, 255 - image])), names)
        net.eval()
        ours = [t.numpy() for t in net(torch.from_numpy(image), names)]
    model = with_weights(net.network, net.weights())
    onnx.checker.check_model(model, full_check=True)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    theirs = run_ort(model, {"image": image})[3:]
    assert [a.shape for a in ours] == [(1, 8732, 4), (1, 8732, 4)]
    assert relative(ours, theirs) < 1e-5


def test_priors_are_matched_as_in_the_paper() -> None:
    """An object that is a prior: this one and all that overlap it by more than a half, and offsets of nothing."""
    from benchmarks.training.multibox import matched

    priors = prior_boxes()
    chosen = 38 * 38 * 4 + 9 * 19 * 6 + 9 * 6  # in the middle of conv7's map
    x, y, w, h = priors[chosen]
    box = np.array([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]], np.float32)
    offsets, labels = matched(priors, box, np.array([7]))
    assert labels[chosen] == 7
    assert set(labels) == {0, 7}
    np.testing.assert_allclose(offsets[chosen], 0, atol=1e-4)
    found = np.flatnonzero(labels)
    low = np.maximum(priors[found, :2] - priors[found, 2:] / 2, box[0, :2])
    high = np.minimum(priors[found, :2] + priors[found, 2:] / 2, box[0, 2:])
    inner = np.prod(high - low, axis=1)
    assert (inner / (np.prod(priors[found, 2:], axis=1) + w * h - inner) > 0.5).all()
    np.testing.assert_array_equal(matched(priors, box[:0], np.zeros(0, np.int64))[1], 0)


def test_the_loss_counts_three_negatives_for_each_match() -> None:
    import torch

    from benchmarks.training.multibox import multibox

    logits = torch.zeros(1, 100, 3)
    wanted = torch.zeros(1, 100, dtype=torch.int64)
    wanted[0, :2] = 1
    offsets, nothing = torch.full((1, 100, 4), 2.0), torch.zeros(1, 100, 4)
    # 2 matched: smooth L1 of 2 is 1.5, four to a box; cross entropy log 3 of 2 matched and 6 negatives
    assert multibox(offsets, logits, nothing, wanted).item() == pytest.approx((2 * 4 * 1.5 + 8 * np.log(3)) / 2)
