"""report.html (self-contained) and report.pdf, from nothing but the files of a run folder."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path

import matplotlib as mpl
from fpdf import FPDF
from fpdf.fonts import FontFace
from jinja2 import Environment, PackageLoader, Template

from score_embedding import atomic_files
from score_embedding.errors import RunFolderError
from score_embedding.report import content as contents
from score_embedding.report.parts import Content, Picture, Table
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder

# What values that are not what a run writes can raise.
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


def write(folder: RunFolder) -> None:
    """Make both reports anew. Raises RunFolderError where the folder lacks a file they need, or
    one of them is damaged."""
    _, config = run_folder.open_existing(folder.path)
    run_folder.check_has(folder.path, contents.needs(config))
    try:
        content = contents.collect(folder, config)
    except _DAMAGE as error:
        raise RunFolderError(
            f"{folder.path}: a file in it is damaged, or two do not fit together ({error})"
        ) from error
    with atomic_files.replacing(folder / run_folder.HTML) as partial:
        _write_html(content, partial)
    with atomic_files.replacing(folder / run_folder.PDF) as partial:
        _write_pdf(content, partial)


@cache
def _template() -> Template:
    """The page, compiled once for all reports of a process."""
    environment = Environment(loader=PackageLoader("score_embedding.report"), autoescape=True)
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode("ascii")
    return environment.get_template("report.html")


def _write_html(content: Content, path: Path) -> None:
    path.write_text(_template().render(content=content), encoding="utf-8")


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
