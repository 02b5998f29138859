"""The tables of a denoising comparison."""

from __future__ import annotations

from score_embedding.comparison import tables
from score_embedding.comparison.denoising import (
    REFERENCE,
    SECONDS,
    STEPS,
    Course,
    Goal,
    Lead,
    Rival,
    goal,
    leads,
    medians,
    scatter,
    summaries,
)
from score_embedding.comparison.summary import Summary, ratio
from score_embedding.report.parts import Table


def all_tables(
    found: list[Course], beside: list[Rival], levels: tuple[float, ...], note: str
) -> list[Table]:
    """Quality at the end and at equal times, whether a method is ever behind the reference, time to
    the reference's PSNR; `note`: what was run."""
    if not found:
        return []
    each = summaries(found, levels)
    shown = [_end(each, found, beside, levels, note)]
    compared, aim = leads(found, levels), goal(found, levels)
    if any(lead.gains for lead in compared):
        shown.append(_equal_times(compared, levels, note))
    if compared:
        shown.append(_never_behind(compared, note))
    if aim:
        shown.append(_times_to(each, aim, note))
    return shown


def short_tables(
    found: list[Course], beside: list[Rival], levels: tuple[float, ...]
) -> list[Table]:
    """Narrow enough for a terminal."""
    if not found:
        return []
    names = [f"psnr_{level:g}" for level in levels]
    ends = [(each.method, medians(each)) for each in summaries(found, levels)]
    ends += [(rival.name, rival.measured.means()) for rival in beside]
    rows = [(method, *(f"{values[name]:.2f}" for name in names)) for method, values in ends]
    shown = [Table("PSNR in dB at the end", ("method", *map(_noise, levels)), rows)]
    if compared := leads(found, levels):
        shown.append(_never_behind(compared, ""))
    return shown


def _end(
    each: list[Summary],
    found: list[Course],
    beside: list[Rival],
    levels: tuple[float, ...],
    note: str,
) -> Table:
    rows = []
    for summary in each:
        values = medians(summary)
        trained = f"{summary.seconds.median:.1f} ({summary.steps})"
        rows.append(
            (summary.method, *_qualities(values, levels), trained, f"{values[SECONDS]:.2g}")
        )
    for rival in beside:
        qualities = _qualities(rival.measured.means(), levels)
        rows.append((rival.name, *qualities, "-", f"{rival.seconds_a_photograph:.2g}"))
    title, what = "Photographs denoised, at the end", "SSIM of the answer clipped to [0, 1]"
    of = "photographs"
    if not _has_ssim(medians(each[0]), levels):
        title, of = "Held-out images denoised, at the end", "images"
        what = "1000 times the mean squared error (the PSNR is of the answer clipped to [0, 1])"
    text = (
        f"{note}. PSNR in dB / {what}, means over the {of}, "
        "medians over the seeds, whose PSNRs differ by at most "
        f"{scatter(found, levels):.2f} dB. Of a method that is not trained (0 steps) the seconds "
        "are those of its fit. The last column is denoising alone."
    )
    if beside:
        names = ", ".join(rival.name for rival in beside)
        text += f" Classical, given the noise level, run where this table was made: {names}."
    if not any(course.method == REFERENCE for course in found):
        text += f" No run of {REFERENCE} is finished: nothing can be compared at equal times."
    header = ("method", *map(_noise, levels), "trained: s (steps)", "s a photograph")
    return Table(title, header, rows, text)


def _equal_times(compared: list[Lead], levels: tuple[float, ...], note: str) -> Table:
    rows = [
        (lead.method, f"{t:.1f}", *(f"{gains[level]:+.2f}" for level in levels))
        for lead in compared
        for t, gains in lead.gains.items()
    ]
    text = (
        f"{note}. PSNR of the method minus that of {REFERENCE} in dB, after the same training "
        "seconds, pre-computation included; medians over the seeds, linear between evaluations. "
        "Times before the first evaluation of either, or after the end of one, are left out."
    )
    return Table(
        f"Against {REFERENCE} at equal times", ("method", "s", *map(_noise, levels)), rows, text
    )


def _never_behind(compared: list[Lead], note: str) -> Table:
    rows = []
    for lead in compared:
        where = "; ".join(
            f"{_noise(level)}: {first:.1f} to {last:.1f} s, by up to {deficit:.2g} dB"
            for level, (first, last, deficit) in lead.behind.items()
        )
        span = "{:.1f} to {:.1f}".format(*lead.span) if lead.span else "never"
        verdict = f"no ({where})" if where else "yes" if lead.span else "-"
        rows.append((lead.method, span, verdict))
    text = (
        f"{note}. Whether the median PSNR is that of {REFERENCE} or above at every level and every "
        "evaluation of either, within the seconds in which both were evaluated; where not, from "
        "the first to the last such evaluation."
    )
    header = ("method", "both evaluated: s", f"never behind {REFERENCE}")
    return Table(f"Never behind {REFERENCE}?", header, rows, text)


def _times_to(each: list[Summary], aim: Goal, note: str) -> Table:
    reference = next(summary for summary in each if summary.method == REFERENCE)
    header, rows = ["method"], [[summary.method] for summary in each]
    for level, psnr in aim.psnr.items():
        header += [f"{_noise(level)}, {psnr:.2f} dB: s (steps)", f"{level:g}: {REFERENCE} / method"]
        for row, summary in zip(rows, each, strict=True):
            sign, value = ratio(summary, reference, level)
            row += [tables.time_to(summary, level), f"{value:.2f}" if sign == "=" else "-"]
    short = f"; where it made fewer than {STEPS}, at its end" if min(aim.steps) < STEPS else ""
    text = (
        f"{note}. Training time to the first evaluation that finds the PSNR which {REFERENCE} has "
        f"at its first evaluation at or after step {STEPS}{short} (steps, seed by seed: "
        f"{', '.join(map(str, aim.steps))}); median [quartiles] over the seeds, and the time of "
        f"{REFERENCE}, counted in the same way, divided by it. What is not trained needs the "
        "seconds of its fit."
    )
    return Table(
        f"Time to the PSNR of {REFERENCE}", tuple(header), [tuple(row) for row in rows], text
    )


def _qualities(values: dict[str, float], levels: tuple[float, ...]) -> list[str]:
    """PSNR and SSIM by level; of a data set, PSNR and 1000 times the mean squared error."""
    names = [f"{level:g}" for level in levels]
    if not _has_ssim(values, levels):
        return [f"{values[f'psnr_{s}']:.2f} / {1000 * values[f'mse_{s}']:.3g}" for s in names]
    return [f"{values[f'psnr_{name}']:.2f} / {values[f'ssim_{name}']:.3f}" for name in names]


def _has_ssim(values: dict[str, float], levels: tuple[float, ...]) -> bool:
    """Whether SSIM was measured: of photographs, not of many images of a data set."""
    return f"ssim_{levels[0]:g}" in values


def _noise(level: float) -> str:
    return f"noise {level:g}"
