"""Keeps a run alone on its workdir, and lets it save at SIGTERM."""

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

from plankton_jax.errors import InputError

try:
  import fcntl
except ImportError:  # not on Windows
  fcntl = None  # type: ignore[assignment]

_LOCK = '.lock'  # stays in the workdir; may be deleted later
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # no locks there


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
def sigterm_noticed() -> Iterator[Callable[[], bool]]:
  """Yields a function that tells whether SIGTERM has arrived.

  The first SIGTERM is only noted, so that the caller can save and leave; a
  second one ends the process at once. Does nothing outside of the main thread,
  which alone receives signals.
  """
  noticed = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield noticed.is_set
    return

  def notice(number: int, frame: FrameType | None) -> None:
    del frame
    noticed.set()
    signal.signal(number, signal.SIG_DFL)

  previous = signal.signal(signal.SIGTERM, notice)
  try:
    yield noticed.is_set
  finally:
    signal.signal(signal.SIGTERM, previous)
