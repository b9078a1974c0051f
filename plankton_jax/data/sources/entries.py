"""Lists the files of folders and archives, each with how to read it.

Zip and tar archives are read in place. Of a compressed tar archive, which can
be read from its start alone, a copy is unpacked into one file without a name,
where the system keeps those, and is gone when the program ends.
"""

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NamedTuple

from plankton_jax.data.sources import archives
from plankton_jax.data.sources.files import digest, is_clutter, read, walk
from plankton_jax.errors import InputError

# Endings of archives, and of zip archives that are something else.
ENDINGS = (
  *('.zip', '.tar', '.tgz', '.tbz2', '.txz'),
  *('.tar.gz', '.tar.bz2', '.tar.xz'),
)
_DOCUMENTS = (
  *('.xlsx', '.xlsm', '.xlsb', '.xls', '.ods', '.numbers'),
  *('.parquet', '.feather', '.npz', '.zipx'),
)
_TWICE = 'another file of this name comes later in the archive, and is read'
_DEEPEST = 3  # zip archives inside each other
_LARGEST = 2**36  # bytes of an archive in another, or of a tar, unpacked
_COMPRESSED = (b'\x1f\x8b', b'BZ', b'\xfd7')  # how gzip, bzip2 and xz begin


class Entry(NamedTuple):
  """A file: how to read it, and how to recognise its content."""

  read: Callable[[], bytes]  # raises ValueError with the reason
  digest: Callable[[], bytes]  # raises OSError or ValueError
  size: Callable[[], int]  # bytes, without reading them; raises OSError
  path: Path | None = None  # where it lies, if not in an archive

  def start(self, size: int) -> bytes:
    """Reads the first bytes; b'' if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
      if self.path is None:
        return self.read()[:size]
      with self.path.open('rb') as file:
        return file.read(size)
    return b''


class Found(NamedTuple):
  """The files of a place by their names, which have forward slashes."""

  files: dict[str, Entry]
  skipped: list[tuple[str, str]]  # (name, reason) of what is no file to read


# Names, each with the file or the reason why it is none.
_Listed = Iterable[tuple[str, Entry | str]]


def is_archive(path: Path) -> bool:
  """Tells by its ending or its first bytes whether a file is an archive."""
  name = path.name.lower()
  if not path.is_file() or name.endswith(_DOCUMENTS):
    return False
  with contextlib.suppress(OSError):  # It is named when it is read.
    return name.endswith(ENDINGS) or archives.is_zip(path)
  return False


def title(place: Path) -> str:
  """Names a place as if it were unpacked: without an archive's ending."""
  name = place.resolve().name
  ending = next((e for e in ENDINGS if name.lower().endswith(e)), '')
  return name[: len(name) - len(ending)] or name


def find(place: Path) -> Found:
  """Lists every file of a folder or an archive.

  Those of zip archives in it are listed as of folders of their names. Of files
  of one name the last is taken, as unpacking would; others are skipped, as are
  names that lead out of the archive.

  Raises:
    InputError: the archive is damaged, or a folder cannot be read.
  """
  try:
    if not place.is_file():
      return _find(_of_folder(place))
    state = place.stat()
    return _find(_opened(place, state.st_ino, state.st_size, state.st_mtime_ns))
  except OSError as error:
    raise InputError(f'{place}: {error.strerror}') from None


def _find(listed: _Listed) -> Found:
  """Keeps one file of each name."""
  skipped: list[tuple[str, str]] = []
  found: dict[str, Entry] = {}
  for name, entry in listed:
    if isinstance(entry, str):
      skipped.append((name, entry))
      continue
    if name in found and found[name].digest() != entry.digest():
      skipped.append((name, _TWICE))
    found[name] = entry
  return Found(found, skipped)


def of_file(path: Path) -> Entry:
  """Returns the entry of a file on disk."""
  return Entry(
    functools.partial(read, path),
    functools.partial(digest, path),
    lambda: path.stat().st_size,
    path,
  )


def _of_folder(root: Path) -> _Listed:
  """Walks a folder, following links, and the zip archives in it."""
  for path in walk(root):
    shown = path.relative_to(root).as_posix()
    yield shown, of_file(path)
    if path.name.lower().endswith('.zip') and path.is_file():
      try:
        archive = archives.open_zip(path)
      except InputError as error:
        yield shown, str(error)
        continue
      yield from _of_zip(archive, f'{shown}/', 2)


