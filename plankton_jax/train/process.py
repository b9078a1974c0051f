"""Guards a run's process: alone on its workdir, and saved before SIGTERM."""

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

_LOCK = '.lock'  # in the workdir; stays there, and may be removed after a run
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of a file system


@contextlib.contextmanager
def alone_on(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other processes from training in a workdir, which it creates.

  The operating system drops the lock when the process ends, however it ends.
  A file system that has no locks is left without one.

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
  except (ValueError, KeyError, TypeError):  # it has not yet written its name
    return 'another process'


@contextlib.contextmanager
def sigterm_noticed() -> Iterator[Callable[[], bool]]:
  """Yields a function that says whether SIGTERM has come.

  The first one is only noticed, for the caller to save and leave; a second one
  ends the process at once. Outside of the main thread, which alone gets
  signals, nothing is noticed.
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
