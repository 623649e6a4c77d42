"""A model as a worker has it: read from bytes, changed as the graph on the machine that asks, there once."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import plain

from ndpass.calibration.walk import Edit
from ndpass.conv import Conv
from ndpass.engine.model import Log, Model, apply, pack
from ndpass.errors import EngineError
from ndpass.files.model_file import open_graph
from ndpass.graph.graph import Graph, Site
from ndpass.passes import parse
from ndpass.passes.base import Decomposition


def model(folder: Path) -> Model:
    onnx.save(plain(), folder / "net.onnx")
    return Model.of(folder / "net.onnx", (), open_graph(folder / "net.onnx").graph.sizes, 1)


def site(graph: Graph, name: str) -> Site:
    return next(one for one in graph.sites() if isinstance(one, Site) and one.name == name)


def written(graph: Graph) -> bytes:
    return bytes(graph.to_model().SerializeToString())


def edits() -> tuple[list[Edit], bytes]:
    """A pruned and a decomposed layer, and what the network is then."""
    graph = Graph(plain())
    done = []
    group = graph.channel_group(site(graph, "c"))
    assert not isinstance(group, str)
    channels = group.filled(np.arange(0, group.size, 2))
    graph.keep_channels(group, channels)
    done.append(Edit("c", channels=channels))
    (rule,) = parse("cd:rank=3")
    assert isinstance(rule, Decomposition)
    found = site(graph, "c")
    block = rule.rewrite(found.conv, {"rank": 3}, None)
    graph.splice(found, block)
    done.append(Edit("c", block))
    return done, written(graph)


def test_changes_that_are_sent_make_the_same_graph(folder: Path) -> None:
    done, wanted = edits()
    there, log = model(folder), Log()
    for edit in done:
        log = log.then(pack(edit))
    with there.at(log) as runners:
        assert written(runners.graph) == wanted
    with there.at(Log()) as runners:  # one that is behind the others is read anew
        assert written(runners.graph) == written(Graph(plain()))
        with there.at(log) as ahead:
            assert ahead.graph is not runners.graph
            assert written(ahead.graph) == wanted


def test_a_change_holds_nothing_that_would_be_unpickled() -> None:
    """A pickle in the place of an array is refused."""
    packed = pickle.dumps(np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        apply(packed, Graph(plain()))
    assert b"NUMPY" in pack(Edit("a", Conv(np.zeros((2, 2, 1, 1), np.float32))))


def test_a_model_is_in_a_process_once(folder: Path) -> None:
    sent = pickle.dumps(model(folder))
    first, second = pickle.loads(sent), pickle.loads(sent)
    assert first is second
    with first.at(Log()) as one, first.at(Log()) as other:
        assert one is other


def test_a_graph_waits_until_one_of_those_in_use_is_free(folder: Path) -> None:
    """There are three at most."""
    there = model(folder)
    logs = [Log()]
    for number in range(3):
        conv = Conv(np.full((12, 3, 3, 3), number, np.float32), np.zeros(12, np.float32), pads=(1, 1, 1, 1))
        logs.append(Log().then(pack(Edit("a", conv))))
    came = threading.Event()

    def last() -> None:
        with there.at(logs[3]):
            came.set()

    waiting = threading.Thread(target=last)
    with there.at(logs[0]), there.at(logs[1]):
        with there.at(logs[2]):
            waiting.start()
            assert not came.wait(0.2)
        assert came.wait(30)
    waiting.join()


def test_another_version_is_refused_before_anything_is_read(folder: Path) -> None:
    there = model(folder)
    there.versions = {**there.versions, "numpy": "0.1"}
    with pytest.raises(EngineError, match=r"numpy .* \(here 0.1\): results would differ"), there.at(Log()):
        pass
