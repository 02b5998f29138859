"""The tables of a sweep: mean and standard deviation, and median and quartiles, by setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import pandas as pd

from score_embedding.comparison.spec import NOT_RUN, Comparison, run_name
from score_embedding.comparison.summary import Quartiles
from score_embedding.comparison.sweeps import results
from score_embedding.comparison.sweeps.settings import short, value_at, value_text
from score_embedding.comparison.tables import NOT_REACHED, PRIOR_NAMES, spread
from score_embedding.evaluation import frechet
from score_embedding.report.parts import Table

MISSING = "-"
Row = dict[Hashable, Any]
# Formats of a mean and of its standard deviation; of times to a target _SECONDS.
_FORMS = {
    "loss": (".4g", ".2g"),
    "ssim_minmax": (".4f", ".4f"),
    "solve_seconds": (".3g", ".2g"),
    "iterations": (".4g", ".2g"),
}
_SECONDS = (".1f", ".1f")


def all_tables(
    found: pd.DataFrame, comparison: Comparison, missing: dict[str, str], note: str
) -> list[Table]:
    """For each prior a table of means and one of medians."""
    means = (
        f"{note}. Mean ± standard deviation (n - 1) over the seeds; '{MISSING}' where there is no "
        f"value, such as the standard deviation of one run."
    )
    medians = f"{note}. Median [quartiles] over the seeds."
    tables = []
    for prior in dict.fromkeys(found["prior"]) if len(found) else ():
        name = f", {PRIOR_NAMES[prior]}"
        own = found[found["prior"] == prior]
        for title, text, cell in (("Mean", means, _mean), ("Median", medians, _median)):
            tables.append(_table(f"{title}{name}", own, comparison, missing, text, cell))
    return tables


def short_tables(found: pd.DataFrame, comparison: Comparison) -> list[Table]:
    """One table of the means, without times to a target, narrow enough for a terminal."""
    if found.empty:
        return []
    headings = results.measures(comparison)
    names = [name for name in _FORMS if f"{name}_count" in found and found[f"{name}_count"].any()]
    priors = list(dict.fromkeys(found["prior"]))
    columns = {  # of each heading: a measure, and a prior that it depends on or the first one
        f"SSIM, {prior}" if name == "ssim_minmax" else headings[name]: (name, prior)
        for name in names
        for prior in (priors if name == "ssim_minmax" else priors[:1])
    }
    rows = {(row["prior"], row["setting"]): row for row in found.to_dict("records")}
    cells = [
        (setting, *(_mean(rows[prior, setting], name) for name, prior in columns.values()))
        for setting in comparison.configs
    ]
    return [Table("Mean ± standard deviation", ("setting", *columns), cells)]


def fid_table(images: int, seeds: int) -> Table:
    """Why a comparison has no FID."""
    reason = frechet.refusal(images)
    if reason:
        reason = f"{reason}; pooling the samples of {seeds} seeds adds no training image"
    else:
        reason = "needs a feature network: score-embedding fid RUN_FOLDER --weights FILE"
    return Table("Not measured", ("measure", "reason"), [("FID, pooled over the seeds", reason)])


def _table(
    title: str,
    rows: pd.DataFrame,
    comparison: Comparison,
    missing: dict[str, str],
    note: str,
    cell: Callable[[Row, str], str],
) -> Table:
    assert comparison.sweep is not None
    keys = list(comparison.sweep.series)
    shown = {
        name: heading
        for name, heading in results.measures(comparison).items()
        if f"{name}_count" in rows and (rows[f"{name}_count"].sum() or results.is_time(name))
    }
    cells = []
    for row in rows.to_dict("records"):
        setting = row["setting"]
        config = comparison.configs[setting]
        cells.append(
            (
                setting,
                *(value_text(value_at(config, key)) for key in keys),
                runs_text(setting, comparison, missing),
                *(cell(row, name) for name in shown),
            )
        )
    header = ("setting", *map(short, keys), "runs", *shown.values())
    return Table(title, header, cells, note)


def runs_text(setting: str, comparison: Comparison, missing: dict[str, str]) -> str:
    """How many runs of a setting are in its statistics, and what became of the others."""
    reasons = [missing.get(run_name(setting, seed)) for seed in comparison.seeds]
    total, done = len(reasons), reasons.count(None)
    not_run = reasons.count(NOT_RUN)
    failed = total - done - not_run
    others = [f"{failed} FAILED"] * (failed > 0) + [f"{not_run} not run"] * (not_run > 0)
    return f"{done} of {total}, {', '.join(others)}" if others else str(done)


def _mean(row: Row, name: str) -> str:
    count, mean, std = (row[f"{name}_{key}"] for key in ("count", "mean", "std"))
    if results.is_time(name) and row["runs"] and count < row["runs"]:
        return _not_reached(row, name)
    if math.isnan(mean):
        return MISSING
    of_mean, of_std = _FORMS.get(name, _SECONDS)
    return f"{mean:{of_mean}} ± {MISSING if math.isnan(std) else format(std, of_std)}"


def _median(row: Row, name: str) -> str:
    quartiles = Quartiles(*(row[f"{name}_{key}"] for key in ("lower", "median", "upper")))
    if results.is_time(name) and quartiles.median == math.inf:
        return _not_reached(row, name)
    if math.isnan(quartiles.median):
        return MISSING
    return spread(quartiles, _FORMS.get(name, _SECONDS)[0])


def _not_reached(row: Row, name: str) -> str:
    reached = f" ({row[f'{name}_count']:.0f} of {row['runs']} did)"
    return NOT_REACHED + (reached if row[f"{name}_count"] else "")
