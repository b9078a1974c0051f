"""Walks the files below a folder, past what systems and archivers leave."""

import codecs
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from plankton_jax.data.pixels import images
from plankton_jax.errors import InputError
from plankton_jax.files import home

# Endings of archives that a user is told to unpack; zip has readers.
PACKED = (
  *('.tar', '.gz', '.tgz', '.bz2', '.xz', '.7z', '.rar', '.zipx', '.zst'),
  *('.001', '.z01'),  # the first part of several
)
# Folders and files that systems and archivers make.
_CLUTTER = frozenset(
  {
    *('__MACOSX', '@eaDir', '#recycle', '$RECYCLE.BIN'),
    *('System Volume Information', 'lost+found'),
    *('Thumbs.db', 'ehthumbs.db', 'desktop.ini', 'Icon\r'),
  }
)
_RUN = frozenset(('config.json', 'split.json'))  # files of every workdir


def is_clutter(parts: Iterable[str]) -> bool:
  """Tells whether a name in a path is hidden, or one of the system's."""
  return any(name.startswith('.') or name in _CLUTTER for name in parts)


def without_figures(names: Sequence[str]) -> list[str]:
  """Leaves `analysis` out of the names in a run's workdir."""
  if not _RUN.issubset(names):
    return [*names]
  return [name for name in names if name != 'analysis']


def is_image(name: str) -> bool:
  """Tells by a path's ending whether it is an image, and not clutter."""
  ending = os.path.splitext(name)[1].lower()
  return ending in images.EXTENSIONS and not is_clutter(name.split('/'))


def utf16(data: bytes) -> str:
  """Names the form of UTF-16 that a text is in; '' if it is in none.

  Without a mark, every other of its first bytes is 0.
  """
  if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    return 'utf-16'
  start = data[:16]
  for encoding, zeros, letters in (
    ('utf-16-le', start[1::2], start[::2]),
    ('utf-16-be', start[::2], start[1::2]),
  ):
    if zeros and not any(zeros) and all(letters):
      return encoding
  return ''


def decode_text(data: bytes) -> str:
  """Decodes what an instrument writes: Latin-1, unless it is Unicode."""
  marked = 'utf-8-sig' if data.startswith(codecs.BOM_UTF8) else 'latin-1'
  return data.decode(utf16(data) or marked, errors='replace')


def expanded(
  path: str, field: str, what: str = 'the place of the images'
) -> Path:
  """Puts the home folder in place of a leading ~.

  Raises:
    InputError: the path is empty or longer than any can be, or there is no such
      home; the message names the field, and `what` it takes.
  """
  if not path:
    raise InputError(f'{field} is empty: name {what}')
  try:
    place = home.expand(path)
    place.exists()
  except InputError as error:
    raise InputError(f'{field}: {error}') from None
  except (OSError, ValueError) as error:
    reason = error.strerror if isinstance(error, OSError) else error
    raise InputError(f'{field}: {path[:80]!r}: {reason}') from None
  return place


def read(path: Path) -> bytes:
  """Reads a file.

  Raises:
    ValueError: it cannot be read, and why, without its name.
  """
  try:
    return path.read_bytes()
  except OSError as error:
    raise ValueError(error.strerror or str(error)) from error


def digest(path: Path) -> bytes:
  """Hashes a file's content."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'blake2b').digest()


def walk(root: Path) -> Iterator[Path]:
  """Yields every file below a folder, a folder's files in order.

  Passes over hidden folders, those of the system, and what analyses of a run
  wrote into its workdir. Follows links, and enters a folder once, so that it
  never goes in circles.
  """
  seen: set[tuple[int, int]] = set()
  for place, folders, names in os.walk(root, followlinks=True):
    try:
      status = os.stat(place)
    except OSError:  # Its path is too long, or it is gone.
      folders.clear()
      continue
    if (status.st_dev, status.st_ino) in seen:
      folders.clear()
      continue
    seen.add((status.st_dev, status.st_ino))
    here = {*without_figures([*folders, *names])}
    folders[:] = sorted(n for n in folders if n in here and not is_clutter([n]))
    yield from (Path(place, name) for name in sorted(names))
