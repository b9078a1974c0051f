"""Keeps a job alone on its workdir, and its processes in step with each other.

Most jobs are one process; `cli.processes` joins several. They share the
workdir, into which the first alone writes, except for the checkpoints. What
they say to each other here goes through the runtime's own store of texts, not
through the devices, whose collectives would not wait for hours of decoding.
"""

import contextlib
import errno
import json
import os
import pathlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from plankton_jax.errors import InputError

try:
  import fcntl
except ImportError:  # not on Windows
  fcntl = None  # type: ignore[assignment]

_LOCK = '.lock'  # stays in the workdir; may be deleted later
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # no locks there
_DONE = ''  # what the first process says if its turn went well
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
def alone_on(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other processes from training in a workdir, which it creates.

  The operating system releases the lock when the process ends, however it ends.
  On a file system without locks there is no guard.

  Raises:
    InputError: another process trains there; the message names it.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / _LOCK, 'a+', encoding='utf-8') as file:
    if fcntl is not None:
      _take(file, workdir)
    yield


def _take(file, workdir):
  """Locks the open file, and writes into it who has the lock."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise InputError(
      f'{workdir}: {_holder(file)} trains there; wait for it, or choose another'
      ' --workdir'
    ) from None
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    return
  file.truncate(0)
  json.dump({'process': os.getpid(), 'host': socket.gethostname()}, file)
  file.flush()


def _holder(file):
  file.seek(0)
  try:
    found = json.load(file)
    return f'process {found["process"]} on {found["host"]}'
  except (ValueError, KeyError, TypeError):  # it has not written its name yet
    return 'another process'


@contextlib.contextmanager
def sigterm_noticed() -> Iterator[Callable[[int], bool]]:
  """Yields a function that tells whether to end after a step.

  It is asked once after every step. One process ends after the step in which
  SIGTERM arrives: the first one is only noted, so that the caller can save and
  leave; a second one ends the process at once. Outside of the main thread,
  which alone receives signals, none is noticed. Of several processes, one that
  is told is enough: all end after the same step, a little later.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  noticed = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield lambda step: False
    return

  def notice(number: int, frame: FrameType | None) -> None:
    del frame
    noticed.set()
    signal.signal(number, signal.SIG_DFL)

  previous = signal.signal(signal.SIGTERM, notice)
  try:
    yield lambda step: noticed.is_set()
  finally:
    signal.signal(signal.SIGTERM, previous)


def _store() -> Any:
  from orbax.checkpoint import multihost  # training alone does without Orbax

  return multihost.get_jax_distributed_client()
