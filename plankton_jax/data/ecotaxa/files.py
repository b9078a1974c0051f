"""The files of an EcoTaxa export, zipped or not, by their names."""

import hashlib
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from plankton_jax.data.sources import archives
from plankton_jax.data.sources.source import describe
from plankton_jax.errors import InputError

# As its importer looks for them; lower case alone.
_TABLE = re.compile(r'ecotaxa.*\.(tsv|txt)')


class Files(NamedTuple):
  """An export's tables and images; names have forward slashes."""

  place: Path
  tables: tuple[str, ...]
  read: Callable[[str], bytes]  # ValueError with the reason if it cannot be
  digest: Callable[[str], bytes]  # of the content; b'' if it cannot be read


def open_export(path: str) -> Files:
  """Lists the files of a zip archive or of a folder.

  Raises:
    InputError: neither, or one without a table.
  """
  if not path:
    raise InputError('data.path is empty: name the EcoTaxa export')
  place = Path(path).expanduser()
  if place.is_dir():
    files = _of_folder(place)
  elif not place.exists():
    raise InputError(f'data.path: {place} is not there')
  elif archives.is_zip(place):
    files = _of_zip(place)
  else:
    raise InputError(
      f'data.path: {place} is neither a folder nor a zip archive'
    )
  if not files.tables:
    raise InputError(f'{place} holds no table ecotaxa*.tsv or ecotaxa*.txt')
  return files


def beside(table: str, image: str) -> str:
  """Resolves the path of an image, which starts at the table that names it.

  Raises:
    ValueError: with the reason, if that is outside the export.
  """
  reason = archives.refusal(image)
  if reason:
    raise ValueError(reason)
  return posixpath.normpath(posixpath.join(posixpath.dirname(table), image))


def _of_folder(root: Path) -> Files:
  found = (file.relative_to(root).as_posix() for file in root.rglob('ecotaxa*'))

  def read(name: str) -> bytes:
    try:
      return (root / name).read_bytes()
    except OSError as error:
      raise ValueError(describe(error)) from error

  def digest(name: str) -> bytes:
    try:
      with (root / name).open('rb') as file:
        return hashlib.file_digest(file, 'blake2b').digest()
    except OSError:
      return b''

  return Files(root, _tables(found), read, digest)


def _of_zip(place: Path) -> Files:
  archive = archives.open_zip(place)
  entries = {archives.tidy(e.filename): e for e in archive.infolist()}

  def read(name: str) -> bytes:
    if name not in entries:
      raise ValueError('no such file in the export')
    reason = archives.zip_refusal(entries[name])
    if reason:
      raise ValueError(reason)
    try:
      return archive.read(entries[name])
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
      raise ValueError(f'damaged in the archive ({error})') from error

  def digest(name: str) -> bytes:
    if name not in entries:
      return b''
    entry = entries[name]
    return f'{entry.CRC} {entry.file_size}'.encode()

  return Files(place, _tables(entries), read, digest)


def _tables(names: Iterable[str]) -> tuple[str, ...]:
  return tuple(
    sorted(n for n in names if _TABLE.fullmatch(posixpath.basename(n)))
  )
