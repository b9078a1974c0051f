"""Writes a run's metrics.jsonl and TensorBoard's events; reads the first back.

A line is one JSON object with at least `split` ('train', 'val', 'epoch',
'collapse' or 'test') and `step`; an undefined number is null.
"""

import json
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from plankton_jax.errors import InputError
from plankton_jax.files import atomic, json_text

Row = dict[str, Any]  # a line of the log
BySplit = dict[str, list[Row]]  # in order of step, one line a step


class Lines(NamedTuple):
  """The readable lines of a log."""

  by_split: BySplit
  broken: int  # lines that cannot be read


def read(path: pathlib.Path) -> Lines:
  """Reads a metrics.jsonl, also one that a killed run left with a cut line.

  Where a resumed run logged a step again, the later line counts. A file that
  does not exist has no lines.
  """
  rows: dict[tuple[str, int], Row] = {}
  broken = 0
  for text, row in _parsed(path):
    if row is None:
      broken += bool(text.strip())
    else:
      rows[row['split'], row['step']] = row
  by_split: BySplit = {}
  for split, step in sorted(rows):
    by_split.setdefault(split, []).append(rows[split, step])
  return Lines(by_split, broken)


def column(rows: Sequence[Row], name: str) -> np.ndarray:
  """Lists one metric, float64 [rows]; NaN where a row has no number for it."""
  return np.array([_number(row.get(name)) for row in rows], np.float64)


def _number(value: Any) -> float:
  try:
    return float(value) if isinstance(value, int | float) else math.nan
  except OverflowError:  # an integer of more than 308 digits
    return math.nan


def _parsed(path: pathlib.Path) -> Iterator[tuple[str, Row | None]]:
  """Yields each line's text and its row, None if it cannot be read."""
  if not path.exists():
    return
  with path.open(encoding='utf-8', errors='replace') as file:
    for text in file:
      try:
        row = json_text.parse(text)
      except InputError:
        row = {}
      good = type(row.get('split')) is str and type(row.get('step')) is int
      yield text, row if good else None


class Log:
  """Writes a run's numbers as they come; a context manager.

  Args:
    workdir: holds metrics.jsonl and TensorBoard's events.
    step: the step resumed from; lines of later steps are dropped.
    total_steps: of the run, for the progress bar.
    batch_size: images in a step, for the progress bar.
  """

  def __init__(
    self, workdir: pathlib.Path, *, step: int, total_steps: int, batch_size: int
  ):
    # Evaluation needs neither of them.
    import tqdm
    from tensorboardX import SummaryWriter

    path = workdir / 'metrics.jsonl'
    _drop_after(path, step)
    self._file = path.open('a', encoding='utf-8')
    self._events = SummaryWriter(
      str(workdir / 'tensorboard'), purge_step=step + 1
    )
    self._bar = tqdm.tqdm(
      total=total_steps * batch_size,
      initial=step * batch_size,
      unit='img',
      desc='train',
      dynamic_ncols=True,
      mininterval=0.5 if sys.stderr.isatty() else 30.0,
    )
    self._batch_size = batch_size

  def __enter__(self) -> 'Log':
    return self

  def __exit__(self, *_: object) -> None:
    self._bar.close()
    try:
      self._file.close()
    finally:
      self._events.close()

  def write(self, split: str, where: Row, values: Row) -> None:
    """Writes one line; `where` holds its step and epoch.

    Lines of training steps are flushed with the next line of another kind.
    """
    row = {'split': split, **where, **values}
    self._file.write(json.dumps(_nan_as_null(row)) + '\n')
    for name, value in row.items():
      if isinstance(value, float) and name != 'epoch' and math.isfinite(value):
        self._events.add_scalar(f'{split}/{name}', value, row['step'])
    if split == 'train':
      self._bar.update(self._batch_size)
      self._bar.set_postfix(
        loss=f'{row["loss"]:.4f}', stage=row['stage'], refresh=False
      )
    else:
      self._file.flush()

  def say(self, text: str) -> None:
    """Prints a line above the progress bar."""
    self._bar.write(text, file=sys.stderr)


class Quiet:
  """Stands in for the log in a process that does not write it."""

  def __enter__(self) -> 'Quiet':
    return self

  def __exit__(self, *_: object) -> None:
    pass

  def write(self, split: str, where: Row, values: Row) -> None:
    """Writes nothing."""

  def say(self, text: str) -> None:
    """Prints nothing."""


def _nan_as_null(row: Row) -> Row:
  """Writes NaN as null, as JSON has no NaN."""
  undefined = lambda value: isinstance(value, float) and math.isnan(value)
  return {name: None if undefined(x) else x for name, x in row.items()}


def _drop_after(path: pathlib.Path, step: int) -> None:
  """Drops lines of later steps, of the final test, and cut ones."""
  kept = [
    text
    for text, row in _parsed(path)
    if row and row['step'] <= step and row['split'] != 'test'
  ]
  if path.exists():
    atomic.text(path, ''.join(kept))
