"""Lets the processes of one job take turns and agree; most runs have only one.

`cli.processes` joins them. They share the workdir, into which the first alone
writes, except for the checkpoints. What they say to each other here goes
through the runtime's own store of texts, not through the devices, whose
collectives would not wait for hours of decoding.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from plankton_jax.errors import InputError
from plankton_jax.train import process

_DONE = ''
# Milliseconds to wait for another process: a week. If it ends, the runtime ends
# the others, so that nothing waits in vain.
_PATIENCE = 7 * 24 * 3600 * 1000


def is_first() -> bool:
  """Tells whether this process logs and writes for the job."""
  return jax.process_index() == 0


@contextlib.contextmanager
def in_turn(what: str) -> Iterator[None]:
  """Runs the body in the first process, and after that in the others.

  So a cache on a shared disk is built once.

  Args:
    what: a name that no other turn of the job has.

  Raises:
    InputError: the body failed in the first process.
  """
  if jax.process_count() == 1:
    yield
  elif is_first():
    failure = 'it was interrupted'
    try:
      yield
      failure = _DONE
    except Exception as error:
      failure = f'{error}' or type(error).__name__
      raise
    finally:
      _store().key_value_set(f'turn/{what}', failure)
  else:
    failure = _store().blocking_key_value_get(f'turn/{what}', _PATIENCE)
    if failure != _DONE:
      raise InputError(f'the first process stopped: {failure}')
    yield


def from_first(what: str, value: Any) -> Any:
  """Returns the first process's value in all of them.

  Numbers that decide what comes next must not differ in their last digit.

  Args:
    what: a name that no other value of the job has.
    value: plain JSON.
  """
  if jax.process_count() == 1:
    return value
  if is_first():
    _store().key_value_set(f'value/{what}', json.dumps(value))
    return value
  return json.loads(_store().blocking_key_value_get(f'value/{what}', _PATIENCE))


@contextlib.contextmanager
def sigterm_noticed() -> Iterator[Callable[[int], bool]]:
  """Yields a function that tells whether to end after a step.

  It is asked once after every step. One process ends after the step in which
  SIGTERM arrives, as `process.sigterm_noticed` says. Of several, one that is
  told is enough: all end after the same step, a little later.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  with process.sigterm_noticed() as noticed:
    yield lambda step: noticed()


def _store() -> Any:
  from orbax.checkpoint import multihost  # training alone does without Orbax

  return multihost.get_jax_distributed_client()
