"""What a step hands to the step after it."""

from __future__ import annotations

import json
import os
from pathlib import Path


def leave_result(**values: str | float | bool | None) -> None:
    """Print the values, and leave them as a JSON object where the caller asked for it (MLPROJ_RESULT)."""
    text = json.dumps(values)
    print(text)
    if path := os.environ.get("MLPROJ_RESULT"):
        Path(path).write_text(text, encoding="utf-8")
