"""Walks the files below a folder, past what systems and archivers leave."""

import codecs
import collections
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from plankton_jax.data.pixels import images
from plankton_jax.data.sources.source import one_line
from plankton_jax.errors import InputError
from plankton_jax.files import home

# Endings of archives that a user is told to unpack; zip and tar have readers.
PACKED = (
  *('.gz', '.bz2', '.xz', '.7z', '.rar', '.zipx', '.zst'),
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
ZARR = frozenset(('.zarray', '.zgroup', 'zarr.json'))  # files of such a store
_LONGEST = 500  # characters of a path that an error shows


def is_clutter(parts: Iterable[str]) -> bool:
  """Tells whether a name in a path is hidden, or one of the system's.

  Excel writes ~$ before the name of a workbook that is open.
  """
  return any(n.startswith(('.', '~$')) or n in _CLUTTER for n in parts)


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


class Folder(NamedTuple):
  """A folder on a walk: what lies in it itself, in order."""

  name: str  # its path below the root, with slashes; '' of the root
  files: Sequence[str]  # their names
  entered: Sequence[str]  # names of folders in it
  passed: Sequence[str]  # and of those that are hidden, or figures of a run


# Lists a folder by its name, as `Folder` has it: its folders and its files.
List = Callable[[str], tuple[list[str], list[str]]]


def tree(listed: List, start: str = '') -> Iterator[Folder]:
  """Walks folders from the top, each one's in order.

  Enters neither hidden folders, nor those of the system, nor what analyses of a
  run wrote into its workdir, nor what is in a Zarr store.
  """
  waiting = [start]
  while waiting:
    name = waiting.pop()
    folders, names = listed(name)
    kept = {*without_figures([*folders, *names])}
    passed = [n for n in folders if n not in kept or n.startswith('.')]
    entered = [n for n in folders if n in kept and not is_clutter([n])]
    if not ZARR.isdisjoint(names):
      entered = []
    yield Folder(name, names, entered, passed)
    waiting += [join(name, inner) for inner in reversed(entered)]


def join(folder: str, name: str) -> str:
  """Joins a name to a folder's, which is '' at the root."""
  return f'{folder}/{name}' if folder else name


def on_disk(root: Path) -> List:
  """Returns what lists folders below one on disk, following links.

  Links that lead back up are no folders, pipes and the like no files.

  Raises:
    InputError: the returned function, if a folder cannot be read.
  """
  places: dict[str, tuple[int, int]] = {}  # folder -> its device and number

  def listed(name: str) -> tuple[list[str], list[str]]:
    folders, names = [], []
    try:
      status = os.stat(root / name)
      places[name] = status.st_dev, status.st_ino
      with os.scandir(root / name) as entries:
        for entry in entries:
          if _is_folder(entry):
            if not (entry.is_symlink() and leads_up(name, entry)):
              folders.append(entry.name)
          elif entry.is_file(follow_symlinks=False) or _links_to_file(entry):
            names.append(entry.name)
    except OSError as error:
      shown = one_line(root / name)[:_LONGEST]
      raise InputError(f'{shown}: {error.strerror}') from error
    return sorted(folders), sorted(names)

  def leads_up(name: str, link: os.DirEntry) -> bool:
    status = link.stat()
    parts = name.split('/')
    above = ['/'.join(parts[:end]) for end in range(len(parts) + 1)]
    return (status.st_dev, status.st_ino) in map(places.get, above)

  return listed


def in_archive(names: Iterable[str]) -> List:
  """Returns what lists folders of an archive by the names of all its files."""
  folders: dict[str, set[str]] = collections.defaultdict(set)
  files: dict[str, list[str]] = collections.defaultdict(list)
  for name in names:
    folder, _, file = name.rpartition('/')
    files[folder].append(file)
    while folder and folder not in (
      inner := folders[folder.rpartition('/')[0]]
    ):
      inner.add(folder)
      folder = folder.rpartition('/')[0]
  return lambda name: (
    sorted(inner.rpartition('/')[2] for inner in folders[name]),
    sorted(files[name]),
  )


def walk(root: Path) -> Iterator[Path]:
  """Yields every file below a folder as `tree` does; enters a folder once.

  Raises:
    InputError: a folder cannot be read.
  """
  seen: set[tuple[int, int]] = set()
  for folder in tree(on_disk(root)):
    status = os.stat(root / folder.name)
    if (status.st_dev, status.st_ino) not in seen:
      seen.add((status.st_dev, status.st_ino))
      yield from (root / folder.name / name for name in folder.files)


def _is_folder(entry: os.DirEntry) -> bool:
  if entry.is_symlink():
    return os.path.isdir(entry.path)
  return entry.is_dir()


def _links_to_file(entry: os.DirEntry) -> bool:
  """Tells whether it leads to a file; counts dangling links, but not pipes."""
  if not entry.is_symlink():
    return False
  return os.path.isfile(entry.path) or not os.path.exists(entry.path)
