"""Running the runs of a comparison: in this process, in several, or as jobs of a SLURM cluster.

A run whose folder is complete is not run again; one that was interrupted is resumed.
"""

from __future__ import annotations

import logging
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from score_embedding import pipeline
from score_embedding.comparison.spec import Job
from score_embedding.config.schema import AnyConfig
from score_embedding.errors import ConfigError, RunFolderError, ScoreEmbeddingError
from score_embedding.runs import folder as run_folder

log = logging.getLogger(__name__)


def is_complete(job: Job) -> bool:
    """Whether the job's folder holds its finished run.

    Raises
    ------
    RunFolderError : the folder holds a run of another config.
    """
    if not (job.path / run_folder.CONFIG).is_file():
        run_folder.check_free(job.path, job.config, overwrite=False)
        return False
    if not run_folder.holds(job.path, job.config):
        raise RunFolderError(
            f"{job.path}: holds a run of another config; --overwrite runs it again, --out DIR "
            f"starts a comparison of its own"
        )
    return run_folder.is_finished(job.path)


def execute(
    jobs: list[Job],
    device: torch.device,
    processes: int = 1,
    slurm: dict[str, Any] | None = None,
) -> dict[str, str]:
    """Run the jobs; returns the errors, by the name of the run.

    A run that fails with a ScoreEmbeddingError, such as a divergence, does not stop the others.

    Parameters
    ----------
    processes : runs at a time on this machine; each gets its share of the threads.
    slurm : submitit's parameters (timeout_min, slurm_partition, ...), each run a job, and
        `cluster`: slurm, or local for processes of this machine. None to run them here.
    """
    if not jobs:
        return {}
    if slurm is not None:
        return _submit(jobs, device, slurm)
    if processes == 1:
        failures = {}
        for number, job in enumerate(jobs, start=1):
            log.info("run %d of %d: %s", number, len(jobs), job.path)
            failures[job.path.name] = run_one(job.config, job.path, device)
        return _only_failed(failures)
    return _only_failed(_run_in_pool(jobs, device, processes))


class _Workers(SpawnContext):
    """Starts processes and keeps them, so that they alone can be ended: the caller's process may
    have other children."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        self.started.append(SpawnProcess(*args, **kwargs))
        return self.started[-1]


def _run_in_pool(jobs: list[Job], device: torch.device, processes: int) -> dict[str, str]:
    """The error of each run, or ""."""
    threads = max(1, torch.get_num_threads() // processes)
    # The longest first, or one of them may be left to run alone at the end.
    waiting = iter(sorted(jobs, key=lambda job: job.config.training.seconds or 0, reverse=True))
    running: dict[Future[str], Job] = {}
    failures: dict[str, str] = {}
    workers = _Workers()
    with ProcessPoolExecutor(processes, workers) as pool:
        try:
            while len(failures) < len(jobs):
                # No more than can run: a queued one would start when the others are interrupted.
                for job in islice(waiting, processes - len(running)):
                    running[pool.submit(run_one, job.config, job.path, device, threads)] = job
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(done)
                    failures[job.path.name] = done.result()
                    log.info("%d of %d runs: %s", len(failures), len(jobs), job.path)
        except BaseException:  # an interruption; each run then writes its checkpoint
            for worker in workers.started:
                worker.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failures


def run_one(config: AnyConfig, path: Path, device: torch.device, threads: int | None = None) -> str:
    """One run, evaluated during training, or the rest of one that was interrupted; returns the
    error, or ""."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        resume = run_folder.is_resumable(path, config)
        pipeline.run(config, path, device, profile=True, overwrite=not resume, resume=resume)
    except ScoreEmbeddingError as error:
        return str(error)
    return ""


def check_cluster(parameters: dict[str, Any]) -> None:
    """Raise ConfigError where submitit is not installed or does not take the parameters."""
    with TemporaryDirectory() as folder:  # an executor makes its folder at once
        _executor(Path(folder), parameters)


def _executor(folder: Path, parameters: dict[str, Any]) -> Any:
    try:
        import submitit
    except ImportError:
        raise ConfigError("--slurm needs submitit: pip install 'score-embedding[slurm]'") from None
    parameters = dict(parameters)
    kind = parameters.pop("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=kind)
        executor.update_parameters(**parameters)
    except (NameError, TypeError, ValueError, RuntimeError) as error:  # as submitit refuses them
        raise ConfigError(f"--slurm: {error}") from None
    return executor


def _submit(jobs: list[Job], device: torch.device, parameters: dict[str, Any]) -> dict[str, str]:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    executor = _executor(jobs[0].path.parents[1] / "slurm", parameters)
    submitted = [executor.submit(run_one, job.config, job.path, device) for job in jobs]
    log.info("%d jobs submitted: %s", len(jobs), submitted[0].paths.folder)
    failures = {}
    for job, run in zip(jobs, submitted, strict=True):
        try:
            failures[job.path.name] = run.result()
        except (UncompletedJobError, FailedJobError) as error:
            failures[job.path.name] = f"the job {run.job_id} failed: {error}"
    return _only_failed(failures)


def _only_failed(failures: dict[str, str]) -> dict[str, str]:
    return {name: reason for name, reason in failures.items() if reason}
