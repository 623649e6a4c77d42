"""Which layers lose input channels together: every layer in one group at most, or why it keeps all of its channels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx_graphsurgeon as gs

from ndpass.graph.channel_groups import Group, input_group
from ndpass.graph.dependencies import index_of
from ndpass.graph.shapes import Shape
from ndpass.graph.sites import Found, Site, Skipped


def groups_of(
    graph: gs.Graph, found: Sequence[Found], shapes: Mapping[str, Shape], whole: Collection[str]
) -> dict[str, Group | str]:
    """Site name -> the group that its input channels are pruned in, as it sees it, or why they are not.

    Each layer is in one group at most, with all that read the same channels; the first of them reads no others.
    Arguments: as of `group_of`.
    """
    groups: dict[str, Group | str] = {}
    for site in (one for one in found if isinstance(one, Site)):
        if site.name in groups:
            continue
        group = group_of(graph, site, found, shapes, whole)
        taken = None if isinstance(group, str) else next((n for n in group.readers if n in groups), None)
        if isinstance(group, str):
            groups[site.name] = group
        elif taken is not None:
            groups[site.name] = f"its input channels also feed '{taken}', which has others to share"
        else:
            groups.update((name, group.seen_by(name)) for name in group.readers)
    return groups


def group_of(
    graph: gs.Graph, site: Site, found: Sequence[Found], shapes: Mapping[str, Shape], whole: Collection[str]
) -> Group | str:
    """Who makes and who reads the site's input channels; or why they cannot be pruned.

    found: every operator with weights; shapes: tensor name -> shape, of the graph as it is now; whole: layers whose
    input channels are left alone. All that read the channels are sites, because each is fitted anew to those that are
    left.
    """
    if site.transposed:
        return "transposed convolution: its input channels are left alone"
    node = next(n for n in graph.nodes if n.name == site.name)
    group = input_group(graph, node, shapes)
    if isinstance(group, str) or group.readers == (site.name,):
        return group
    named = {one.name: one for one in found}
    for name in (member.node.name for member in group.consumers):
        why = _why_whole(named[name], whole)
        if why is not None:
            return f"its input channels also feed '{name}': {why}"
    return _added_behind(graph, group) or group


def _why_whole(found: Found, whole: Collection[str]) -> str | None:
    """Why the channels that a layer reads cannot be pruned, whatever others read them."""
    if isinstance(found, Skipped):
        return found.reason
    if found.transposed:
        return "a transposed convolution"
    if found.name in whole:
        return "it is left as it is"
    return None if found.in_hw is not None else "its input size is not known, so its cost is not"


def _added_behind(graph: gs.Graph, group: Group) -> str | None:
    """Why a group whose channels a transposed convolution makes behind the first reader is not pruned."""
    first = next(i for i, node in enumerate(graph.nodes) if node.name == group.readers[0])
    for node in (member.node for member in group.producers):
        if node.op == "ConvTranspose" and index_of(graph.nodes, node) > first:
            return f"'{node.name}', a transposed convolution, is added to its input channels behind the first reader"
    return None
