"""Choices, as those of NonMaxSuppression and TopK: what is behind them, and what goes into them.

A choice jumps: two scores that rounding brings into another order swap two rows, and a model that was rewritten picks
another number of them. So what lies behind it can neither be compared row by row nor be fitted to the rows that the
original had. A choice between values that no layer with weights has a part in is always the same.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from ndpass.graph.dependencies import SHAPES, reads
from ndpass.graph.macs import WEIGHTED
from ndpass.graph.unique_names import all_nodes

PICKING = (  # operators of OpenVINO that pick boxes or characters
    "CTCGreedyDecoder",
    "CTCGreedyDecoderSeqLen",
    "DetectionOutput",
    "ExperimentalDetectronDetectionOutput",
    "ExperimentalDetectronGenerateProposalsSingleImage",
    "ExperimentalDetectronTopKROIs",
    "GenerateProposals",
    "MatrixNms",
    "MulticlassNms",
    "NMSRotated",
    "Proposal",
)
CHOOSING = ("NonMaxSuppression", "TopK", "ArgMax", "ArgMin", "NonZero", "Compress", "Unique", *PICKING)
# operator -> which of its inputs say how much of what it makes there is: a choice where these are no sizes but values
SIZING = dict.fromkeys(("Broadcast", "Expand", "Reshape", "Tile", "Pad"), slice(1, 2))
SIZING |= dict.fromkeys(("Slice", "StridedSlice", "Resize", "Interpolate"), slice(1, None))
SIZING |= dict.fromkeys(("ConstantOfShape", "Range"), slice(None))


@dataclass(frozen=True)
class Choices:
    """behind: the ids of all tensors behind a choice, each with the choice, as "TopK 'name'"; entering: by id, those
    that depend on the inputs' values and meet one."""

    behind: dict[int, str]
    entering: dict[int, gs.Tensor]

    @classmethod
    def of(cls, graph: gs.Graph) -> Choices:
        """graph: its nodes are in order."""
        valued, learned, found = {id(t) for t in graph.inputs}, set[int](), cls({}, {})
        for node in graph.nodes:
            before = {id(t): t for t in reads(node)}
            computed = {i: t for i, t in before.items() if i in valued}
            choice = next((found.behind[i] for i in before if i in found.behind), None)
            if choice is None and _chooses(node, computed.keys() & learned):
                choice = f"{node.op} '{node.name}'"
            outputs = {id(t) for t in node.outputs}
            if choice is not None:
                found.entering.update(computed)
                found.behind.update(dict.fromkeys(outputs, choice))
            elif computed and node.op not in SHAPES:
                valued |= outputs
                if before.keys() & learned or _has_weights(node):
                    learned |= outputs
        return found

    def before(self, node: gs.Node) -> str | None:
        """The choice that the node is behind, if there is one."""
        return next((self.behind[id(t)] for t in reads(node) if id(t) in self.behind), None)


def _chooses(node: gs.Node, learned: Set[int]) -> bool:
    """Whether the node, or one in a graph inside it, picks by values that layers make, or makes as much as they say.

    learned: the ids of what it reads of them.
    """
    if any(id(t) in learned for t in node.inputs[SIZING.get(node.op, slice(0))]):
        return True
    if not learned:
        return False
    return node.op in CHOOSING or any(n.op in CHOOSING for part in node.subgraphs() for n in all_nodes(part))


def _has_weights(node: gs.Node) -> bool:
    """Whether it may be rewritten: what multiplies two computed tensors stays as it is."""
    return node.op in WEIGHTED and any(isinstance(t, gs.Constant) for t in node.inputs)
