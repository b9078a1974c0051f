"""Reads tar, tar.gz and zip archives in place, without unpacking them."""

import contextlib
import functools
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from plankton_jax import errors
from plankton_jax.errors import InputError

MAX_BYTES = 2**28  # bytes of one file; images of MAX_PIXELS take fewer

# Flags of a zip archive's entry.
_ENCRYPTED = 0x1
_UTF8 = 0x800  # its name is UTF-8

# What zipfile and tarfile raise of damaged bytes, at opening and at reading.
_BROKEN = (
  tarfile.TarError,
  zipfile.BadZipFile,
  zlib.error,
  lzma.LZMAError,
  struct.error,
  EOFError,
  OSError,
  RuntimeError,  # NotImplementedError among them: an unknown method
  ValueError,
  LookupError,
  OverflowError,
)


class Content(NamedTuple):
  """A file of an archive, or why it cannot be read."""

  name: str
  data: bytes | None
  reason: str = ''


class Member(NamedTuple):
  """A file of an archive that is read from start to end."""

  name: str
  reason: str  # why it is refused; '' if it is not
  load: Callable[[], bytes]  # while it is the last; raises as `read_zipped`
  start: int = 0  # where its bytes begin in a tar archive, uncompressed
  size: int = 0


class Listing(NamedTuple):
  """The contents of an archive, in order."""

  names: tuple[str, ...]  # of files, with forward slashes, without a leading ./
  refused: tuple[tuple[str, str], ...]  # (name, reason): links, hostile paths
  tables: dict[str, bytes]  # contents of the files that were asked for


def listing(path: Path, table: str = '') -> Listing:
  """Lists the names of all files, and those refused with the reason.

  Args:
    path: the archive.
    table: also reads the files of this name, in any folder.

  Raises:
    InputError: the file does not exist, or is not a whole archive.
  """
  names, refused, tables = [], [], {}
  for name, reason, load, *_ in _members(path):
    if reason:
      refused.append((name, reason))
      continue
    names.append(name)
    if table and name.split('/')[-1] == table:
      content = _content(name, load)
      if content.data is None:
        refused.append((name, content.reason))
      else:
        tables[name] = content.data
  return Listing(tuple(names), tuple(refused), tables)


def read(path: Path, wanted: Container[str]) -> Iterator[Content]:
  """Yields the wanted files in the archive's order, one in memory at a time.

  Raises:
    InputError: as in `listing`. A file damaged inside a zip archive is yielded
      with the reason instead.
  """
  for name, reason, load, *_ in _members(path):
    if not reason and name in wanted:
      yield _content(name, load)


def is_zip(path: Path) -> bool:
  """Tells whether a file begins as zip archives do, even a damaged one."""
  with path.open('rb') as file:
    return file.read(4) in (b'PK\3\4', b'PK\5\6', b'PK\7\x08')


def open_zip(path: Path) -> zipfile.ZipFile:
  """Opens a zip archive for reading.

  Raises:
    InputError: it is cut off or damaged, or one part of several.
  """
  if path.with_suffix('.z01').exists():
    raise InputError(
      f'{path} is the last of several parts: join them, as zip -s 0'
      f' {path.name} --out whole.zip does'
    )
  try:
    return zipfile.ZipFile(path)
  except _BROKEN as error:
    raise _damaged(path, 'a zip archive', error) from error


def read_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
  """Reads a file of a zip archive.

  Raises:
    ValueError: with the reason, if it is refused, damaged, or cannot be
      unpacked.
  """
  if reason := zip_refusal(info):
    raise ValueError(reason)
  with readable():
    return archive.read(info)


@contextlib.contextmanager
def readable() -> Iterator[None]:
  """Turns what zipfile raises of a damaged file into a ValueError."""
  try:
    yield
  except NotImplementedError as error:
    raise ValueError(
      'compressed by a method that Python cannot read: unpack the archive and'
      ' pack it again by Deflate, as zip does'
    ) from error
  except _BROKEN as error:
    raise ValueError(
      f'damaged in the archive ({errors.reason(error)})'
    ) from error


def refusal(name: str) -> str:
  """Says why a path in an archive is refused as unsafe; '' if it is safe."""
  if not name:
    return 'no file name'
  if name.startswith('/') or name[1:2] == ':':
    return 'an absolute path'
  if '..' in name.split('/'):
    return 'a path that leads out of the archive'
  try:
    name.encode()
  except UnicodeEncodeError:
    return 'the file name is not UTF-8'
  return ''


