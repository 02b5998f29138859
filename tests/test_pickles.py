import contextlib
import fractions
import os
import pickle
import subprocess
import sys
import textwrap
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from score_embedding.data import pickles
from score_embedding.errors import DataError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
LETTERS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def celebrities():
    images = np.empty(3, dtype=object)
    for i in range(3):
        images[i] = np.full((2 + i, 4, 3), 40 * i, dtype=np.uint8)
    return images


def is_object_array(content):
    return isinstance(content, np.ndarray) and content.dtype.hasobject


def assert_same(read, written):
    assert type(read) is type(written)
    if isinstance(written, np.ndarray):
        # up to protocol 4 numpy turns other byte orders into the machine's
        assert read.dtype.newbyteorder("=") == written.dtype.newbyteorder("=")
        assert read.shape == written.shape
    if isinstance(written, dict):
        assert list(read) == list(written)
        read, written = list(read.values()), list(written.values())
    if isinstance(written, list | tuple) or is_object_array(written):
        for one, other in zip(read, written, strict=True):
            assert_same(one, other)
    else:
        assert np.array_equal(read, written)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "content",
    [
        LETTERS,
        np.asfortranarray(LETTERS),
        LETTERS[:, ::2],
        LETTERS.astype(">u2"),
        np.linspace(0, 1, 7),
        np.array([True, False]),
        np.array(3.5),
        np.zeros((0, 3)),
        celebrities(),
        [LETTERS, LETTERS + 1.5],
        (LETTERS, [LETTERS]),
        {"a": LETTERS, b"b": [1, 2.5, None, True, "é"]},
    ],
    ids=[
        *("uint8", "fortran", "strided", "big-endian", "float", "bool", "scalar", "empty"),
        *("objects", "list", "tuple", "dict"),
    ],
)
def test_arrays_of_every_protocol_are_read(content, protocol):
    assert_same(pickles.read(pickle.dumps(content, protocol), "x"), content)


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_arrays_of_numpy_1_and_2_are_read(module):
    written = pickle.dumps(LETTERS, 2)
    for name in (b"numpy._core", b"numpy.core"):
        written = written.replace(b"c" + name, b"c" + module.encode())
    assert module.encode() + b".multiarray" in written
    assert_same(pickles.read(written, "x"), LETTERS)


class Calls:
    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


