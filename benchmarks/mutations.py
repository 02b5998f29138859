"""Mutation testing of the solvers: each is broken in one place at a time, and a test must fail.

    python benchmarks/mutations.py                 # about 7 minutes on one thread
    python benchmarks/mutations.py --only kernels  # file or name contains it; results not written

Each mutation replaces one piece of the source in a copy of the package and runs the tests listed
for it until the first failure. The unchanged copy has to pass all of them first. Writes
results/mutations.json and .md; exit status 1 if a mutation survives.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import environment, write

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0  # seconds of one mutation's tests
SURVIVED = "SURVIVED"
# Runs pytest on the copy in argv[1], not on an installed package of the same name.
LAUNCH = """
import sys, pytest, score_embedding
if not score_embedding.__file__.startswith(sys.argv[1]):
    sys.exit("the package imported is not the mutated copy")
quiet = ["-x", "-q", "-p", "no:cacheprovider"]
sys.exit(pytest.main([*quiet, "-n", "0", "-m", "", *sys.argv[2:]]))
"""


@dataclass(frozen=True)
class Mutation:
    """`old`, which occurs once in `file`, becomes `new`; one of `tests` has to fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


DIFFERENCES = "fokker_planck/operators/differences.py"
DCT = "dct.py"
KERNELS = "fokker_planck/operators/kernels.py"
PROBLEM = "fokker_planck/problem.py"
SPECTRAL = "fokker_planck/schemes/spectral.py"
IMPLICIT = "fokker_planck/schemes/implicit.py"
LINEAR = "fokker_planck/operators/linear.py"
KRYLOV = "fokker_planck/schemes/krylov.py"
PUBLISHED = "fokker_planck/schemes/published.py"
FLATTENED = "fokker_planck/operators/flattened.py"
DRIFT = "fokker_planck/operators/drift.py"

