"""Measures us beside PyTorch on this machine's accelerator, in 8 minutes.

  python -m benchmarks.accelerator [--out=DIR] [--only=step,mining] \
    [--limit_s=450] [--wheels=DIR] [--tiny]

Needs jax, flax, optax, chex, numpy, scipy, pillow, and torch for the peer's
rows. Prints each row once measured, and writes it to accelerator.csv and
accelerator.json. docs/speed.md says how to read them.
"""

import argparse
import contextlib
import csv
import io
import json
import math
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.accelerator import rows
from benchmarks.accelerator.contestants import Contest, without
from plankton_jax.files import atomic

CHARACTERS = 46  # of a name


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Parses the command line; `only` becomes a list of groups."""
  parser = argparse.ArgumentParser(
    'python -m benchmarks.accelerator', description=__doc__.splitlines()[0]
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    default=pathlib.Path('runs/accelerator'),
    help='folder for accelerator.csv and accelerator.json',
  )
  parser.add_argument(
    '--only',
    type=lambda text: text.split(','),
    default=list(rows.GROUPS),
    help=f'groups to measure, of {",".join(rows.GROUPS)}',
  )
  parser.add_argument(
    '--limit_s',
    type=float,
    default=450.0,
    help='seconds after which no row is begun and none is waited for',
  )
  parser.add_argument(
    '--wheels',
    type=pathlib.Path,
    help='folder with wheels of pure Python, as pytorch-metric-learning',
  )
  parser.add_argument(
    '--tiny',
    action='store_true',
    help='every row in a size that two CPU cores measure in a minute',
  )
  args = parser.parse_args(argv)
  for group in args.only:
    if group not in rows.GROUPS:
      parser.error(f'--only: {group!r} is not one of {", ".join(rows.GROUPS)}')
  if args.wheels and not args.wheels.is_dir():
    parser.error(f'--wheels: {args.wheels} is no folder')
  return args


def line(
  row: rows.Row,
  ours: dict[str, Any],
  peer: dict[str, Any],
  limits: dict[str, float],
) -> dict[str, Any]:
  """Makes a row of the table; values that do not apply are None.

  Args:
    row: the row measured.
    ours: facts of our worker, with the timings under 'times'; or 'error'.
    peer: the peer's; empty without one.
    limits: operations or bytes a second, by a limit's name.
  """
  seconds = _median(ours)
  unit, scale = _unit(row, ours, seconds)
  work = ours.get('flops', ours.get('bytes'))
  share = None
  if work and seconds and row.peak in limits:
    share = work / seconds / limits[row.peak]
  peer_seconds = _median(peer)
  mebibytes = lambda facts: facts.get('memory') and facts['memory'] / 2**20
  notes = [row.note, ours.get('note'), peer.get('note')]
  notes += [
    f'{who} failed: {facts["error"]}'
    for who, facts in (('ours', ours), ('peer', peer))
    if 'error' in facts
  ]
  return {
    'what': row.what,
    'unit': unit,
    'ours': seconds and scale(seconds),
    'peer': peer_seconds and scale(peer_seconds),
    'ratio': seconds and peer_seconds and peer_seconds / seconds,
    'share_of_peak': share,
    'ours_mib': mebibytes(ours),
    'peer_mib': mebibytes(peer),
    'ours_prepared_s': ours.get('prepared'),
    'peer_prepared_s': peer.get('prepared'),
    'timings': len(ours.get('times', ())),
    'note': '; '.join(filter(None, notes)),
  }


def _median(facts):
  if 'times' in facts:
    return statistics.median(facts['times'])
  return facts.get('seconds')


def _unit(row, ours, seconds):
  if row.group == 'limits':
    if 'flops' in ours:
      return 'TFLOP/s', lambda t: ours['flops'] / t / 1e12
    return 'GB/s', lambda t: ours.get('bytes', math.nan) / t / 1e9
  if row.images:
    return 'images/s', lambda t: row.images / t
  if seconds and seconds < 1:
    return 'ms', lambda t: 1e3 * t
  return 's', lambda t: t


def machine(contest: Contest) -> dict[str, Any]:
  """Describes the device, its driver, and the versions of the software."""
  ours, peer = contest.measure(rows.Row('', '', {'job': 'describe'}))
  try:
    driver = subprocess.run(
      [
        'nvidia-smi',
        '--query-gpu=name,driver_version,memory.total',
        '--format=csv,noheader',
      ],
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    driver = 'none'
  found = without(ours, 'prepared') | {'driver': driver}
  found['peer'] = without(peer, 'prepared')
  return found


def write(
  out: pathlib.Path, found: dict[str, Any], table: list[dict[str, Any]]
) -> None:
  """Writes both files atomically."""
  content = {'machine': found, 'rows': table}
  atomic.text(out / 'accelerator.json', json.dumps(content, indent=1) + '\n')
  text = io.StringIO()
  writer = csv.DictWriter(text, list(table[0]))
  writer.writeheader()
  writer.writerows(table)
  atomic.text(out / 'accelerator.csv', text.getvalue())


def shown(row: dict[str, Any]) -> str:
  """Formats a row for the terminal: three digits, '-' for None."""

  def text(value, form='{:.3g}'):
    if value is None:
      return '-'
    if abs(value) >= 1000:
      return f'{value:,.0f}'
    return form.format(value)

  cells = [
    f'{row["what"]:<{CHARACTERS}}',
    f'{row["unit"]:>9}',
    *(f'{text(row[name]):>10}' for name in ('ours', 'peer')),
    f'{text(row["ratio"]):>7}',
    f'{text(row["share_of_peak"], "{:.0%}"):>6}',
    *(f'{text(row[f"{who}_mib"]):>9}' for who in ('ours', 'peer')),
    f' {row["note"]}',
  ]
  return ' '.join(cells).rstrip()


def skipped(row: rows.Row) -> dict[str, Any]:
  """Makes the row of a measurement that there was no time for."""
  return line(row, {'note': 'skipped: --limit_s is over'}, {}, {})


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
  """Measures and writes all rows, the limits first."""
  sizes = rows.TINY if args.tiny else rows.Sizes()
  limit = time.monotonic() + args.limit_s
  contest = Contest(sizes, args.wheels, limit)
  limits: dict[str, float] = {}
  table: list[dict[str, Any]] = []
  with contextlib.closing(contest):
    found = machine(contest)
    print(json.dumps(found, indent=1), flush=True)
    print(HEADER, flush=True)
    for row in rows.table(sizes):
      if row.group not in args.only:
        continue
      if time.monotonic() >= limit:
        table.append(skipped(row))
      else:
        ours, peer = contest.measure(row)
        if row.group == 'limits':
          limits |= _limit(row, ours, peer)
        table.append(line(row, ours, peer, limits))
      print(shown(table[-1]), flush=True)
      write(args.out, found, table)
  return table


def _limit(row, ours, peer):
  """Finds the best rate of both sides, by the limit's name."""
  name = row.what.removeprefix('limit: ').split()[0]
  work = ours.get('flops', ours.get('bytes'))
  times = [*ours.get('times', ()), *peer.get('times', ())]
  return {name: work / min(times)} if work and times else {}


HEADER = ' '.join(
  [
    f'{"what":<{CHARACTERS}}',
    f'{"unit":>9}',
    *(f'{name:>10}' for name in ('ours', 'peer')),
    f'{"ratio":>7}',
    f'{"peak":>6}',
    *(f'{who + " MiB":>9}' for who in ('ours', 'peer')),
    ' note',
  ]
)


def main(argv: Sequence[str]) -> int:
  """Runs the benchmark; returns 1 if our side failed in a row."""
  args = parse(argv)
  args.out.mkdir(parents=True, exist_ok=True)
  table = measure(args)
  print(f'\n{args.out / "accelerator.csv"}')
  return int(any('ours failed' in row['note'] for row in table))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
