"""Explains in one line why a place cannot be written, and what to do."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator

from plankton_jax.errors import InputError

_FULL = 'the disk is full'
# The system's errors that a user can mend: a number, its text in the messages
# of libraries that keep no number, what is wrong, and the remedy.
_KNOWN = (
  (errno.ENOSPC, 'No space left on device', _FULL, 'free some space'),
  (errno.EDQUOT, 'Disk quota exceeded', 'the quota is used', 'free some space'),
  (errno.EACCES, 'Permission denied', 'permission denied', 'choose a place that'
   ' you may write to'),
  (errno.EPERM, 'Operation not permitted', 'permission denied', 'choose a place'
   ' that you may write to'),
  (errno.EROFS, 'Read-only file system', 'the file system is read-only',
   'choose another place'),
  (errno.ENOTDIR, 'Not a directory', 'a part of this path is a file',
   'choose another place'),
  (errno.EEXIST, 'File exists', 'a file has this name', 'choose another place'),
)  # fmt: skip


@contextlib.contextmanager
def explained(place: pathlib.Path, need: int | None = None) -> Iterator[None]:
  """Turns a refusal to write below `place` into a line that a user can act on.

  Args:
    place: what is written, as far as known.
    need: its size in bytes.

  Raises:
    InputError: the disk is full, the quota used, or the place read-only,
      whichever exception a library made of it.
  """
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    text = explain(error, place=place, need=need)
    if text is None:
      raise
    raise InputError(text) from error


def explain(
  error: BaseException,
  *,
  place: pathlib.Path | None = None,
  need: int | None = None,
) -> str | None:
  """Describes a refused write, or returns None for any other exception.

  Args:
    error: the exception, or one that a library raised from it.
    place: what was written, if the exception does not say.
    need: its size in bytes.
  """
  for cause in _chain(error):
    number = cause.errno if isinstance(cause, OSError) else None
    text = str(cause)
    for known, message, wrong, remedy in _KNOWN:
      if number != known and message not in text:
        continue
      if isinstance(cause, OSError) and cause.filename is not None:
        place = pathlib.Path(os.fsdecode(cause.filename))
      where = f'{place}: ' if place else ''
      size = _sizes(place, need) if remedy == 'free some space' else ''
      return f'{where}{wrong}{size}; {remedy} and run the command again'
  return None


def _chain(error: BaseException) -> Iterator[BaseException]:
  """Yields an exception and its causes."""
  seen: set[int] = set()
  current: BaseException | None = error
  while current is not None and id(current) not in seen:
    seen.add(id(current))
    yield current
    hidden = current.__suppress_context__
    current = current.__cause__ or (None if hidden else current.__context__)


def _sizes(place: pathlib.Path | None, need: int | None) -> str:
  needed = f'{need / 2**20:,.1f} MiB needed' if need else ''
  free = ''
  if place:
    above = (place, *place.absolute().parents)
    there = next(folder for folder in above if os.path.exists(folder))
    free = f'{shutil.disk_usage(there).free / 2**20:,.1f} MiB free'
  both = ', '.join(filter(None, (needed, free)))
  return f' ({both})' if both else ''
