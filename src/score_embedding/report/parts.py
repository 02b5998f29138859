"""The parts of a report: tables and pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from score_embedding.config.schema import AnyConfig
from score_embedding.report import figures


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


@dataclass(frozen=True)
class Result:
    """What a run ended with: its config, tables, pictures, and a few words on the data."""

    config: AnyConfig
    tables: list[Table]
    pictures: list[Picture]
    data: str


def size_of(config: AnyConfig) -> str:
    h, w = config.data_loader.image_size
    return f"{h} x {w} x {config.data_loader.channels}"


def picture_of(title: str, caption: str, figure: Figure) -> Picture:
    buffer = io.BytesIO()
    figures.save(figure, buffer)
    return Picture(title, caption, buffer.getvalue(), tuple(figure.get_size_inches()))
