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
from benchmarks import contest
from benchmarks.serve import cores
from plankton_jax.cli import command
from plankton_jax.errors import InputError

BUSY = 0.1  # share of the cores from which figures are not to be trusted
PEERS = 'torch, pytorch_metric_learning, faiss, PIL'


class Row(NamedTuple):
  """A line of the table: its name, its job, and its format."""

  what: str
  spec: dict[str, Any]
  images: int = 0  # a call, for a rate; 0 shows the time
  peer: bool = True
  rival: dict[str, Any] | None = None  # what we do ourselves in its place


# The machine's limits, measured in every run: a share of them says how much
# is left to gain.
MATMUL = Row('limit: float32 matrix product', {'job': 'matmul', 'side': 4096})
COPY = Row('limit: large copy', {'job': 'copy', 'mebibytes': 512})

_BOTH = (128, 512, 1024, 2048)  # rows in a batch
_POLICIES = ('easy+semihard', 'easy+hard', 'hard+hard')
_ALONE = (4096, 8192, 16384)  # where the peer's [B, B] lists no longer pay


def groups(
  backend: str, folder: pathlib.Path, *, large: bool
) -> dict[str, list[Row]]:
  """Lists the rows of each group on a backend.

  Args:
    backend: 'cpu', or what else JAX runs on.
    folder: for the files of rows that need some.
    large: 100,000 rows instead of 20,000 in retrieval and distances.
  """
  if backend != 'cpu':
    return {}  # of an accelerator benchmarks.accelerator has its own rows
  rows = 100_000 if large else 20_000
  return {
    'step': [
      *(_step(32, 64, compiled=on) for on in (False, True)),
      *(_step(64, 64, compiled=on) for on in (False, True)),
      _step(32, 128),
    ],
    'bfloat16': [
      _step(width, 64, dtype='bfloat16', compiled=on)
      for width in (32, 64)
      for on in (False, True)
    ],
    'mining': [
      *(_mining(batch, policy) for policy in _POLICIES for batch in _BOTH),
      *(_mining(batch, 'easy+semihard', peer=False) for batch in _ALONE),
    ],
    'embed': [_embed(32, 64), _embed(64, 64)],
    'backbones': [
      _backbone('convnext_atto', 64),
      _backbone('vit_small_patch14_dinov2', 112),
      _backbone('vit_small_patch14_dinov2', 224),
      _backbone('vit_small_patch16_dinov3', 112),
    ],
    'retrieval': [
      Row(
        f'retrieval measures, {rows:,} x 128',
        {'job': 'retrieve', 'rows': rows, 'dim': 128, 'classes': 100},
      ),
      Row(
        f'retrieval measures, {rows:,} x 128, 90 classes by Zipf',
        {
          'job': 'retrieve',
          'rows': rows,
          'dim': 128,
          'classes': 90,
          'tail': 1.2,
        },
        peer=False,  # its calculator runs out of memory
      ),
    ],
    'distances': [
      Row(
        f'class distances, {rows:,} x 128',
        {'job': 'class_distances', 'rows': rows, 'classes': 100},
        peer=False,
      )
    ],
    'decode': [
      Row(
        'decode 2,400 PNG to 64 px',
        {'job': 'decode', 'folder': str(folder), 'count': 2400, 'side': 64},
        images=2400,
      )
    ],
    'input': [
      Row(
        'gather a batch of 128 at 64 px',
        {'job': 'gather', 'rows': 50_000, 'batch': 128, 'side': 64},
        images=128,
      ),
      _epoch(32, 64, steps=8),
      _epoch(8, 64, steps=32),
    ],
    'start': [
      Row('launch.py --help', {'job': 'show_help'}, peer=False),
      Row(
        'command to first step, warm cache',
        {'job': 'first_step', 'folder': str(folder)},
        peer=False,
      ),
    ],
  }


def _step(width, side, *, dtype='float32', compiled=False):
  what = f'train ResNet-18 x{width}, {side} px, batch 128'
  precision = '' if dtype == 'float32' else f', {dtype}'
  peer = '; peer: torch.compile' if compiled else ''
  return Row(
    f'{what}{precision}{peer}',
    {
      'job': 'step',
      'width': width,
      'side': side,
      'batch': 128,
      'dtype': dtype,
      'compiled': compiled,
    },
    images=128,
  )


def _epoch(width, side, steps):
  spec = {
    'job': 'epoch',
    'width': width,
    'side': side,
    'batch': 128,
    'steps': steps,
    'rows': 50_000,
  }
  return Row(
    f'steps fed ResNet-18 x{width}, {side} px; peer: resident batch',
    spec | {'stream': True},
    images=128 * steps,
    rival=spec | {'stream': False},
  )


def _embed(width, side):
  return Row(
    f'embed ResNet-18 x{width}, {side} px',
    {'job': 'embed', 'width': width, 'side': side, 'batch': 256, 'count': 1024},
    images=1024,
  )


def _backbone(name, side):
  count = 256
  spec = {'job': 'embed', 'width': 32, 'batch': 256, 'count': count}
  return Row(
    f'embed {name}, {side} px; peer: our ResNet-18 x32, 64 px',
    spec | {'side': side, 'name': name},
    images=count,
    rival=spec | {'side': 64},
  )


def _mining(batch, policy, *, peer=True):
  return Row(
    f'mine {policy}, B = {batch:,}',
    {'job': 'mining', 'batch': batch, 'dim': 128, 'policy': policy},
    peer=peer,
  )


GROUPS = tuple(groups('cpu', pathlib.Path(), large=False))


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
  read: dict[str, Any] = {name: values[name].value for name in Options._fields}
  return Options(**read | {'out': pathlib.Path(values.out)})


def line(
  row: Row, times: contest.Times, limits: dict[str, float]
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
  if row is MATMUL:
    return 'GFLOP/s', lambda t: times.facts['flops'] / t / 1e9
  if row is COPY:
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

  matmul, copy = race(MATMUL), race(COPY)
  limits = {'flops': best('flops', matmul), 'bytes': best('bytes', copy)}
  table = [line(MATMUL, matmul, limits), line(COPY, copy, limits)]
  own = groups(matmul.facts['backend'], folder, large=options.large)
  chosen = [row for name in options.only for row in own.get(name, [])]
  for row in (progress := tqdm(chosen, unit=' rows')):
    progress.set_description(row.what)
    table.append(line(row, race(row), limits))
    tables.write_csv(options.out / 'speed.csv', table)
  return table


def main(values: flags.FlagValues) -> None:
  """Measures, prints the table and warns if others ran meanwhile."""
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
  command.run(lambda argv: main(flags.FLAGS))
