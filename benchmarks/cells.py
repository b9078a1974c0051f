"""Trains the cells of tables, each a contestant and a seed in a process.

A cell has one JSON file. Once finished it is never trained again, whichever
table needs it. A killed one is resumed (ours) or restarted (the peer's).
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

from benchmarks import recipes
from plankton_jax.errors import InputError

MEASURES = (
  'test R@1',
  'test MAP@R',
  'test macro MAP@R',  # every class has the same weight
  'unseen R@1',
  'unseen MAP@R',
  'unseen SVC n=30',
  'unseen SVC n=max',
)

Spec = dict[str, Any]  # 'config', and whether the 'peer' trains: plain JSON
Specs = dict[str, list[Spec]]  # by row of a table, one a seed
Result = dict[str, Any]  # MEASURES, seconds, epoch, note


def result(out: pathlib.Path, spec: Spec) -> Result | None:
  """Reads the result of a cell; None if it is not finished."""
  path = _file(out, spec)
  return json.loads(path.read_text())['result'] if path.exists() else None


def queue(rows: Specs) -> list[tuple[str, Spec]]:
  """Orders titles and specs by seed: all rows of one, then of the next."""
  return [
    (f'{name}, seed {seed}', spec)
    for seed, column in enumerate(zip(*rows.values(), strict=True))
    for name, spec in zip(rows, column, strict=True)
  ]


def run(
  out: pathlib.Path,
  cells: Sequence[tuple[str, Spec]],
  *,
  peer_python: str = sys.executable,
  after: Callable[[], object] = lambda: None,
) -> list[str]:
  """Trains and measures the cells without a result, one at a time.

  Args:
    out: results go to out/cells, runs to out/work until they are measured.
    cells: (title, spec), to train in this order.
    peer_python: the peer's interpreter.
    after: called after each cell.

  Returns:
    Titles of the cells that failed, with the reason.

  Raises:
    InputError: another process works in this folder.
  """
  failed = []
  with _alone(out) as lock:
    missing = {
      _file(out, spec): (title, spec)
      for title, spec in cells
      if not _file(out, spec).exists()
    }
    for title, spec in (bar := tqdm(missing.values(), unit='cell')):
      bar.set_description(title)
      reason = _train(out, spec, peer_python, lock)
      if reason:
        failed.append(f'{title}: {reason}')
        bar.write(f'failed: {failed[-1]}', file=sys.stderr)
      else:
        after()
  return failed


def interval(values: Sequence[float]) -> tuple[float, float]:
  """Computes the mean, and half its 95 % interval by Student's t.

  Leaves out NaN values; with fewer than two the half is NaN.
  """
  x = np.asarray(values, np.float64)
  x = x[~np.isnan(x)]
  if len(x) < 2:
    return (float(x[0]) if len(x) else math.nan), math.nan
  error = x.std(ddof=1) / math.sqrt(len(x))
  return float(x.mean()), float(stats.t.ppf(0.975, len(x) - 1) * error)


def shown(values: Sequence[float], sign: str = '', digits: int = 3) -> str:
  """Formats '0.851 ± 0.012'; without ± for one value; '-' for none."""
  mean, half = interval(values)
  if math.isnan(mean):
    return '-'
  text = f'{mean:{sign}.{digits}f}'
  return text if math.isnan(half) else f'{text} ± {half:.{digits}f}'


def numbers(results: Sequence[Result], measure: str) -> list[float]:
  """Lists a measure of every result; NaN for runs without one."""
  found = [r[measure] for r in results]
  return [math.nan if x is None else x for x in found]


def notes(results: Sequence[Result]) -> str:
  """Counts the runs that collapsed or diverged: '1 of 3 collapsed'."""
  kinds = [r['note'].partition(':')[0] for r in results if r['note']]
  return ', '.join(
    f'{kinds.count(kind)} of {len(results)} {kind}' for kind in sorted({*kinds})
  )


def _file(out: pathlib.Path, spec: Spec) -> pathlib.Path:
  text = json.dumps(spec, sort_keys=True).encode()
  digest = hashlib.blake2b(text, digest_size=8).hexdigest()
  return out / 'cells' / f'{digest}.json'


def _train(out, spec, peer_python, lock) -> str:
  """Runs benchmarks.contestants; returns '' or its last line of error."""
  final = _file(out, spec).resolve()
  work = out.resolve() / 'work' / final.stem
  work.mkdir(parents=True, exist_ok=True)
  final.parent.mkdir(exist_ok=True)
  (work / 'spec.json').write_text(json.dumps(spec))
  with (work / 'log.txt').open('w') as log:
    ended = subprocess.run(
      [
        sys.executable,
        *('-m', 'benchmarks.contestants'),
        *(str(work), str(final), peer_python),
      ],
      cwd=recipes.ROOT,
      # The child holds it too, in case we are killed first.
      pass_fds=[lock],
      env={'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1', **os.environ},
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
    )
  if ended.returncode:
    lines = (work / 'log.txt').read_text(errors='replace').split('\n')
    said = [line for line in lines if line.strip()]
    return said[-1] if said else f'it ended with {ended.returncode}'
  shutil.rmtree(work)
  return ''


@contextlib.contextmanager
def _alone(out: pathlib.Path) -> Iterator[int]:
  """Locks the folder, so that no cell is trained twice at the same time."""
  out.mkdir(parents=True, exist_ok=True)
  with (out / '.lock').open('w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      raise InputError(
        f'{out}: another process trains cells there; wait for it, or name'
        ' another --out'
      ) from None
    yield file.fileno()
