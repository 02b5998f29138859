"""Keep the result of `score-embedding reproduce`, and put its tables into docs/reproduction.md.

    score-embedding reproduce --scale laptop --processes 2
    python benchmarks/reproduction.py saves/reproduce_laptop --note "..."

Writes results/NAME/ (NAME: that of the folder, such as reproduce_laptop): claims.md, claims.json,
and the tables of each case. The page shows claims.md between `<!-- NAME -->` and `<!-- end -->`. A
note, such as where the pictures come from, is kept with it.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "reproduction.md"
OF_CASES = ("table.md", "runs.csv", "comparison.json")
NOT_MEASURED = "Not measured yet."


def block(claims: str) -> str:
    """What the page shows of claims.md: all but its first title, tables one level deeper."""
    _, _, rest = claims.partition("\n")
    return re.sub(r"^### ", "#### ", rest.strip(), flags=re.MULTILINE)


def with_block(page: str, name: str, text: str) -> str:
    """The page with this text between the marks of `name`. Raises ValueError without the marks."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"{PAGE.name}: no <!-- {name} --> in it")
    return pattern.sub(lambda found: found[1] + text + found[2], page)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    folder, target = arguments.folder, RESULTS / arguments.folder.name
    claims = (folder / "claims.md").read_text(encoding="utf-8")
    if arguments.note:
        claims = f"{claims.rstrip()}\n- {arguments.note}\n"
    page = with_block(PAGE.read_text(encoding="utf-8"), folder.name, block(claims))
    target.mkdir(parents=True, exist_ok=True)
    (target / "claims.md").write_text(claims, encoding="utf-8")
    shutil.copy(folder / "claims.json", target)
    for table in sorted(folder.glob("*/table.md")):
        place = target / table.parent.name
        place.mkdir(exist_ok=True)
        for name in OF_CASES:
            shutil.copy(table.parent / name, place)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
