"""report.html (self-contained) and report.pdf, from nothing but the files of a run folder."""

from __future__ import annotations

import base64
import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from fpdf import FPDF
from fpdf.fonts import FontFace
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from score_embedding import figures, run_folder
from score_embedding.config import Config, Sample
from score_embedding.errors import RunFolderError
from score_embedding.run_folder import RunFolder

THRESHOLDS = (0.90, 0.95, 0.98, 0.99)

_NEEDS = (
    run_folder.ENVIRONMENT,
    run_folder.SCORES,
    run_folder.SAMPLES,
    run_folder.METRICS,
    run_folder.TIMING,
    run_folder.STATE,
)


@dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    title: str
    caption: str
    png: bytes
    inches: tuple[float, float]  # width and height at which its text has the report's size


@dataclass(frozen=True)
class Content:
    """What both formats show, in order."""

    title: str
    subtitle: str
    tables: list[Table]
    pictures: list[Picture]


def write(folder: RunFolder) -> None:
    """Make both reports anew. Raises RunFolderError where the folder lacks a file they need."""
    _, config = run_folder.open_existing(folder.path, _NEEDS)
    content = collect(folder, config)
    with run_folder.replacing(folder / run_folder.HTML) as partial:
        _write_html(content, partial)
    with run_folder.replacing(folder / run_folder.PDF) as partial:
        _write_pdf(content, partial)


def collect(folder: RunFolder, config: Config) -> Content:
    """The report's content, from the files of the folder."""
    scores = run_folder.read_arrays(
        folder / run_folder.SCORES,
        *("images", "times", "log_density", "scores", "embedded", "diagnostics"),
    )
    samples = run_folder.read_arrays(
        folder / run_folder.SAMPLES, "samples", "path", "path_times", "images", "description"
    )
    rows = run_folder.read_rows(folder / run_folder.METRICS)
    environment = run_folder.read_json(folder / run_folder.ENVIRONMENT, "processor")
    timing = run_folder.read_json(folder / run_folder.TIMING, "training", "total")
    state = run_folder.read_json(folder / run_folder.STATE, "step", "parameters")
    if len(rows) != state["step"]:
        raise RunFolderError(
            f"{folder / run_folder.METRICS}: {len(rows)} rows, but the model has made "
            f"{state['step']} steps"
        )
    description = json.loads(str(samples["description"]))
    drawn = Sample(**{key: description[key] for key in Sample.model_fields})
    config = config.model_copy(update={"sample": drawn})  # as the samples were drawn last
    diagnostics = json.loads(str(scores["diagnostics"]))
    how = figures.how_sampled(description)
    h, w = config.data_loader.image_size
    n = len(scores["images"])
    return Content(
        title=config.name,
        subtitle=(
            f"Score embedding, {n} image{'s' if n > 1 else ''} of {h} x {w} x "
            f"{config.data_loader.channels} ({config.data_loader.dataset}), U-Net of "
            f"{state['parameters'] / 1e6:.1f} M parameters, {len(rows)} steps, seed "
            f"{config.training.seed}, {environment['processor']}"
        ),
        tables=[
            _quality(description["metrics"], how),
            _passed(rows),
            _timing(timing),
            _solve(diagnostics, config),
            _parameters(config),
            _environment(environment),
        ],
        pictures=[
            _picture(
                "From noise to sample",
                f"{how}. Each state is min-max scaled.",
                figures.strip(samples),
            ),
            _picture("Samples", "Beside the ground truth.", figures.samples(samples)),
            _picture(
                "Training",
                "Evaluation stops the clock; the last point is the sample drawn after training.",
                figures.curves(rows),
            ),
            _picture(
                "Log-density and score over time",
                "Means over the channels; the score's colours span the bound above each field.",
                figures.score_fields(scores),
            ),
            _picture(
                "Embedded images",
                "What the network is trained on, min-max scaled; below the time, their range.",
                figures.embedded(scores),
            ),
        ],
    )


def _quality(metrics: dict[str, float], how: str) -> Table:
    labels = {"minmax": "min-max scaled (the paper's)", "clipped": "clipped to [0, 1]"}
    rows = []
    for key, label in labels.items():
        ssim, psnr, mse = (metrics[f"{metric}_{key}"] for metric in ("ssim", "psnr", "mse"))
        rows.append((label, f"{ssim:.4f}", f"{psnr:.2f}", f"{mse:.2e}"))
    return Table("Quality of the samples", ("normalisation", "SSIM", "PSNR (dB)", "MSE"), rows, how)


def _passed(rows: list[dict[str, float]]) -> Table:
    evaluated = [row for row in rows if "ssim_minmax" in row]
    lines = []
    for threshold in THRESHOLDS:
        first = next((row for row in evaluated if row["ssim_minmax"] >= threshold), None)
        if first is None:
            lines.append((f"{threshold:.2f}", "not reached", "-"))
        else:
            lines.append(
                (f"{threshold:.2f}", f"{first['training_seconds']:.1f}", f"{first['step']:.0f}")
            )
    note = (
        f"First of {len(evaluated)} evaluations at or above the threshold."
        if len(evaluated) > 1
        else "Only the final sample was evaluated; --profile evaluates during training."
    )
    header = ("SSIM (min-max)", "training time (s)", "step")
    return Table("Time to quality", header, lines, note)


