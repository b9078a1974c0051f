"""Reads the log of a run, metrics.jsonl."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

Log = dict[str, list[dict[str, Any]]]  # rows by split, in order of step


def read_log(path: pathlib.Path) -> tuple[Log, int]:
  """Reads rows by split, sorted by step, and counts the broken lines.

  A killed run may leave a cut line. Where a resumed run logged a step again,
  the later row counts.
  """
  rows: dict[tuple[str, int], dict[str, Any]] = {}
  broken = 0
  for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
    try:
      row = json.loads(line)
      rows[row['split'], int(row['step'])] = row
    except (ValueError, KeyError, TypeError):
      broken += bool(line.strip())
  log: Log = {}
  for (split, _), row in sorted(rows.items(), key=lambda item: item[0]):
    log.setdefault(split, []).append(row)
  return log, broken


def column(rows: Sequence[dict[str, Any]], name: str) -> np.ndarray:
  """One metric as float64 [rows]; NaN where a row has no number for it."""
  values = (row.get(name) for row in rows)
  return np.array(
    [v if isinstance(v, (int, float)) else np.nan for v in values], float
  )
