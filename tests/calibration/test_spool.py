"""Activations on disk: what is read is what was put there, and nothing stays behind."""

from __future__ import annotations

import errno
import gc
from pathlib import Path

import numpy as np
import pytest

from ndpass.calibration.spool import Batch, Place, Spool


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int64, np.bool_])
def test_arrays_come_back_as_they_were(kind: type, tmp_path: Path) -> None:
    arrays = [(10 * drawn(*shape)).astype(kind) for shape in ((3, 4, 5), (2,), (4, 0, 2), ())]
    arrays.append(arrays[0].T[::2])
    spool = Spool(tmp_path, sum(a.nbytes for a in arrays))
    for place, array in [(spool.put(a), a) for a in arrays][::-1]:
        got = place.read()
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


def test_a_batch_keeps_on_disk_what_is_there_already(tmp_path: Path) -> None:
    x, y = drawn(2, 3), drawn(2, 5, 4)
    first = Batch({"x": x, "y": y, "z": x}).of(("x", "y"), Spool(tmp_path, x.nbytes + y.nbytes))
    assert list(first) == ["x", "y"]
    second = first.of(("y",), Spool(tmp_path, y.nbytes))
    assert second.parts["y"] is first.parts["y"]
    np.testing.assert_array_equal(second["y"], y)
    in_memory = second.of(("y",), None)
    assert isinstance(in_memory.parts["y"], np.ndarray)


def test_what_has_lost_channels_is_where_it_was(tmp_path: Path) -> None:
    x, y = drawn(2, 3, 4), drawn(2, 5)
    spool = Spool(tmp_path, x.nbytes)
    batch = Batch({"x": spool.put(x), "y": y}).narrowed({"x": (1, np.array([0, 2])), "y": (1, np.array([4]))}, spool)
    assert isinstance(batch.parts["x"], Place)
    np.testing.assert_array_equal(batch["x"], x[:, [0, 2]])
    np.testing.assert_array_equal(batch["y"], y[:, 4:])


def test_a_file_has_no_name_and_goes_with_its_last_array(tmp_path: Path) -> None:
    open_files = Path("/proc/self/fd")
    before = len(list(open_files.iterdir())) if open_files.is_dir() else None
    place = Spool(tmp_path, 64).put(drawn(4, 4))
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(place.read(), drawn(4, 4))
    del place
    gc.collect()
    if before is not None:
        assert len(list(open_files.iterdir())) == before


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        Spool(tmp_path, 1 << 60)
    assert caught.value.errno == errno.ENOSPC
