"""Running the runs of a comparison: in this process, in several, or as jobs of a SLURM cluster.

A run whose folder is complete is not run again; one that was interrupted is resumed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from score_embedding import pipeline
from score_embedding.comparison.spec import Job
from score_embedding.config.schema import AnyConfig
from score_embedding.errors import ConfigError, Interrupted, RunFolderError, ScoreEmbeddingError
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
    overwrite: bool = False,
) -> dict[str, str]:
    """Run the jobs, anew with `overwrite`; returns the errors, by the name of the run.

    A run that fails, by a divergence for one, does not stop the others.

    Parameters
    ----------
    processes : runs at a time on this machine; each gets its share of the threads.
    slurm : submitit's parameters (timeout_min, slurm_partition, ...), each run a job, and
        `cluster`: slurm, or local for processes of this machine. None to run them here.
    """
    if not jobs:
        return {}
    if slurm is not None:
        return _submit(jobs, device, slurm, overwrite)
    if processes == 1:
        failures = {}
        for number, job in enumerate(jobs, start=1):
            log.info("run %d of %d: %s", number, len(jobs), job.path)
            failures[job.path.name] = run_one(job.config, job.path, device, overwrite)
        return _only_failed(failures)
    return _only_failed(_run_in_processes(jobs, device, processes, overwrite))


def _run_in_processes(
    jobs: list[Job], device: torch.device, processes: int, overwrite: bool
) -> dict[str, str]:
    """The error of each run, or "". Each run has a process of its own, which shares no lock with
    the others: one that is killed leaves them unharmed."""
    threads = max(1, torch.get_num_threads() // processes)
    # The longest first, or one of them may be left to run alone at the end.
    waiting = sorted(jobs, key=lambda job: job.config.training.seconds or 0, reverse=True)
    running: dict[Connection, tuple[Job, SpawnProcess]] = {}
    failures: dict[str, str] = {}
    context = multiprocessing.get_context("spawn")
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_send, args=(sender, job, device, overwrite, threads)
                )
                process.start()
                sender.close()  # the process has its own; at its end there is nothing to receive
                running[receiver] = job, process
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                job, process = running.pop(ready)
                failures[job.path.name] = _received(ready, process)
                log.info("%d of %d runs: %s", len(failures), len(jobs), job.path)
    except BaseException:  # an interruption; each run then writes its checkpoint
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()
        raise
    return failures


def _send(
    sender: Connection, job: Job, device: torch.device, overwrite: bool, threads: int
) -> None:
    """In the process of a run."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The signal that ended it is the parent's to report.
    with sender, suppress(Interrupted):
        sender.send(run_one(job.config, job.path, device, overwrite, threads))


def _end_with_parent() -> None:
    """Stop this process, as SIGTERM does, when the one that started it has ended. A parent that
    was killed cannot do that itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _received(receiver: Connection, process: SpawnProcess) -> str:
    with receiver:
        try:
            error = str(receiver.recv())
        except EOFError:
            error = ""
        process.join()
    return error or (
        f"its process ended with exit code {process.exitcode}" if process.exitcode else ""
    )


def run_one(
    config: AnyConfig,
    path: Path,
    device: torch.device,
    overwrite: bool = False,
    threads: int | None = None,
) -> str:
    """One run, evaluated during training: anew with `overwrite`, else the rest of one that was
    interrupted, or nothing where another process has finished it. Returns the error, or ""."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        resume = not overwrite and run_folder.is_resumable(path, config)
        pipeline.run(config, path, device, profile=True, overwrite=overwrite, resume=resume)
    except ScoreEmbeddingError as error:
        return "" if not overwrite and _is_done(config, path) else str(error)
    except Exception as error:  # a fault of this run must not cost the others theirs
        log.exception("%s", path)
        return f"{type(error).__name__}: {error}"
    return ""


def _is_done(config: AnyConfig, path: Path) -> bool:
    """Whether a finished run of the config is there: another process may have made it."""
    try:
        return run_folder.is_finished(path) and run_folder.holds(path, config)
    except RunFolderError:
        return False


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


def _submit(
    jobs: list[Job], device: torch.device, parameters: dict[str, Any], overwrite: bool
) -> dict[str, str]:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    executor = _executor(jobs[0].path.parents[1] / "slurm", parameters)
    submitted = [executor.submit(run_one, job.config, job.path, device, overwrite) for job in jobs]
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
