"""What was found about where the trials disagree: read from `results/where.json`, and told in the report's words.

`analyze_results.py --where` writes the file (tools/where.py); the numbers are defined in positions.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import storage
from analysis.results import Measured

SCHEMA = "where/1"
WHERE_FILE, PASSAGE_FILE = "where.json", "where_passage.json"
PASSAGE_TOKENS = 768  # of the validation text, from its beginning
SHOWN = 3  # most likely tokens told of each trial


def load(path: str | Path) -> dict:
    """The file's contents; an empty one where it is missing or of another schema.

    Raises:
        StorageError: it is damaged.
    """
    path = Path(path)
    found = storage.read_json(path) if path.is_file() else {}
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or not isinstance(found.get("activations"), dict):
        return {"schema": SCHEMA, "activations": {}, "tokens": [], "texts": {}, "context": 0}
    return found


def identity(results: Mapping) -> dict | None:
    """What an entry was computed from: settings, and the checkpoints of the finished trials; None where the results
    don't record them."""
    trials = Measured(results["activation"], dict(results)).trials
    checkpoints = {str(k): (t.get("checkpoint") or {}).get("sha256") for k, t in trials.items()}
    if not results.get("fingerprint") or None in checkpoints.values():
        return None
    return {"fingerprint": results["fingerprint"], "checkpoints": checkpoints}