def zip_refusal(info: zipfile.ZipInfo, most: int | None = None) -> str:
  """Says why a zip archive's entry is refused; '' if it is not.

  Args:
    info: the entry.
    most: bytes that it may hold; None takes MAX_BYTES.
  """
  mode = info.external_attr >> 16
  if stat.S_ISLNK(mode):
    return 'a link'
  if info.flag_bits & _ENCRYPTED:
    return 'encrypted: unpack the archive with its password'
  return refusal(name_of(info)) or _too_large(info.file_size, most or MAX_BYTES)


def name_of(info: zipfile.ZipInfo) -> str:
  """Decodes the tidy name of a zip archive's entry.

  Some programs write UTF-8 without the flag that says so; zipfile then decodes
  it as the code page of DOS.
  """
  name = info.filename
  if not info.flag_bits & _UTF8:
    with contextlib.suppress(UnicodeError):
      name = name.encode('cp437').decode()
  return tidy(name)


def tidy(name: str) -> str:
  """Normalises a name: forward slashes, no leading ./."""
  name = name.replace('\\', '/')
  while name.startswith('./'):
    name = name[2:]
  return name


def _content(name: str, load: Callable[[], bytes]) -> Content:
  try:
    return Content(name, load())
  except InputError:  # of a tar archive, which cannot be read any further
    raise
  except ValueError as error:
    return Content(name, None, str(error))


def _members(path: Path) -> Iterator[Member]:
  """Yields the files of an archive, in order."""
  if not path.is_file():
    raise InputError(f'{path}: no such archive')
  try:
    return _in_zip(path) if is_zip(path) else in_tar(path)
  except OSError as error:
    raise InputError(f'{path}: {error.strerror}') from error


def _in_zip(path: Path) -> Iterator[Member]:
  """Yields the files of a zip archive."""
  with open_zip(path) as archive:
    for info in archive.infolist():
      # is_dir of Python 3.11 raises IndexError where there is no name.
      if not info.filename.endswith('/'):
        shown = info.filename.encode(errors='backslashreplace').decode()
        reason = zip_refusal(info)
        name = shown if reason else name_of(info)
        load = functools.partial(read_zipped, archive, info)
        yield Member(name, reason, load)


def in_tar(path: Path) -> Iterator[Member]:
  """Yields the files of a tar archive, compressed or not.

  Raises:
    InputError: it is none, or is cut off or damaged.
  """
  try:
    archive = tarfile.open(path, 'r:*')  # noqa: SIM115, closed below
  except _BROKEN as error:
    raise _damaged(path, 'a tar, tar.gz or zip archive', error) from None
  last = 'its start'

  def cut(error: Exception) -> InputError:
    return InputError(
      f'{path} is cut off or damaged after {last} ({errors.reason(error)}):'
      ' get it again'
    )

  def load(info: tarfile.TarInfo) -> bytes:
    try:
      return cast(IO[bytes], archive.extractfile(info)).read()
    except _BROKEN as error:
      raise cut(error) from error

  with archive:
    try:
      while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # not a million
        if info.isdir():
          continue
        shown = info.name.encode(errors='backslashreplace').decode()
        reason = _tar_refusal(info)
        name = shown if reason else tidy(info.name)
        read = functools.partial(load, info)
        yield Member(name, reason, read, info.offset_data, info.size)
        last = shown
      _check_end(archive)
    except _BROKEN as error:
      raise cut(error) from error


def _tar_refusal(info: tarfile.TarInfo) -> str:
  if info.issym() or info.islnk():
    return 'a link'
  if not info.isreg():
    return 'not a file'
  return refusal(tidy(info.name)) or _too_large(info.size, MAX_BYTES)


def _check_end(archive: tarfile.TarFile) -> None:
  """Raises EOFError unless the archive ends in zeros, as tarfile does not."""
  file = archive.fileobj
  file.seek(archive.offset)
  mark = file.read(tarfile.BLOCKSIZE)
  if len(mark) < tarfile.BLOCKSIZE or mark.strip(b'\0'):
    raise EOFError('no end mark')
  while file.read(2**20):  # A compressed one may be cut off later.
    pass


def _too_large(size: int, most: int) -> str:
  return f'larger than {most >> 20} MiB' if size > most else ''


def _damaged(path: Path, kind: str, error: Exception) -> InputError:
  return InputError(
    f'{path} is not {kind}, or is cut off or damaged'
    f' ({errors.reason(error)}): get it again'
  )
