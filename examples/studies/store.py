"""Storage of results on disk, with a JSON line for each finished point."""

import json
import math
import os
from pathlib import Path
from typing import Any

from study import Finding, Point


class Store:
    """Stores the findings of one study.

    Args:
      path: path of the file, which need not exist.
      settings: settings on which findings depend. Findings of other settings stay in
        the file, and are ignored.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        self._path = path
        self._settings = settings
        self._found = {}
        text = path.read_text() if path.exists() else ""
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # incomplete, because the process was killed
            key = _key(record["settings"], record["point"])
            self._found[key] = Finding(record["point"], record["result"])

    def find(self, point: Point) -> Finding | None:
        """Returns the finding at a point, or None if it has not run."""
        return self._found.get(_key(self._settings, point))

    def add(self, finding: Finding) -> None:
        """Appends a finding; readers of the file see the whole line or none of it."""
        record = {
            "settings": self._settings,
            "point": finding.point,
            "result": _without_nan(finding.result),
        }
        text = json.dumps(record, allow_nan=False) + "\n"
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        file = os.open(self._path, flags, 0o644)
        try:
            # Starts a new line after the incomplete one of a killed process.
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                text = "\n" + text
            os.write(file, text.encode())
            os.fsync(file)
        finally:
            os.close(file)
        self._found[_key(self._settings, finding.point)] = Finding(
            finding.point, record["result"]
        )


def _key(settings: dict[str, Any], point: Point) -> str:
    return json.dumps([settings, point], sort_keys=True)


def _without_nan(value: Any) -> Any:
    # JSON has neither NaN nor infinity.
    if isinstance(value, dict):
        return {name: _without_nan(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(x) for x in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
