"""Measures us beside PyTorch on this machine's accelerator, in 8 minutes.

  python -m benchmarks.accelerator [--out=DIR] [--only=step,mining] \
    [--limit_s=450] [--wheels=DIR] [--tiny]

Needs jax, flax, optax, chex, numpy, scipy, pillow, and torch for the peer's
rows. Prints each row once measured, and writes it to accelerator.csv and
accelerator.json. docs/speed.md says how to read them.
"""

import argparse
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

from benchmarks.accelerator import contestants, rows
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

REPEATS = 5
ENOUGH = 15.0  # seconds after which a row is timed no further
AGREE = 1e-3  # relative difference allowed between the results of both sides
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


class Contest:
  """Both contestants; one that dies is restarted for the next row.

  Args:
    sizes: of all work.
    wheels: a folder to import from as well, or None.
    limit: `time.monotonic()` at which to stop waiting.
  """

  def __init__(
    self, sizes: rows.Sizes, wheels: pathlib.Path | None, limit: float
  ):
    self.workers: dict[str, contestants.Worker] = {}
    self._sizes, self._wheels, self._limit = sizes, wheels, limit

  def measure(self, row: rows.Row) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measures a row; returns both sides' facts, with 'times' if timed.

    Both sides prepare at the same time and are timed in turn.
    """
    first = 'deterministic' if row.deterministic else 'ours'
    names = [first, 'peer'] if row.peer else [first]
    for name in names:
      # The compiler is the peer's.
      spec = row.spec if name == 'peer' else _without(row.spec, 'compiler')
      self._tell(name, spec | {'least_s': self._sizes.least_s})
    facts = {name: self._hear(name) for name in names}
    if row.peer:
      _check(facts['ours'], facts['peer'])
    ready = [name for name in names if 'calls' in facts[name]]
    for name in ready:
      facts[name]['times'] = []
    began = time.monotonic()
    for _ in range(REPEATS if ready else 0):
      for name in ready:
        if 'error' not in facts[name]:
          self._tell(name, {'measure': True})
          answer = self._hear(name)
          facts[name]['times'] += [answer.pop('seconds')] if answer else []
          facts[name] |= answer
      if time.monotonic() - began > ENOUGH:
        break
    if row.deterministic and first in self.workers:
      self.workers.pop(first).close()
    return facts[first], facts.get('peer', {})

  def _tell(self, name, message):
    if name not in self.workers:
      self.workers[name] = contestants.Worker(
        'peer' if name == 'peer' else 'ours',
        wheels=self._wheels if name == 'peer' else None,
        flags=self._sizes.flags
        + f' {contestants.DETERMINISTIC}' * (name == 'deterministic'),
      )
    self.workers[name].tell(message)

  def _hear(self, name):
    try:
      left = self._limit - time.monotonic()
      return self.workers[name].hear(min(left, self._sizes.patience_s))
    except InputError as error:
      self.workers.pop(name).close()
      return {'error': str(error)}


def _without(spec, field):
  return {name: value for name, value in spec.items() if name != field}


def _check(ours: dict[str, Any], peer: dict[str, Any]) -> None:
  """Refuses a peer with another result: doing less work must not win."""
  if 'error' in ours or 'error' in peer:
    return
  pairs = [
    (name, ours['checks'][name], other)
    for name, other in peer.get('checks', {}).items()
  ]
  if 'parameters' in peer:
    pairs.append(('parameters', ours['parameters'], peer['parameters']))
  for name, value, other in pairs:
    if not abs(value - other) <= AGREE * max(abs(value), abs(other)):
      peer['error'] = f'{name} is {other}, ours {value}'
      peer.pop('calls', None)


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
  found = _without(ours, 'prepared') | {'driver': driver}
  found['peer'] = _without(peer, 'prepared')
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
  with contestants.closing(contest.workers):
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