MUTATIONS = (
    # differences and score
    Mutation(
        "central difference: opposite sign",
        DIFFERENCES,
        "-next_to_last], dim=axis) / (2 * dh)",
        "-next_to_last], dim=axis) / (-2 * dh)",
        ("gradient",),
    ),
    Mutation(
        "central difference: divided by dh, not 2 dh",
        DIFFERENCES,
        "-next_to_last], dim=axis) / (2 * dh)",
        "-next_to_last], dim=axis) / dh",
        ("gradient",),
    ),
    Mutation(
        "central difference, reflecting wall: ghost cell takes the opposite sign",
        DIFFERENCES,
        "second - first, next_to_last - last",
        "second + first, next_to_last + last",
        ("gradient",),
    ),
    Mutation(
        "central difference, zero beyond the edge: reflected instead",
        DIFFERENCES,
        'if boundary == "reflect":\n        second, next',
        "if True:\n        second, next",
        ("gradient",),
    ),
    Mutation(
        "gradient: axes in the wrong order",
        DIFFERENCES,
        "for axis in range(-dims, 0))",
        "for axis in range(-1, -dims - 1, -1))",
        ("gradient",),
    ),
    Mutation(
        "score: components subtracted, not added",
        DIFFERENCES,
        "total = sum(others, start=first).to",
        "total = sum(others, start=-first).to",
        ("gradient",),
    ),
    Mutation(
        "second difference: opposite sign",
        DIFFERENCES,
        "return slopes.diff(dim=axis) / dh**2",
        "return -slopes.diff(dim=axis) / dh**2",
        ("linear",),
    ),
    Mutation(
        "second difference, reflecting wall: ghost cell takes the opposite sign",
        DIFFERENCES,
        "torch.zeros_like(first), torch.zeros_like(last)",
        "2 * first, 2 * last",
        ("linear",),
    ),
    # kernels of one axis
    Mutation(
        "heat kernel: modes grow instead of decaying",
        KERNELS,
        "torch.exp(-0.5 * diffusion_time",
        "torch.exp(0.5 * diffusion_time",
        ("kernels",),
    ),
    Mutation(
        "heat kernel: tau in place of tau/2",
        KERNELS,
        "torch.exp(-0.5 * diffusion_time",
        "torch.exp(-1.0 * diffusion_time",
        ("kernels",),
    ),
    Mutation(
        "cosine basis: half a pixel's shift missing",
        DCT,
        "k[:, None] * (2 * k + 1) % (4 * size)",
        "k[:, None] * (2 * k) % (4 * size)",
        ("kernels",),
    ),
    Mutation(
        "cosine basis: constant mode normalised as the others",
        DCT,
        "C[0] = 1 / math.sqrt(size)",
        "C[0] = math.sqrt(2 / size)",
        ("kernels",),
    ),
    Mutation(
        "sine basis: eigenvalues of a grid one pixel shorter",
        DCT,
        "angle = math.pi / (size + 1) * (k.double() + 1)",
        "angle = math.pi / size * (k.double() + 1)",
        ("kernels",),
    ),
    Mutation(
        "heat kernel: round-off of either sign left in",
        KERNELS,
        "return kernel.clamp_min(0)",
        "return kernel",
        ("kernels",),
    ),
    Mutation(
        "precise heat kernel: nothing flows in from beyond the last pixel",
        KERNELS,
        "generator[size - 1, size] += 1",
        "generator[size - 1, size] += 0",
        ("kernels",),
    ),
    Mutation(
        "affine kernel: drift of the opposite sign (Bernoulli function of -z)",
        KERNELS,
        "rate * _bernoulli(z), rate * _bernoulli(-z)",
        "rate * _bernoulli(-z), rate * _bernoulli(z)",
        ("spectral",),
    ),
    Mutation(
        "affine kernel: trapezium rule in place of Simpson's",
        KERNELS,
        "drift.rate_at(a) + 4 * drift.rate_at((a + b) / 2) + drift.rate_at(b)",
        "3 * drift.rate_at(a) + 3 * drift.rate_at(b)",
        ("kernels",),
    ),
    Mutation(
        "affine kernel: substeps multiplied in the opposite order",
        KERNELS,
        "_positive_exponential(generator) @ kernel",
        "kernel @ _positive_exponential(generator)",
        ("kernels",),
    ),
    Mutation(
        "affine kernel: no substeps",
        KERNELS,
        "count = math.ceil(substeps * (end - start) / float(times[-1] - times[0]))",
        "count = 1",
        ("spectral",),
    ),
    # spectral
    Mutation(
        "spectral: tau from time 0, not from the first time",
        PROBLEM,
        "self.sde.integral_g2(self.times[0], self.times)",
        "self.sde.integral_g2(0 * self.times[0], self.times)",
        ("fokker_planck",),
    ),
    Mutation(
        "spectral: peak not added back",
        SPECTRAL,
        "torch.add(m, peak[:, None], out=",
        "torch.add(m, 0 * peak[:, None], out=",
        ("fokker_planck",),
    ),
    Mutation(
        "spectral: first entry recomputed, not m0 bit for bit",
        SPECTRAL,
        "log_density[:, 0] = m0  # bit for bit, not to round-off",
        "pass",
        ("fokker_planck",),
    ),
    Mutation(
        "spectral: kernels rounded to float32",
        SPECTRAL,
        "{size: K[:, :size, :size].to(dtype) for",
        "{size: K[:, :size, :size].float().to(dtype) for",
        ("fokker_planck",),
    ),
    Mutation(
        "spectral: kernels of the axes swapped",
        SPECTRAL,
        "first, *others = kernels\n",
        "first, *others = kernels[::-1]\n",
        ("fokker_planck",),
    ),
    Mutation(
        "spectral: kernel of the second axis transposed",
        SPECTRAL,
        "torch.bmm(lines.flatten(1, -2), kernel.mT)",
        "torch.bmm(lines.flatten(1, -2), kernel)",
        ("spectral",),
    ),
    Mutation(
        "spectral, zero beyond the edge: inflow missing",
        SPECTRAL,
        "p = p + outside[:, None, None] * (-peak).exp()",
        "p = p + 0",
        ("spectral",),
    ),
    Mutation(
        "spectral: fast kernels at any depth below the peak",
        SPECTRAL,
        "return bool((highest - lowest).max() > RANGE)",
        "return False",
        ("spectral",),
    ),
    Mutation(
        "fast transform: eigenvalues of the second derivative, not of the difference",
        SPECTRAL,
        "(2 - 2 * np.cos(np.pi * np.arange(size) / size)) / dh**2",
        "(np.pi * np.arange(size) / size) ** 2 / dh**2",
        ("spectral",),
    ),
    # SDEs and embedding
    Mutation(
        "variance exploding: integral of g, not of g^2",
        "sde.py",
        "k, span = 2 * math.log(self.sigma), b",
        "k, span = math.log(self.sigma), b",
        ("sde",),
    ),
    Mutation(
        "variance exploding: difference of exponentials in place of expm1",
        "sde.py",
        "torch.exp(k * a) * torch.expm1(k * span) / k",
        "(torch.exp(k * b) - torch.exp(k * a)) / k",
        ("sde",),
    ),
    Mutation(
        "variance preserving: rectangle rule in place of the trapezium rule",
        "sde.py",
        "(b - a) * (self.beta(a) + self.beta(b)) / 2",
        "(b - a) * self.beta(b)",
        ("sde",),
    ),
    Mutation(
        "embedding: score of the step before",
        "fokker_planck/embedding.py",
        "** 2 / 2 * s[:, i]",
        "** 2 / 2 * s[:, i - 1]",
        ("embedding",),
    ),
    # implicit
    Mutation(
        "implicit: grad m . grad m of the opposite sign",
        IMPLICIT,
        "self.velocity[:, None] - heat.d / 2 * slope",
        "self.velocity[:, None] + heat.d / 2 * slope",
        ("fokker_planck",),
    ),
    Mutation(
        "implicit: drift over the diffusion time d, not dt",
        IMPLICIT,
        "velocity = dt * field.centres",
        "velocity = d * field.centres",
        ("implicit",),
    ),
    Mutation(
        "implicit: drift at the start of the step",
        IMPLICIT,
        "field_at(drift, end, grid",
        "field_at(drift, start, grid",
        ("implicit",),
    ),
    Mutation(
        "implicit: div f of the opposite sign",
        IMPLICIT,
        "source = -dt * field.divergence(dh)",
        "source = dt * field.divergence(dh)",
        ("implicit",),
    ),
    Mutation(
        "implicit, reflecting wall: slope 2 f / g^2 of the opposite sign",
        IMPLICIT,
        "slope = 2 * face.select(axis, wall) * dt / d ",
        "slope = -2 * face.select(axis, wall) * dt / d ",
        ("implicit",),
    ),
    Mutation(
        "implicit, reflecting wall: slope missing in the right side",
        IMPLICIT,
        "m_before + self.source - (system.u * self.ghost_slope[:, None]).sum(dim=0)",
        "m_before + self.source",
        ("implicit",),
    ),
    Mutation(
        "implicit: one iteration, whatever the tolerance",
        IMPLICIT,
        "going = going[residual > iteration.tolerance]",
        "going = going[:0]",
        ("fokker_planck",),
    ),
    Mutation(
        "implicit: result not checked against its equation",
        IMPLICIT,
        "if not bool(wrong.any()):",
        "if True:",
        ("implicit",),
    ),
    Mutation(
        "implicit: every step begins at m0",
        IMPLICIT,
        "_fixed_point(i, step, fields[-1], names, iteration)",
        "_fixed_point(i, step, fields[0], names, iteration)",
        ("fokker_planck",),
    ),
    # linear systems
    Mutation(
        "linear: preconditioner of twice the diffusion",
        LINEAR,
        "self._symbol[..., None] + d / (2 * dh**2) * Lambda",
        "self._symbol[..., None] + d / dh**2 * Lambda",
        ("linear",),
    ),
    Mutation(
        "conjugate residuals: directions not orthogonalised",
        LINEAR,
        "for _ in range(2 if images else 0)",
        "for _ in range(0)",
        ("linear",),
    ),
    Mutation(
        "conjugate residuals: solved channels go on beside the others",
        LINEAR,
        "torch.where(solved | (length <= 1e-13 * whole), 0.0, 1 / length)",
        "torch.where(length <= 1e-13 * whole, 0.0, 1 / length)",
        ("linear",),
    ),
    Mutation(
        "direct: zero beyond the edge taken for a wall",
        LINEAR,
        'edge = 1.0 if boundary == "reflect" else 0.0',
        "edge = 1.0",
        ("linear",),
    ),
    # krylov
    Mutation(
        "krylov: projection subtracted, not added",
        KRYLOV,
        "return start + (y @ V.flatten(1))",
        "return start - (y @ V.flatten(1))",
        ("krylov",),
    ),
    Mutation(
        "krylov: later images numbered one too low",
        KRYLOV,
        "first_image=seeds,",
        "first_image=seeds - 1,",
        ("krylov",),
    ),
    # flattened
    Mutation(
        "flattened: beta of the same sign on both sides, iterated",
        FLATTENED,
        "(alpha + beta) / diagonal, (alpha - beta) / diagonal",
        "(alpha - beta) / diagonal, (alpha - beta) / diagonal",
        ("flattened", "published"),
    ),
    Mutation(
        "flattened: beta of the same sign on both sides, factorised",
        FLATTENED,
        "ahead, behind = alpha + beta, alpha - beta\n",
        "ahead, behind = alpha - beta, alpha - beta\n",
        ("flattened", "published"),
    ),
    Mutation(
        "flattened: alpha of the row, not of the column, iterated",
        FLATTENED,
        "subtract_neighbours(residual, ahead * v, behind * v, h)",
        "subtract_neighbours(residual, np.roll(ahead, 1) * v, np.roll(behind, -1) * v, h)",
        ("flattened", "published"),
    ),
    Mutation(
        "flattened: alpha of the row, not of the column, factorised",
        FLATTENED,
        "sparse.dia_matrix(([ahead, behind], [1, -1])",
        "sparse.dia_matrix(([np.roll(ahead, 1), np.roll(behind, -1)], [1, -1])",
        ("flattened", "published"),
    ),
    Mutation(
        "flattened: rows w pixels apart, not h, iterated",
        FLATTENED,
        "for offset in (1, h):",
        "for offset in (1, len(residual) // h):",
        ("flattened", "published"),
    ),
    Mutation(
        "flattened: rows w pixels apart, not h, factorised",
        FLATTENED,
        "([ahead, behind], [h, -h])",
        "([ahead, behind], [size // h, -(size // h)])",
        ("flattened", "published"),
    ),
    Mutation(
        "flattened: the weight of a real interval, not of the ellipse",
        FLATTENED,
        "1 - real**2 + imaginary**2)",
        "1 - real**2)",
        ("flattened", "published"),
    ),
    Mutation(
        "flattened: the iteration ends at single precision",
        FLATTENED,
        "ROUNDOFF = 1e-14",
        "ROUNDOFF = 1e-7",
        ("flattened", "published"),
    ),
    # published
    Mutation(
        "published: dt = 1/(N - 1), not 1/N",
        PUBLISHED,
        "N, dt = len(half_g2), 1 / len(half_g2)",
        "N, dt = len(half_g2), 1 / max(len(half_g2) - 1, 1)",
        ("published",),
    ),
    Mutation(
        "published: score repeats the two ends",
        PUBLISHED,
        "np.pad(m, ((0, 0), (1, 1)))",
        'np.pad(m, ((0, 0), (1, 1)), mode="edge")',
        ("published",),
    ),
    Mutation(
        "published: bound of the stable region with half of dh/(g^2 dt)",
        PUBLISHED,
        "dh * len(s) / (2 * half_g2[1:])",
        "dh * len(s) / (4 * half_g2[1:])",
        ("published",),
    ),
    # drift
    Mutation(
        "drift: positions measured from half a pixel off the middle",
        DRIFT,
        "- (size - 1) / 2) * dh",
        "- size / 2) * dh",
        ("drift",),
    ),
    Mutation(
        "drift: on inner faces that of the pixel before, no average",
        DRIFT,
        "(f.narrow(axis, 0, size - 1) + f.narrow(axis, 1, size - 1)) / 2",
        "f.narrow(axis, 0, size - 1)",
        ("drift",),
    ),
    Mutation(
        "drift: divergence of the opposite sign",
        DRIFT,
        "(face.diff(dim=axis) / dh for",
        "(-face.diff(dim=axis) / dh for",
        ("drift",),
    ),
)


