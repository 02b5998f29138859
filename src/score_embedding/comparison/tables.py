"""The tables of a comparison, and the forms they are written in: terminal, Markdown, LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd
from rich.box import SIMPLE
from rich.table import Table as RichTable
from rich.text import Text

from score_embedding.comparison.spec import Comparison
from score_embedding.comparison.summary import Quartiles, Summary, baselines, ratio
from score_embedding.report.parts import Table

NOT_REACHED = "not reached"
PRIOR_NAMES = {
    "unit": "unit prior N(0, I)",
    "matched": "matched prior N(0, std² I)",
    "conditional": "conditional start",
}


def time_tables(summaries: list[Summary], comparison: Comparison, note: str) -> list[Table]:
    """Training time to each target, and the quality at the end: a table a prior, a row a method."""
    header = (
        "method",
        *(f"SSIM {ssim(target)}: s (steps)" for target in comparison.targets),
        "final SSIM",
        "PSNR (dB)",
        "MSE",
        "NFE",
        "trained: s (steps)",
    )
    tables = []
    for prior in dict.fromkeys(summary.prior for summary in summaries):
        rows = []
        for summary in summaries:
            if summary.prior == prior:
                final = summary.final
                rows.append(
                    (
                        summary.method,
                        *(time_to(summary, target) for target in comparison.targets),
                        spread(final["ssim_minmax"], ".4f"),
                        f"{final['psnr_minmax'].median:.2f}",
                        f"{final['mse_minmax'].median:.2e}",
                        f"{final['nfe'].median:.0f}",
                        f"{summary.seconds.median:.1f} ({summary.steps})",
                    )
                )
        tables.append(Table(f"Time to quality, {PRIOR_NAMES[prior]}", header, rows, note))
    return tables


def short_tables(summaries: list[Summary], comparison: Comparison) -> list[Table]:
    """The medians alone, narrow enough for a terminal."""
    header = ("method", *map(ssim, comparison.targets), "final SSIM")
    tables = []
    for prior in dict.fromkeys(summary.prior for summary in summaries):
        rows = [
            (
                summary.method,
                *(_median(summary.time_to[target].median) for target in comparison.targets),
                f"{summary.final['ssim_minmax'].median:.4f}",
            )
            for summary in summaries
            if summary.prior == prior
        ]
        tables.append(Table(f"Seconds to an SSIM, {PRIOR_NAMES[prior]}", header, rows))
    return tables


def ratio_table(summaries: list[Summary], comparison: Comparison) -> Table | None:
    """Time of each baseline over the method's own, by prior and target; None without baselines."""
    names = baselines(comparison)
    if not names:
        return None
    of = {(summary.method, summary.prior): summary for summary in summaries}
    header = ("method", "prior", "target", *(f"{name} / method" for name in names))
    rows = []
    for summary in summaries:
        for target in comparison.targets:
            cells = []
            for name in names:
                baseline = of.get((name, summary.prior))
                sign, value = ratio(summary, baseline, target) if baseline else ("-", math.nan)
                cells.append({"=": f"{value:.2f}", ">": f"> {value:.2f}"}.get(sign, "-"))
            if any(cell != "-" for cell in cells) and summary.method not in names:
                rows.append((summary.method, summary.prior, ssim(target), *cells))
    note = (
        "Median time of the baseline over the median time of the method; '>' where the baseline "
        "ended before it reached the target, '-' where the method did. Targets that no median run "
        "of the method reached are left out."
    )
    return Table("Ratio to each baseline", header, rows, note)


def missing_table(missing: dict[str, str]) -> Table:
    """The runs that are in no statistic, and why."""
    return Table("Missing runs", ("run", "reason"), list(missing.items()))


def ssim(target: float) -> str:
    """0.90, 0.95, 0.999."""
    return f"{target:.2f}" if round(target, 2) == target else f"{target:g}"


def time_to(summary: Summary, target: float) -> str:
    """Median, quartiles and steps, or how many runs reached it."""
    seconds, steps = summary.time_to[target], summary.steps_to[target]
    if math.isfinite(seconds.median):
        return f"{spread(seconds, '.1f')} ({steps.median:.0f})"
    reached = summary.reached[target]
    return NOT_REACHED + (f" ({reached} of {summary.runs} did)" if reached else "")


def markdown(table: Table) -> str:
    lines = [f"### {table.title}", "", table.note, "", _row(table.header)]
    lines += [_row(["---"] * len(table.header)), *(_row(row) for row in table.rows)]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """A table environment for the booktabs package."""
    columns = [_tex(name) for name in table.header]
    rows = [[_tex(cell) for cell in row] for row in table.rows]
    caption = f"{_tex(table.title)}. {_tex(table.note)}"
    return pd.DataFrame(rows, columns=columns).to_latex(index=False, escape=False, caption=caption)


def terminal(table: Table) -> RichTable:
    shown = RichTable(title=Text(table.title), title_justify="left", box=SIMPLE)
    for i, name in enumerate(table.header):
        shown.add_column(Text(name), no_wrap=i == 0)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def _median(seconds: float) -> str:
    return f"{seconds:.1f}" if math.isfinite(seconds) else NOT_REACHED


def spread(values: Quartiles, form: str) -> str:
    if values.lower == values.upper:
        return format(values.median, form)
    upper = format(values.upper, form) if math.isfinite(values.upper) else "∞"
    return f"{values.median:{form}} [{values.lower:{form}}, {upper}]"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _tex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "∞": r"$\infty$",
        "²": r"$^2$",
        "±": r"$\pm$",
        ">": r"$>$",
        "<": r"$<$",
    }
    special |= {"^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    special |= {character: "\\" + character for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)
