"""Where samples come from: image files, decoded when they are read, or arrays, taken as they are or as pixels.

A source knows how many samples it has and reads those with given numbers into one batch. uint8 arrays are pixels and
go through `Preprocess`; other arrays have the shape of the model's input, and only scale, mean and std apply to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ndpass.calibration import tensors
from ndpass.calibration.archives import load_arrays
from ndpass.calibration.images import decode
from ndpass.calibration.preprocess import Preprocess
from ndpass.errors import InputError
from ndpass.graph.input_spec import InputSpec

Feed = dict[str, NDArray[np.float32]]  # input name -> (batch, ...); of the input's dtype where that is not float32


class Source(Protocol):
    """Samples by number. `read` takes numbers (n,) and gives each input as (n, ...), in that order.

    `part` is a source of these samples alone, by absolute paths where they are in files; nbytes: that it has in memory.
    """

    def __len__(self) -> int: ...

    def read(self, samples: NDArray[np.intp]) -> Feed: ...

    def part(self, samples: NDArray[np.intp]) -> Source: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class ImageFiles:
    """One sample for each file; only the files of the batch that is read are in memory."""

    paths: Sequence[Path]
    spec: InputSpec
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, samples: NDArray[np.intp]) -> Feed:
        paths = [self.paths[i] for i in samples]
        return {self.spec.name: tensors.join([self._load(path) for path in paths], [str(path) for path in paths])}

    def part(self, samples: NDArray[np.intp]) -> ImageFiles:
        return replace(self, paths=[self.paths[i].absolute() for i in samples])

    @property
    def nbytes(self) -> int:
        return 0

    def _load(self, path: Path) -> NDArray[Any]:
        """(1, ...)"""
        pixels = decode(path)
        try:
            image = self.preprocess.apply(pixels, white=255)[None]
        except InputError as e:
            raise InputError(f"{path}: {e}") from e
        tensors.check_shape(image.shape, self.spec, self.preprocess, str(path))
        return tensors.cast(image, self.spec, self.preprocess)


class Arrays:
    """Elements that each hold one sample or, with a batch axis, several: arrays, or {input name: array}.

    origin: what the errors call the whole. Raises InputError when an element does not fit the inputs.
    """

    def __init__(
        self, elements: Sequence[Any], specs: Sequence[InputSpec], preprocess: Preprocess | None, origin: str
    ) -> None:
        self._elements, self._specs, self._preprocess, self._origin = elements, specs, preprocess, origin
        counts = [self._count(i) for i in range(len(elements))]
        self._owner = np.repeat(np.arange(len(elements)), counts)  # sample -> element
        self._row = np.concatenate([np.arange(0), *map(np.arange, counts)])  # sample -> row in that element

    def __len__(self) -> int:
        return len(self._owner)

    def read(self, samples: NDArray[np.intp]) -> Feed:
        # Neighbours from one element are read together: a whole batch of one array is one operation.
        runs = np.split(samples, np.flatnonzero(np.diff(self._owner[samples])) + 1)
        parts = [self._read_run(run) for run in runs]
        places = [self._place(run[0]) for run in runs]
        return {spec.name: tensors.join([part[spec.name] for part in parts], places) for spec in self._specs}

    def part(self, samples: NDArray[np.intp]) -> Source:
        """Of a .npy file its path, else the rows themselves."""
        only = self._elements[0] if len(self._elements) == 1 else None
        if isinstance(only, np.memmap) and only.filename is not None:
            return FileRows(Path(only.filename).absolute(), self._specs, self._preprocess, samples)
        runs = np.split(samples, np.flatnonzero(np.diff(self._owner[samples])) + 1)
        owners = [self._element(int(self._owner[run[0]])) for run in runs]
        rows = [
            {name: np.array(array[self._row[run]]) for name, array in element.items()}
            for element, run in zip(owners, runs, strict=True)
        ]
        return Arrays(rows, self._specs, self._preprocess, self._origin)

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for i in range(len(self._elements)) for a in self._element(i).values())

    def _read_run(self, run: NDArray[np.intp]) -> Feed:
        element = self._element(int(self._owner[run[0]]))
        return {s.name: self._tensor(element[s.name][self._row[run]], s, run) for s in self._specs}

    def _place(self, sample: int) -> str:
        return f"{self._origin}: sample {sample}"

    def _count(self, index: int) -> int:
        counts = {name: len(rows) for name, rows in self._element(index).items()}
        if len({*counts.values()}) > 1:
            found = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
            law = "all inputs have the same batch"
            raise InputError(f"{self._origin}: element {index}: {law}; found {found}; make them equal")
        return next(iter(counts.values()))

    def _element(self, index: int) -> dict[str, NDArray[Any]]:
        """The rows of each input, (rows, ...)."""
        place, value, names = f"{self._origin}: element {index}", self._elements[index], [s.name for s in self._specs]
        if not isinstance(value, Mapping):
            if len(names) != 1:
                law = f"a model with {len(names)} inputs is fed with {{input name: array}}"
                raise InputError(f"{place}: {law}; got one array; name the inputs {', '.join(names)}")
            tensors.check_alone(value, place)
            value = {names[0]: value}
        if set(value) != set(names):
            raise InputError(f"{place}: inputs are {', '.join(names)}; got {', '.join(map(str, value))}; name these")
        rows = {spec.name: self._rows(value[spec.name], spec, place) for spec in self._specs}
        count = max(map(len, rows.values()))
        return {spec.name: tensors.for_each(rows[spec.name], spec, count) for spec in self._specs}

    def _rows(self, value: Any, spec: InputSpec, place: str) -> NDArray[Any]:
        array = tensors.as_array(value, place)
        if self._is_pixels(array, spec):
            channels = 3 if self._preprocess is None else self._preprocess.channels
            return tensors.pixel_rows(array, channels, place)
        return tensors.tensor_rows(array, spec, place)

    def _is_pixels(self, array: NDArray[Any], spec: InputSpec) -> bool:
        """uint8 is pixels, except for the named inputs of a model with several and for an input that takes uint8."""
        if array.dtype != np.uint8 or len(self._specs) > 1:
            return False
        return self._preprocess is not None or spec.dtype != np.uint8

    def _tensor(self, rows: NDArray[Any], spec: InputSpec, samples: NDArray[np.intp]) -> NDArray[Any]:
        """Rows (n, ...) as the input takes them."""
        place = self._place(samples[0])
        if self._is_pixels(rows, spec):
            preprocess = tensors.require(self._preprocess, f"{self._origin}: uint8 arrays", spec)
            rows = tensors.from_pixels(rows, preprocess)
            tensors.check_shape(rows.shape, spec, preprocess, place)
            return tensors.cast(rows, spec, preprocess)
        tensors.check_shape(rows.shape, spec, None, place)
        rows = tensors.cast(rows, spec)
        if (bad := tensors.first_not_finite(rows)) is not None:
            raise InputError(f"{self._place(samples[bad])}: {spec.name!r} has NaN or Inf; data are finite; repair it")
        return tensors.cast(self._standardised(rows, spec), spec, self._preprocess)

    def _standardised(self, rows: NDArray[Any], spec: InputSpec) -> NDArray[Any]:
        if self._preprocess is None:
            return rows
        if rows.ndim != 4 or len(self._specs) > 1:
            law = "preprocessing is for a model with one input of images"
            raise InputError(f"{self._origin}: {law}; {spec}; leave out --preprocess")
        return self._preprocess.standardise(rows)


@dataclass(frozen=True)
class FileRows:
    """Rows (n,) of the array in a .npy file, which is opened where it is read."""

    path: Path
    specs: Sequence[InputSpec]
    preprocess: Preprocess | None
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, samples: NDArray[np.intp]) -> Feed:
        array = tensors.with_channels(load_arrays(self.path)[0], self.preprocess)
        return Arrays([array], self.specs, self.preprocess, str(self.path)).read(self.rows[samples])

    def part(self, samples: NDArray[np.intp]) -> FileRows:
        return replace(self, rows=self.rows[samples])

    @property
    def nbytes(self) -> int:
        return 0


@dataclass(frozen=True, eq=False)
class Tensors:
    """Samples that were read before, as the model gets them: each input (n, ...)."""

    tensors: Feed

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def read(self, samples: NDArray[np.intp]) -> Feed:
        return {name: tensor[samples] for name, tensor in self.tensors.items()}

    def part(self, samples: NDArray[np.intp]) -> Tensors:
        return Tensors(self.read(samples))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())
