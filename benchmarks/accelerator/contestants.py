"""Measures rows by both sides, as processes that stay up from row to row."""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import contest
from benchmarks.accelerator import rows
from plankton_jax.errors import InputError

REPEATS = 5
ENOUGH = 15.0  # seconds after which a row is timed no further
DETERMINISTIC = '--xla_gpu_deterministic_ops=true'

Facts = dict[str, Any]


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
    self._workers: dict[str, contest.Worker] = {}
    self._opened = contextlib.ExitStack()
    self._sizes, self._wheels, self._limit = sizes, wheels, limit

  def measure(self, row: rows.Row) -> tuple[Facts, Facts]:
    """Measures a row; returns both sides' facts, with 'times' if timed.

    Both sides prepare at the same time and are timed in turn.
    """
    first = 'deterministic' if row.deterministic else 'ours'
    names = [first, 'peer'] if row.peer else [first]
    for name in names:
      # The compiler is the peer's.
      spec = row.spec if name == 'peer' else without(row.spec, 'compiler')
      self._tell(name, spec | {'least_s': self._sizes.least_s})
    facts = {name: self._hear(name) for name in names}
    if row.peer:
      refuse_other_results(facts['ours'], facts['peer'])
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
    if row.deterministic and first in self._workers:
      self._workers.pop(first).process.kill()
    return facts[first], facts.get('peer', {})

  def close(self) -> None:
    """Kills the processes that are left."""
    for worker in self._workers.values():
      worker.process.kill()
    self._opened.close()

  def _tell(self, name, message):
    if name not in self._workers:
      self._workers[name] = self._opened.enter_context(
        running(
          'peer' if name == 'peer' else 'ours',
          wheels=self._wheels if name == 'peer' else None,
          flags=self._sizes.flags
          + f' {DETERMINISTIC}' * (name == 'deterministic'),
        )
      )
    self._workers[name].tell(json.dumps(message))

  def _hear(self, name):
    left = min(self._limit - time.monotonic(), self._sizes.patience_s)
    try:
      return self._workers[name].hear(max(left, 0.1))
    except InputError as error:
      self._workers.pop(name).process.kill()
      return {'error': str(error)}


def running(
  module: str, *, wheels: pathlib.Path | None = None, flags: str = ''
) -> contextlib.AbstractContextManager[contest.Worker]:
  """Runs a contestant.

  Neither side reserves all of the device's memory, so that both fit.

  Args:
    module: of this package.
    wheels: a folder with wheels to import from, or None.
    flags: for XLA.
  """
  environment = {
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    **os.environ,
    'PYTHONPATH': os.pathsep.join(_paths(wheels)),
  }
  # XLA takes flags without a leading dash for a file name.
  given = [*os.environ.get('XLA_FLAGS', '').split(), *flags.split()]
  if given:
    environment['XLA_FLAGS'] = ' '.join(given)
  command = [sys.executable, '-m', f'benchmarks.accelerator.{module}']
  return contest.running(module, command, environment)


def refuse_other_results(ours: Facts, peer: Facts) -> None:
  """Refuses a peer with another result: doing less work must not win."""
  if 'error' in ours or 'error' in peer:
    return
  if text := contest.disagreement(ours, peer):
    peer['error'] = text
    peer.pop('calls', None)


def without(spec: dict[str, Any], field: str) -> dict[str, Any]:
  """Leaves a field out."""
  return {name: value for name, value in spec.items() if name != field}


def _paths(wheels: pathlib.Path | None) -> Sequence[str]:
  """Lists the paths to import from; pure Python wheels need no install."""
  own = os.environ.get('PYTHONPATH')
  found = sorted(map(str, wheels.resolve().glob('*.whl'))) if wheels else []
  return [*found, *([own] if own else [])]