def copy_of_package(folder: Path) -> Path:
    copy = folder / "src"
    shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def apply(mutation: Mutation, copy: Path) -> None:
    path = copy / "score_embedding" / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise SystemExit(
            f"mutation {mutation.name!r}: its text occurs {text.count(mutation.old)} times in "
            f"{mutation.file}, not once"
        )
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def first_failure(copy: Path, tests: tuple[str, ...]) -> str | None:
    """The test that failed, without its parameters; None if all passed."""
    paths = [str(ROOT / "tests" / f"test_{name}.py") for name in tests]
    finished = subprocess.run(
        [sys.executable, "-c", LAUNCH, str(copy), *paths],
        cwd=copy.parent,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if finished.returncode == 0:
        return None
    failed = re.search(r"^FAILED \S*?(test_\w+\.py::\w+)", finished.stdout, re.MULTILINE)
    if finished.returncode != 1 or failed is None:
        raise SystemExit(f"the tests did not run:\n{finished.stdout}{finished.stderr}")
    return failed[1]


def outcome(mutation: Mutation) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_of_package(Path(folder))
        apply(mutation, copy)
        started = time.perf_counter()
        caught_by = first_failure(copy, mutation.tests) or SURVIVED
        seconds = time.perf_counter() - started
    print(f"{seconds:5.1f} s  {mutation.name}: {caught_by}", flush=True)
    return {
        "mutation": mutation.name,
        "file": mutation.file,
        "caught by": caught_by,
        "seconds": seconds,
    }


def check_texts(mutations: list[Mutation]) -> None:
    """Check that the text of every mutation is found, before any tests are run."""
    for mutation in mutations:
        with tempfile.TemporaryDirectory() as folder:
            apply(mutation, copy_of_package(Path(folder)))


def check_control(mutations: list[Mutation]) -> None:
    tests = tuple(dict.fromkeys(test for mutation in mutations for test in mutation.tests))
    with tempfile.TemporaryDirectory() as folder:
        failed = first_failure(copy_of_package(Path(folder)), tests)
    if failed is not None:
        raise SystemExit(f"without any mutation, {failed} fails")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT")
    only = parser.parse_args().only
    machine = environment()
    mutations = [m for m in MUTATIONS if only in m.file or only in m.name]
    check_texts(mutations)
    check_control(mutations)
    rows = [outcome(mutation) for mutation in mutations]
    if not only:
        write("mutations", rows, machine)
    survivors = [row["mutation"] for row in rows if row["caught by"] == SURVIVED]
    print(f"{len(rows)} mutations, {len(survivors)} survived")
    if survivors:
        sys.exit(1)


if __name__ == "__main__":
    main()
