"""Measures us beside PyTorch on this machine: one table, and speed.csv.

  python -m benchmarks.speed [--only=step,mining] [--repeats=5] [--out=DIR] \
    [--peer_python=PATH]

The peers of requirements-bench.txt stand in the same environment, or in the
one whose Python is named. docs/speed.md says how to read the table.
"""

import argparse
import math
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from analysis.files import tables
from benchmarks import contest, rows
from benchmarks.serve import cores
from plankton_jax.errors import InputError

BUSY = 0.1  # share of the cores from which figures are not to be trusted
PEERS = 'torch, pytorch_metric_learning, faiss, PIL'
GROUPS = tuple(rows.groups('cpu', pathlib.Path(), large=False))


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """The command line; `only` becomes a list of groups."""
  parser = argparse.ArgumentParser(
    'python -m benchmarks.speed', description=__doc__.splitlines()[0]
  )
  parser.add_argument(
    '--only',
    type=lambda text: text.split(','),
    default=list(GROUPS),
    help=f'groups to measure, of {",".join(GROUPS)}',
  )
  parser.add_argument('--repeats', type=int, default=5, help='timings of each')
  parser.add_argument(
    '--large', action='store_true', help='100,000 rows in place of 20,000'
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    default=pathlib.Path('runs/speed'),
    help='folder for speed.csv',
  )
  parser.add_argument(
    '--peer_python', default=sys.executable, help="the peers' Python"
  )
  args = parser.parse_args(argv)
  for group in args.only:
    if group not in GROUPS:
      parser.error(f'--only: {group!r} is not one of {", ".join(GROUPS)}')
  if args.repeats < 1:
    parser.error('--repeats must be at least 1')
  return args


def line(
  row: rows.Row, times: contest.Times, limits: dict[str, float]
) -> dict[str, Any]:
  """A row of speed.csv; what does not apply is None.

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
  """The highest rate that anyone reached, of 'flops' or 'bytes' a second."""
  return times.facts[fact] / min(times.ours + times.peer)


def shown(table: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
  """Rows as the terminal shows them: three digits, '-' for None."""
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


def measure(
  args: argparse.Namespace, folder: pathlib.Path
) -> list[dict[str, Any]]:
  """Measures limits, then the groups, writing speed.csv as it goes."""

  def race(row):
    return contest.race(
      row.spec,
      repeats=args.repeats,
      peer_python=args.peer_python if row.peer else None,
      rival=row.rival,
    )

  matmul, copy = race(rows.MATMUL), race(rows.COPY)
  limits = {'flops': best('flops', matmul), 'bytes': best('bytes', copy)}
  table = [line(rows.MATMUL, matmul, limits), line(rows.COPY, copy, limits)]
  groups = rows.groups(matmul.facts['backend'], folder, large=args.large)
  chosen = [row for name in args.only for row in groups.get(name, [])]
  for row in (progress := tqdm(chosen, unit=' rows')):
    progress.set_description(row.what)
    table.append(line(row, race(row), limits))
    tables.write_csv(args.out / 'speed.csv', table)
  return table


def main(argv: Sequence[str]) -> None:
  args = parse(argv)
  try:
    contest.need(args.peer_python, PEERS)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
      table = measure(args, pathlib.Path(folder))
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  tables.show(
    shown(table),
    f'medians of {args.repeats}, {cores()} threads each; ratio is how'
    ' many times as fast we are, with its extremes',
  )
  print(f'\n{args.out / "speed.csv"}')
  if max(row['others'] for row in table) > BUSY:
    print(
      'warning: other processes ran meanwhile (column others); measure again'
      ' when the machine is quiet, for no ratio is fair so',
      file=sys.stderr,
    )


if __name__ == '__main__':
  main(sys.argv[1:])
