"""Reading pickles of numpy arrays, and of nothing else.

Loading a pickle can run any code its author chose. The unpickler here resolves only the few names
that numpy's own arrays need, and even those not to numpy but to stand-ins in this file: numpy
trusts the state in a pickle, and a crafted dtype state turns bytes into pointers. Arrays are made
from the stand-ins once the whole pickle has been read.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from score_embedding.errors import DataError

_KINDS = "buifcSUO"


def read(source: bytes, name: str | Path, encoding: str = "ASCII") -> Any:
    """The object of a pickle made of numpy arrays, lists, dicts, strings and numbers.

    `name` is that of the file in errors; `encoding` is pickle's, "bytes" for files of Python 2.

    Raises
    ------
    DataError : the pickle is truncated or damaged, or asks for anything but numpy arrays.
    """
    try:
        _refuse_huge_memo(source)
        return _to_numpy(_ArrayUnpickler(io.BytesIO(source), encoding=encoding).load())
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(
            f"{name}: not a pickle of plain numpy arrays ({error}); only those are read, because "
            f"other pickles can run code"
        ) from error


class _Dtype:
    """Stands for numpy.dtype; of its state only the byte order is believed."""

    def __init__(self, code: str | bytes, *_: object):
        text = code.decode("ascii") if isinstance(code, bytes) else code
        self.dtype = np.dtype(text)
        if self.dtype.kind not in _KINDS or self.dtype.names or self.dtype.subdtype:
            raise pickle.UnpicklingError(f"dtype {text!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if self.dtype.kind != "O" and state[1] in (">", b">"):
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    """Stands for numpy.ndarray until the whole pickle has been read."""

    def __init__(self) -> None:
        self.content: tuple[tuple[int, ...], _Dtype, bool, Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, data = state[-4:]  # a version number may stand before them
        self.content = (shape, dtype, bool(fortran), data)

    def to_numpy(self) -> np.ndarray:
        if self.content is None:
            raise pickle.UnpicklingError("an array without content")
        shape, stand_in, fortran, data = self.content
        dtype, order = stand_in.dtype, "F" if fortran else "C"
        if dtype.kind == "O":
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise pickle.UnpicklingError("an object array that does not fit its shape")
            array = np.empty(len(data), dtype=object)
            for i, item in enumerate(data):
                array[i] = _to_numpy(item)
        else:
            if isinstance(data, str):  # Python 2 wrote bytes, read with encoding latin1
                data = data.encode("latin1")
            array = np.frombuffer(bytearray(data), dtype)
        return array.reshape(shape, order=order)  # type: ignore[call-overload,no-any-return]


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.content = (shape, dtype, order == "F", data)
    return array


def _latin1(text: str, encoding: str) -> bytes:
    """How protocols before 3 hold bytes."""
    return text.encode("latin1" if encoding == "latin1" else "ascii")


def _empty_bytes() -> bytes:
    return b""


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): _empty_bytes,
    ("builtins", "bytes"): _empty_bytes,
} | {
    (f"numpy.{core}.{module}", name): stand_in
    for core in ("core", "_core")
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("numeric", "_frombuffer", _frombuffer),
    )
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _to_numpy(content: Any) -> Any:
    """Stand-ins replaced by what they stand for, in lists, tuples and dicts as well."""
    match content:
        case _Array():
            return content.to_numpy()
        case list():
            return [_to_numpy(item) for item in content]
        case tuple():
            return tuple(_to_numpy(item) for item in content)
        case dict():
            return {key: _to_numpy(value) for key, value in content.items()}
        case None | bool() | int() | float() | complex() | str() | bytes() | bytearray():
            return content
        case _:
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__.lstrip('_')}")


def _refuse_huge_memo(source: bytes) -> None:
    """A memo index beyond the file's size only serves to exhaust memory."""
    for opcode, argument, _ in pickletools.genops(source):
        if "PUT" in opcode.name and int(argument or 0) > len(source):
            raise pickle.UnpicklingError(f"memo index {argument}")