def _timing(timing: dict[str, float]) -> Table:
    rows = [(stage, f"{seconds:.3f}") for stage, seconds in timing.items()]
    note = "The training clock of all figures is density + solve + embedding + training."
    return Table("Seconds by stage", ("stage", "seconds"), rows, note)


def _solve(diagnostics: dict[str, object], config: Config) -> Table:
    iterations = diagnostics["iterations"]
    counts = ", ".join(map(str, iterations)) if isinstance(iterations, list) else ""
    rows = [
        ("scheme", str(diagnostics["scheme"])),
        ("density", config.diffusion.density),
        ("boundary", str(diagnostics["boundary"])),
        ("drift on the grid", str(diagnostics["drift"])),
        ("embedding", config.diffusion.embedding),
        ("tolerance (config)", f"{config.diffusion.solve_tolerance:g}"),
        ("iterations", counts or "none"),
    ]
    warnings = diagnostics["warnings"]
    if isinstance(warnings, list):
        rows += [("warning", str(warning)) for warning in warnings[:3]]
    return Table("Fokker-Planck solve", ("", ""), rows)


def _parameters(config: Config) -> Table:
    rows = [
        (f"{section}.{key}", textwrap.shorten(str(value), 300, placeholder=" ..."))
        for section, values in config.model_dump(mode="json").items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value is not None
    ]
    return Table("Parameters", ("key", "value"), rows)


def _environment(environment: dict[str, object]) -> Table:
    rows: list[tuple[str, ...]] = []
    for key, value in environment.items():
        if isinstance(value, dict):
            rows += [(name, str(version)) for name, version in value.items()]
        elif value is not None:
            rows.append((key.replace("_", " "), str(value)))
    return Table("Environment", ("", ""), rows)


def _picture(title: str, caption: str, figure: Figure) -> Picture:
    buffer = io.BytesIO()
    figures.save(figure, buffer)
    return Picture(title, caption, buffer.getvalue(), tuple(figure.get_size_inches()))


def _write_html(content: Content, path: Path) -> None:
    environment = Environment(loader=PackageLoader("score_embedding"), autoescape=True)
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode("ascii")
    page = environment.get_template("report.html").render(content=content)
    path.write_text(page, encoding="utf-8")


def _write_pdf(content: Content, path: Path) -> None:
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    pdf = FPDF(format="A4")
    pdf.set_auto_page_break(True, margin=15)
    pdf.add_font("DejaVu", "", fonts / "DejaVuSans.ttf")
    pdf.add_font("DejaVu", "B", fonts / "DejaVuSans-Bold.ttf")
    pdf.set_title(content.title)
    pdf.add_page()
    _line(pdf, content.title, size=20, bold=True)
    _line(pdf, content.subtitle, size=9)
    _pdf_picture(pdf, content.pictures[0])
    for table in content.tables[:3]:
        _pdf_table(pdf, table)
    for picture in content.pictures[1:]:
        _pdf_picture(pdf, picture)
    for table in content.tables[3:]:
        _pdf_table(pdf, table)
    pdf.output(str(path))


def _line(pdf: FPDF, text: str, size: float, bold: bool = False, grey: bool = False) -> None:
    pdf.set_font("DejaVu", "B" if bold else "", size)
    pdf.set_text_color(110 if grey else 0)
    pdf.multi_cell(0, size * 0.55, text, new_x="LMARGIN", new_y="NEXT", align="L")
    pdf.set_text_color(0)


def _pdf_picture(pdf: FPDF, picture: Picture) -> None:
    width, height = (25.4 * inches for inches in picture.inches)
    scale = min(1, pdf.epw / width, (pdf.eph - 25) / height)
    width, height = scale * width, scale * height
    if pdf.will_page_break(height + 18):
        pdf.add_page()
    pdf.ln(4)
    _line(pdf, picture.title, size=12, bold=True)
    _line(pdf, picture.caption, size=8, grey=True)
    pdf.ln(1)
    pdf.image(io.BytesIO(picture.png), w=width, h=height)


def _pdf_table(pdf: FPDF, table: Table) -> None:
    if pdf.will_page_break(6 * min(len(table.rows), 8) + 20):
        pdf.add_page()
    pdf.ln(4)
    _line(pdf, table.title, size=12, bold=True)
    if table.note:
        _line(pdf, table.note, size=8, grey=True)
    pdf.ln(1)
    pdf.set_font("DejaVu", "", 8)
    pdf.set_draw_color(200)
    pdf.set_line_width(0.1)
    has_header = any(table.header)
    with pdf.table(
        borders_layout="HORIZONTAL_LINES",
        first_row_as_headings=has_header,
        headings_style=FontFace(emphasis="BOLD"),
        line_height=5,
        text_align="LEFT",
    ) as grid:
        if has_header:
            grid.row(table.header)
        for row in table.rows:
            grid.row(row)
