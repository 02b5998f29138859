"""Puts the tables of benchmarks/results/ into the pages: python docs/update_tables.py

A page shows the table of results/NAME.md between the lines <!-- NAME --> and <!-- end -->. Blocks
of other names, and those without results, stay unchanged.
"""

import re
from pathlib import Path

PAGES = Path(__file__).parent
RESULTS = PAGES.parent / "benchmarks" / "results"
NOT_MEASURED = "Not measured yet."
BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def table(name: str) -> str:
    """The table of results/NAME.md, or that there is none."""
    path = RESULTS / f"{name}.md"
    if not path.exists():
        return NOT_MEASURED
    text = path.read_text(encoding="utf-8")
    return text[text.index("| ") :].strip()


def updated(page: str) -> str:
    """A page with the tables of the last runs."""

    def block(found: re.Match[str]) -> str:
        start, name, end = found.groups()
        new = table(name)
        return found[0] if new == NOT_MEASURED else f"{start}{new}\n{end}"

    return BLOCK.sub(block, page)


if __name__ == "__main__":
    for path in sorted(PAGES.glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = updated(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path.name}: new tables")
