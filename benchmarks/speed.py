"""Measures us beside PyTorch on this machine: one table, and speed.csv.

  python -m benchmarks.speed [--only=step,mining] [--repeats=5] [--out=DIR] \
    [--peer_python=PATH]

The peers of requirements-bench.txt are in the same environment, or in the one
whose Python is named. docs/speed.md says how to read the table.
"""

import math
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags
from tqdm import tqdm

from analysis.files import tables
from benchmarks import contest, rows
from benchmarks.serve import cores
from plankton_jax.cli import command
from plankton_jax.errors import InputError

BUSY = 0.1  # share of the cores from which figures are not to be trusted
PEERS = 'torch, pytorch_metric_learning, faiss, PIL'
GROUPS = tuple(rows.groups('cpu', pathlib.Path(), large=False))


class Options(NamedTuple):
  """The command's flags; `define` says what each means."""

  only: list[str]
  repeats: int
  large: bool
  out: pathlib.Path
  peer_python: str


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  flags.DEFINE_list(
    'only', list(GROUPS), 'Groups to measure.', flag_values=values
  )
  flags.DEFINE_integer('repeats', 5, 'Timings of each.', flag_values=values)
  flags.DEFINE_bool(
    'large', False, '100,000 rows in place of 20,000.', flag_values=values
  )
  flags.DEFINE_string(
    'out', 'runs/speed', 'Folder for speed.csv.', flag_values=values
  )
  flags.DEFINE_string(
    'peer_python', sys.executable, "The peers' Python.", flag_values=values
  )


def parse(values: flags.FlagValues) -> Options:
  """Reads the flags.

  Raises:
    InputError: a group that does not exist, or no timing.
  """
  for group in values.only or ['']:
    if group not in GROUPS:
      raise InputError(f'--only: {group!r} is not one of {", ".join(GROUPS)}')
  if values.repeats < 1:
    raise InputError('--repeats must be at least 1')
  read = {name: values[name].value for name in Options._fields}
  return Options(**read | {'out': pathlib.Path(values.out)})


def line(
  row: rows.Row, times: contest.Times, limits: dict[str, float]
) -> dict[str, Any]:
  """Makes a row of speed.csv; values that do not apply are None.

  Args:
    row: what was measured.
    times: its seconds.
    limits: operations a second under 'flops', bytes a second under 'bytes'.
  """
  ours = statistics.median(times.ours)
  peer = statistics.median(times.peer) if times.peer else math.nan
  unit, scale = _unit(row, times, ours)
  shown = lambda t: None if math.isnan(t) else scale(t)
  share = [
    times.facts[name] / ours / limit
    for name, limit in limits.items()
    if name in times.facts
  ]
  ratio = contest.ratio(times)
  temporary = times.facts.get('temporary')
  return {
    'what': row.what,
    'unit': unit,
    'ours': shown(ours),
    'peer': shown(peer),
    'ratio': ratio and ratio.median,
    'lowest': ratio and ratio.low,
    'highest': ratio and ratio.high,
    'share_of_limit': share[0] if share else None,
    'temporary_mib': None if temporary is None else temporary / 2**20,
    'others': times.busy,
    'repeats': len(times.ours),
  }


def _unit(row, times, seconds):
  if row is rows.MATMUL:
    return 'GFLOP/s', lambda t: times.facts['flops'] / t / 1e9
  if row is rows.COPY:
    return 'GB/s', lambda t: times.facts['bytes'] / t / 1e9
  if row.images:
    return 'images/s', lambda t: row.images / t
  if seconds < 1:
    return 'ms', lambda t: 1e3 * t
  return 's', lambda t: t


def best(fact: str, times: contest.Times) -> float:
  """Finds the highest rate reached, of 'flops' or 'bytes' a second."""
  return times.facts[fact] / min(times.ours + times.peer)


def shown(table: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
  """Formats rows for the terminal: three digits, '-' for None."""
  digits = lambda x: f'{x:.3g}' if abs(x) < 1000 else f'{x:,.0f}'
  percent = lambda x: '-' if x is None else f'{x:.0%}'
  text = lambda x: '-' if x is None else x if isinstance(x, str) else digits(x)
  return [
    {
      'what': row['what'],
      'unit': row['unit'],
      'ours': text(row['ours']),
      'peer': text(row['peer']),
      'ratio': text(row['ratio']),
      'lowest': text(row['lowest']),
      'highest': text(row['highest']),
      'limit': percent(row['share_of_limit']),
      'temp MiB': text(row['temporary_mib']),
      'others': percent(row['others']),
    }
    for row in table
  ]


def measure(options: Options, folder: pathlib.Path) -> list[dict[str, Any]]:
  """Measures limits, then the groups, writing speed.csv as it goes."""

  def race(row):
    return contest.race(
      row.spec,
      repeats=options.repeats,
      peer_python=options.peer_python if row.peer else None,
      rival=row.rival,
    )

  matmul, copy = race(rows.MATMUL), race(rows.COPY)
  limits = {'flops': best('flops', matmul), 'bytes': best('bytes', copy)}
  table = [line(rows.MATMUL, matmul, limits), line(rows.COPY, copy, limits)]
  groups = rows.groups(matmul.facts['backend'], folder, large=options.large)
  chosen = [row for name in options.only for row in groups.get(name, [])]
  for row in (progress := tqdm(chosen, unit=' rows')):
    progress.set_description(row.what)
    table.append(line(row, race(row), limits))
    tables.write_csv(options.out / 'speed.csv', table)
  return table


def main(
  argv: Sequence[str], *, values: flags.FlagValues = flags.FLAGS
) -> None:
  """Measures, prints the table and warns if others ran meanwhile."""
  del argv  # flags only
  options = parse(values)
  contest.need(options.peer_python, PEERS)
  options.out.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as folder:
    table = measure(options, pathlib.Path(folder))
  tables.show(
    shown(table),
    f'medians of {options.repeats}, {cores()} threads each; ratio is how'
    ' many times as fast we are, with its extremes',
  )
  print(f'\n{options.out / "speed.csv"}')
  if max(row['others'] for row in table) > BUSY:
    print(
      'warning: other processes ran meanwhile (column others); measure again'
      ' when the machine is quiet, for no ratio is fair so',
      file=sys.stderr,
    )


if __name__ == '__main__':
  define(flags.FLAGS)
  command.run(main)
