"""The rows of metrics of a run under way, in a file that only grows.

Each checkpoint stores how many bytes of the file belong to it, with their SHA-256, so that a
checkpoint has the same size after any number of steps. What follows these bytes was written for a
checkpoint that never came to be: the next write replaces it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from score_embedding import atomic_files
from score_embedding.errors import CheckpointError

Row = dict[str, Any]


@dataclass(frozen=True)
class _End:
    """Where the rows of the last checkpoint end: bytes of the file and their hash, the number of
    rows, and the last of them."""

    size: int = 0
    hash: Any = field(default_factory=hashlib.sha256)
    count: int = 0
    last: Row | None = None


class RowFile:
    """One JSON line a row. A row that changed is written again; the last line of a step counts."""

    def __init__(self, path: Path):
        self.path = path
        self._end = _End()  # replaced as a whole, so that a signal never leaves half of it

    def append(self, rows: list[Row]) -> dict[str, Any]:
        """Write the rows that are new since the last call, and the last one before them where it
        has changed, to the disk. Returns what the checkpoint stores.

        Raises
        ------
        RunFolderError : the disk is full, for one; nothing that a checkpoint needs is changed.
        """
        end = self._end
        changed = end.count > 0 and rows[end.count - 1] != end.last
        new = rows[end.count - changed :]
        content = "".join(json.dumps(row) + "\n" for row in new).encode()
        if content:
            atomic_files.replace_end(self.path, end.size, content)
            digest = end.hash.copy()
            digest.update(content)
            end = _End(end.size + len(content), digest, len(rows), dict(rows[-1]))
            self._end = end
        return {"bytes": end.size, "sha256": end.hash.hexdigest()}

    def read(self, extent: Any, steps: int) -> list[Row]:
        """The rows of a checkpoint after that many steps, from what it stores; the next `append`
        continues them.

        Raises
        ------
        CheckpointError : they are missing, damaged, or not those of the checkpoint.
        """
        try:
            size = extent["bytes"]
            content = self.path.read_bytes()[:size] if size else b""
            digest = hashlib.sha256(content)
            if len(content) != size or digest.hexdigest() != extent["sha256"]:
                raise CheckpointError(
                    f"{self.path}: truncated or changed since it was written; nothing was loaded"
                )
            by_step = {row["step"]: row for row in map(json.loads, content.splitlines())}
        except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path}: no readable rows ({error})") from error
        rows = list(by_step.values())
        if len(rows) != steps or any(row["step"] != i for i, row in enumerate(rows, start=1)):
            raise CheckpointError(f"{self.path}: the rows are not those of {steps} steps")
        self._end = _End(size, digest, len(rows), dict(rows[-1]) if rows else None)
        return rows
