"""A run's metrics.jsonl: writes it beside TensorBoard's events, reads it back.

A line is one JSON object with at least `split` ('train', 'val', 'epoch',
'collapse' or 'test') and `step`.
"""

import collections
import json
import math
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from plankton_jax import atomic
from plankton_jax.errors import DivergedError

Row = dict[str, Any]  # a line of the log

_IN_FLIGHT = 4  # steps dispatched ahead of the oldest one not yet read


class Lines(NamedTuple):
  """The readable lines of a log."""

  by_split: dict[str, list[Row]]  # in order of step, one line a step
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
  by_split: dict[str, list[Row]] = {}
  for split, step in sorted(rows):
    by_split.setdefault(split, []).append(rows[split, step])
  return Lines(by_split, broken)


def _parsed(path: pathlib.Path) -> Iterator[tuple[str, Row | None]]:
  """Yields each line's text and its row, None if it cannot be read."""
  if not path.exists():
    return
  with path.open(encoding='utf-8', errors='replace') as file:
    for text in file:
      try:
        row = json.loads(text)
        good = isinstance(row['split'], str) and isinstance(row['step'], int)
      except (ValueError, KeyError, TypeError):
        good = False
      yield text, row if good else None


class Log:
  """Writes a run's metrics without stalling the steps that make them.

  Metrics of training steps stay on the device until they are ready; nothing
  is waited for but to keep dispatch a few steps ahead at most.

  Args:
    workdir: holds metrics.jsonl and TensorBoard's events.
    step: the step resumed from; lines of later steps are dropped.
    total_steps: of the run, for the progress bar.
    batch_size: images in a step, likewise.
    image_names: from a step, those of its batch; asked for where it diverged.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    step: int,
    total_steps: int,
    batch_size: int,
    image_names: Callable[[int], Sequence[str]],
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
    self._pending = collections.deque()
    self._recent: list[dict[str, float]] = []
    self._bar = tqdm.tqdm(
      total=total_steps * batch_size,
      initial=step * batch_size,
      unit='img',
      desc='train',
      dynamic_ncols=True,
      mininterval=0.5 if sys.stderr.isatty() else 30.0,
    )
    self._batch_size = batch_size
    self._image_names = image_names
    self._diverged = workdir / 'diverged.txt'
    self._diverged.unlink(missing_ok=True)

  def train(self, metrics: dict[str, jax.Array], where: dict[str, Any]) -> None:
    """Takes one training step's metrics; `where` holds step, epoch, stage."""
    self._pending.append((metrics, where))
    while self._pending and (
      len(self._pending) > _IN_FLIGHT or self._pending[0][0]['loss'].is_ready()
    ):
      self._write_oldest()

  def write(self, split: str, where: dict[str, Any], values: dict) -> None:
    """Writes one line at once, after those of all steps before it."""
    self.flush()
    self._line({'split': split, **where, **values})

  def say(self, text: str) -> None:
    """Prints a line above the progress bar."""
    self._bar.write(text, file=sys.stderr)

  def flush(self) -> None:
    """Waits for every step and writes its line."""
    while self._pending:
      self._write_oldest()
    self._file.flush()

  def take_recent(self) -> list[dict[str, float]]:
    """The metrics of all steps since the last call."""
    self.flush()
    taken, self._recent = self._recent, []
    return taken

  def close(self) -> None:
    """Writes what is finished and closes files; safe after an error."""
    self._bar.close()
    self._file.close()
    self._events.close()

  def _write_oldest(self):
    metrics, where = self._pending.popleft()
    values = {name: float(x) for name, x in jax.device_get(metrics).items()}
    values = as_logged(values)
    for name in ('loss', 'grad_norm'):
      if not math.isfinite(values[name]):
        raise self._diverged_at(where['step'], f'{name} is {values[name]}')
    self._recent.append(values)
    self._line({'split': 'train', **where, **values})
    self._bar.update(self._batch_size)
    self._bar.set_postfix(
      loss=f'{values["loss"]:.4f}', stage=where['stage'], refresh=False
    )

  def _diverged_at(self, step: int, what: str) -> DivergedError:
    """The error of a step, its images listed in a file."""
    names = self._image_names(step)
    atomic.text(self._diverged, '\n'.join(names) + '\n')
    return DivergedError(
      f'{what} at step {step}, on {shorten_list(names)}, listed in'
      f' {self._diverged}; the last checkpoint is kept. Look at these images,'
      ' or lower optimizer.learning_rate, and resume with --accept_changes'
    )

  def _line(self, record: dict[str, Any]) -> None:
    self._file.write(json.dumps(record) + '\n')
    for name, value in record.items():
      if isinstance(value, float) and name != 'epoch':
        self._events.add_scalar(
          f'{record["split"]}/{name}', value, record['step']
        )


def shorten_list(names: Sequence[str]) -> str:
  """Joins the first names: 'a.png, b.png, c.png and 61 more'."""
  shown = ', '.join(names[:3])
  return shown if len(names) <= 3 else f'{shown} and {len(names) - 3} more'


def as_logged(values: dict[str, float]) -> dict[str, float]:
  """The names of the log: a triplet batch's `count` is its anchors."""
  count = values.pop('count')
  return {**values, 'anchors': count} if 'd_ap' in values else values


def _drop_after(path: pathlib.Path, step: int) -> None:
  """Drops lines of later steps, of the final test and cut ones."""
  kept = [
    text
    for text, row in _parsed(path)
    if row and row['step'] <= step and row['split'] != 'test'
  ]
  if path.exists():
    atomic.text(path, ''.join(kept))