ATTACKS = {
    "os.system": lambda marker: Calls(os.system, f"touch {marker}"),
    "builtins.eval": lambda marker: Calls(eval, f"open({marker!r}, 'w').close()"),
    "builtins.exec": lambda marker: Calls(exec, f"open({marker!r}, 'w').close()"),
    "builtins.open": lambda marker: Calls(open, marker, "w"),
    "os.mkdir": lambda marker: Calls(os.mkdir, marker),
    "subprocess": lambda marker: Calls(subprocess.check_call, ["touch", marker]),
    "numpy.save": lambda marker: Calls(np.save, marker, LETTERS),
    "numpy.memmap": lambda marker: Calls(np.memmap, marker, "uint8", "w+", 0, (4,)),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_pickle_that_runs_code_is_refused_before_it_runs(attack, protocol, tmp_path):
    marker = tmp_path / "marker"
    bomb = ATTACKS[attack](str(marker))
    for content in (bomb, [LETTERS, bomb], {"data": bomb}, np.array([bomb, None])):
        with pytest.raises(DataError, match=r"^evil\.pkl: not a pickle of plain numpy arrays"):
            pickles.read(pickle.dumps(content, protocol), "evil.pkl")
    assert list(tmp_path.iterdir()) == []


def test_the_attacks_of_this_test_do_harm_elsewhere(tmp_path):
    for name in ("os.system", "builtins.eval"):
        marker = tmp_path / name
        pickle.loads(pickle.dumps(ATTACKS[name](str(marker))))
        assert marker.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cos\nsystem\n(S'touch {marker}'\ntR.",
        b"(S'touch {marker}'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x40touch {marker}\x85R.",
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x10f2py.os.system__\x93.",
        b"\x80\x02\x82\x01.",  # extension registry
        b"\x80\x02Pname\n.",  # persistent id
        b"\x80\x05\x97.",  # out-of-band buffer
    ],
)
def test_opcodes_that_reach_for_more_are_refused(opcodes, tmp_path):
    marker = tmp_path / "m"
    with pytest.raises(DataError):
        pickles.read(opcodes.replace(b"{marker}", str(marker).encode()), "x")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (fractions.Fraction(1, 2), "fractions.Fraction"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (np.random.RandomState(0), "numpy.random"),
        (LETTERS.sum, "getattr"),
        (DataError("x"), "score_embedding.errors.DataError"),
        ([LETTERS, 1j], "complex"),
    ],
)
def test_what_is_no_array_is_refused_by_name(content, name):
    with pytest.raises(DataError, match=name) as caught:
        pickles.read(pickle.dumps(content), "mine.pkl")
    assert str(caught.value).startswith("mine.pkl: ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("content", [celebrities(), {b"data": LETTERS, b"labels": [5, 3]}])
def test_a_pickle_cut_short_anywhere_is_refused(content, protocol):
    written = pickle.dumps(content, protocol)
    for length in range(len(written)):
        with pytest.raises(DataError, match=r"^cut\.pkl: "):
            pickles.read(written[:length], "cut.pkl")


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused_or_plain(content):
    # b"]." is a valid pickle of [], so not all random bytes must be refused
    plain = (np.ndarray, list, dict, tuple, set, frozenset, str, bytes, bytearray, int, float)
    with contextlib.suppress(DataError):
        read = pickles.read(b"\x80\x04" + content, "noise.pkl")
        assert read is None or isinstance(read, plain)


MUTATIONS = """
    import os, pickle, resource
    from pathlib import Path
    import numpy as np
    from hypothesis import given, settings, strategies as st
    from score_embedding.data import pickles
    from score_embedding.errors import DataError

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), used + (2 << 30)))
    images = np.empty(2, dtype=object)
    images[:] = [np.arange(12, dtype=np.uint8).reshape(2, 2, 3)[::-1] for _ in range(2)]
    batch = {b"data": np.arange(6.0)[::2], b"labels": [5, 3]}
    WRITTEN = [pickle.dumps(c, p) for c in (images, batch) for p in range(6)]

    @given(
        st.sampled_from(WRITTEN),
        st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=3),
    )
    @settings(max_examples=200, deadline=None, database=None, derandomize=True)
    def read_mutated(written, mutations):
        damaged = bytearray(written)
        for place, byte in mutations:
            damaged[int(place * len(damaged))] = byte
        try:
            repr(pickles.read(bytes(damaged), "x"))
        except DataError:
            pass

    read_mutated()
"""


def in_child(code, *arguments):
    """Run apart: what numpy does with a damaged pickle can end the process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
def test_damaged_pickles_are_refused_and_never_end_the_process():
    child = in_child(MUTATIONS)
    assert (child.returncode, child.stderr) == (0, "")


class Dtype:
    """Pickled as numpy pickles a dtype, with flags of our choosing."""

    def __init__(self, code, flags):
        self.reduced = np.dtype, (code, False, True), (3, "|", None, None, None, -1, -1, flags)

    def __reduce__(self):
        return self.reduced


class Array:
    """Pickled as numpy pickles an array, with a state of our choosing."""

    def __init__(self, shape, dtype, content):
        self.state = (1, shape, dtype, False, content)

    def __reduce__(self):
        return np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state


READ_AND_RELEASE = """
    import sys
    from score_embedding.data import pickles
    from score_embedding.errors import DataError
    try:
        array = pickles.read(bytes.fromhex(sys.argv[1]), "x")
        print(array.dtype, array.dtype.hasobject, array.tolist())
        del array
    except DataError:
        print("refused")
"""


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("lie", "harmless"),
    [
        (Array((4,), Dtype("u1", 0), b"\x01\x02\x03\x04"), "uint8 False [1, 2, 3, 4]"),  # no lie
        (Array((4,), Dtype("u1", 1), b"\x01\x02\x03\x04"), "uint8 False [1, 2, 3, 4]"),
        (Array((8,), Dtype("u1", 63), [None] * 8), "refused"),
        (Array((1,), Dtype("O8", 61), b"AAAAAAAA"), "refused"),  # bytes taken for a pointer
    ],
    ids=["honest", "numbers as references", "list as bytes", "bytes as references"],
)
def test_a_dtype_that_lies_about_itself_cannot_reach_memory(lie, harmless, protocol):
    child = in_child(READ_AND_RELEASE, pickle.dumps(lie, protocol).hex())
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.strip() in ("refused", harmless)


READ_AND_WEIGH = """
    import resource, sys
    from score_embedding.data import pickles
    from score_embedding.errors import DataError
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        pickles.read(bytes.fromhex(sys.argv[1]), "x")
        print("read", end=" ")
    except DataError:
        print("refused", end=" ")
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8e\x00\x00\x00\x40\x00\x00\x00\x00ab.",  # a gigabyte of bytes announced
        pickle.dumps(Array((2**31,), Dtype("u1", 0), b"\x01"), 2),
    ],
    ids=["bytes", "shape"],
)
def test_a_few_bytes_do_not_fill_the_memory(content):
    child = in_child(READ_AND_WEIGH, content.hex())
    assert (child.returncode, child.stderr) == (0, "")
    outcome, megabytes = child.stdout.split()
    assert outcome == "refused"
    assert int(megabytes) < 500
