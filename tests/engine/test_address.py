"""What --engine takes, and what is said where it cannot be taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, assert_refused

from ndpass.engine.address import Address, parse_engine
from ndpass.errors import UsageError

GOOD = {
    "dask://10.0.0.7:8786": Address("dask://10.0.0.7:8786", scheduler="tcp://10.0.0.7:8786"),
    "dask://tls://host:8786": Address("dask://tls://host:8786", scheduler="tls://host:8786"),
    "dask:///shared/scheduler.json": Address("dask:///shared/scheduler.json", file="/shared/scheduler.json"),
    "dask://local:4": Address("dask://local:4", workers=4),
}
BAD = ["ray://host:1", "host:8786", "dask://", "dask://host", "dask://host:x", "dask://local:0", "dask://h:70000", ""]


@pytest.fixture
def images(folder: Path) -> Path:
    np.save(folder / "images.npy", np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32))
    return Path("images.npy")


@pytest.mark.parametrize("text", GOOD)
def test_an_address_is_read(text: str) -> None:
    assert parse_engine(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_address_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(UsageError, match="dask://"):
        parse_engine(text)


def test_without_an_engine_there_is_none() -> None:
    assert parse_engine(None) is None


def test_without_the_extra_it_says_what_to_install(
    ndpass: Command, net: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = ndpass("run", net, "--passes", "sd:rank=2", "--calibration", images, "--engine", "dask://local:2")
    assert_refused(done, 2, "--engine needs Dask", "pip install 'ndpass[dask]'")


@pytest.mark.parametrize("option", [("--engine", "dask://local:2"), ("--shards", "2")])
def test_without_data_there_is_nothing_to_share_out(ndpass: Command, net: Path, option: tuple[str, str]) -> None:
    done = ndpass("run", net, "--passes", "sd:rank=2", *option)
    assert_refused(done, 2, option[0], "--calibration")


def test_a_scheduler_file_that_is_not_there_is_named(ndpass: Command, net: Path, images: Path) -> None:
    pytest.importorskip("distributed", reason="--engine needs the extra dask")
    done = ndpass("run", net, "--passes", "sd:rank=2", "--calibration", images, "--engine", "dask://no/such.json")
    assert_refused(done, 2, "no/such.json")


def test_without_an_engine_dask_is_not_imported() -> None:
    code = "import sys, ndpass.cli.app, ndpass.api; sys.exit('distributed' in sys.modules or 'dask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