@functools.lru_cache(maxsize=1)
def _opened(path: Path, *state: int) -> _Listed:
  """Keeps the last archive open: several readers ask in turn what it holds."""
  del state  # of the file, which is opened anew if it has changed
  return tuple(_of_archive(path))


def _of_archive(path: Path) -> _Listed:
  if archives.is_zip(path) or path.name.lower().endswith('.zip'):
    return _of_zip(archives.open_zip(path), '', 1)
  return _of_tar(path)


def _of_zip(archive: zipfile.ZipFile, prefix: str, depth: int) -> _Listed:
  """Lists an archive's files, and those of the archives in it."""
  for info in archive.infolist():
    if info.filename.endswith(('/', '\\')):
      continue
    tidy = archives.name_of(info)
    name = prefix + tidy
    if reason := archives.refusal(tidy):
      yield name.encode(errors='backslashreplace').decode(), reason
      continue
    mark = f'{info.CRC} {info.file_size}'
    unpack = functools.partial(archives.read_zipped, archive, info)
    yield name, Entry(unpack, mark.encode, functools.partial(_size, info))
    if not tidy.lower().endswith('.zip') or is_clutter(tidy.split('/')):
      continue
    reason = archives.zip_refusal(info, _LARGEST)
    if depth == _DEEPEST:
      reason = f'a zip archive in {_DEEPEST} others'
    if not reason:
      try:
        with archives.readable():
          inner = _unpacked(archive, info)
      except ValueError as error:
        reason = str(error)
    if reason:
      yield name, reason
      continue
    yield from _of_zip(inner, f'{name}/', depth + 1)


def _size(info: zipfile.ZipInfo) -> int:
  return info.file_size


def _unpacked(
  archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> zipfile.ZipFile:
  """Opens an archive inside another, from a file that is deleted on closing."""
  number, path = tempfile.mkstemp(suffix='.zip')
  try:
    with os.fdopen(number, 'wb') as file, archive.open(info) as packed:
      shutil.copyfileobj(packed, file)
    return zipfile.ZipFile(path)
  finally:
    os.unlink(path)


class _Parts:
  """A file that is read by parts from any thread, and closed in the end."""

  def __init__(self, path: Path | None):
    """Opens a file, or makes one without a name."""
    opened = tempfile.TemporaryFile if path is None else path.open
    self._file: IO[bytes] = opened('w+b' if path is None else 'rb')

  def __del__(self) -> None:
    self._file.close()

  def append(self, data: bytes) -> int:
    """Writes bytes at the end; returns where they begin."""
    start = self._file.tell()
    self._file.write(data)
    self._file.flush()
    return start

  def read(self, start: int, size: int) -> bytes:
    """Reads some bytes; raises ValueError if they cannot be read."""
    try:
      data = os.pread(self._file.fileno(), size, start)
    except OSError as error:
      raise ValueError(error.strerror) from error
    if len(data) < size:
      raise ValueError('the archive has changed since it was opened')
    return data


def _of_tar(path: Path) -> _Listed:
  """Lists the files of a tar archive, which may be compressed."""
  with path.open('rb') as file:
    packed = file.read(2) in _COMPRESSED
  parts = _Parts(None if packed else path)
  unpacked = 0
  for member in archives.in_tar(path):
    if member.reason:
      yield member.name, member.reason
      continue
    start, unpacked = member.start, unpacked + member.size
    if packed and unpacked > _LARGEST:
      raise InputError(
        f'{path}: larger than {_LARGEST >> 30} GiB unpacked: unpack it'
      )
    if packed:
      data = member.load()
      try:
        start = parts.append(data)
      except OSError as error:
        raise InputError(
          f'{path}: cannot be unpacked to {tempfile.gettempdir()}'
          f' ({error.strerror}): unpack it, or set TMPDIR'
        ) from None
    load = functools.partial(parts.read, start, member.size)
    hashed = functools.partial(_hash, load)
    yield member.name, Entry(load, hashed, functools.partial(int, member.size))


def _hash(load: Callable[[], bytes]) -> bytes:
  return hashlib.blake2b(load()).digest()
