"""Opens the files of an EcoTaxa export, in folders and zip archives."""

import contextlib
import functools
import os
import posixpath
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from plankton_jax.data.ecotaxa import lists, names, table
from plankton_jax.data.sources import archives
from plankton_jax.data.sources.files import (
  PACKED,
  digest,
  expanded,
  is_clutter,
  is_image,
  read,
  walk,
)
from plankton_jax.errors import InputError

# Names that its importer looks for, though in lower case only.
_TABLE = re.compile(r'ecotaxa.*\.(tsv|txt)', re.IGNORECASE)
TEXTS = ('.tsv', '.txt', '.csv')  # endings of tables with other names
_TABLES = (*TEXTS, '.xlsx', '.xls', '.ods', '.gz', '.parquet')
_TWICE = 'another file of this name comes later in the archive, and is read'

_DEEPEST = 3  # zip archives inside each other
_LARGEST = 2**36  # bytes of an archive in another, unpacked


class Files(NamedTuple):
  """An export's tables and images; names have forward slashes."""

  place: Path
  tables: tuple[str, ...]
  images: tuple[str, ...]  # names of all image files, in a row or not
  find: Callable[[str], str]  # the file that a name means; raises ValueError
  # (table, image as it names it) -> name of the image; raises ValueError
  locate: Callable[[str, str], str]
  read: Callable[[str], bytes]  # raises ValueError with the reason
  digest: Callable[[str], bytes]  # of the content; b'' if it cannot be read
  skipped: tuple[tuple[str, str], ...]  # (name, reason) of archives inside

  @property
  def single(self) -> bool:
    """Tells whether the place is one table, not what holds tables."""
    return self.tables == (self.place.name,) and self.place.is_file()

  def named(self, table: str) -> str:
    """Names a table in messages: by the whole path, once."""
    return str(self.place if self.single else f'{self.place}/{table}')


class _Entry(NamedTuple):
  """One file: how to read it, and how to recognise its content."""

  read: Callable[[], bytes]
  digest: Callable[[], bytes]


def open_export(path: str, *, field: str = 'data.path') -> Files:
  """Lists the files of a zip archive, of a folder, or beside one table.

  Zip archives inside it count as folders of their names, those without a table
  also as unpacked where they lie. A table may have any name if it is given
  itself, or if none is called as EcoTaxa's are.

  Args:
    path: the archive, folder or table.
    field: the name of the path in errors.

  Raises:
    InputError: it is none of these, or holds no table.
  """
  place = expanded(path, field, 'the EcoTaxa export')
  skipped: list[tuple[str, str]] = []
  packed_otherwise = place.suffix.lower() in PACKED
  if single := _is_text(place):
    found = _unique(_of_folder(place.parent, skipped), skipped)
  elif place.is_dir():
    found = _unique(_of_folder(place, skipped), skipped)
  elif not place.exists():
    raise InputError(
      f'{field}: {place} is not there; give a zip archive, a folder, or a table'
    )
  elif archives.is_zip(place) and not packed_otherwise:
    archive = archives.open_zip(place)
    found = _unique(_of_zip(archive, '', 1, skipped), skipped)
  else:
    remedy = ': unpack it' if packed_otherwise else ''
    if is_image(place.name):
      remedy = ': give the folder that the image lies in'
    elif not remedy and place.suffix.lower() in (*_TABLES, '.json'):
      remedy = ': save it as tab-separated text'
    raise InputError(
      f'{field}: {place} is neither a folder, a zip archive, nor a table'
      f' ecotaxa*.tsv{remedy}'
    )
  every = _tables(found)
  tables = (place.name,) if single else every
  if not tables:
    raise InputError(
      f'{place} holds no table ecotaxa*.tsv or ecotaxa*.txt'
      f'{_instead(place, found)}'
    )
  find, locate = names.finders(found, every)

  def digest_of(name: str) -> bytes:
    try:
      return found[find(name)].digest()
    except (OSError, ValueError):
      return b''

  return Files(
    place,
    tables,
    tuple(filter(is_image, found)),
    find,
    locate,
    lambda name: found[find(name)].read(),
    digest_of,
    tuple(skipped),
  )


def is_table(path: Path) -> bool:
  """Tells by its name whether a file, no zip archive, is a table."""
  return (
    _TABLE.fullmatch(path.name) is not None
    and path.is_file()
    and not archives.is_zip(path)
  )


def _is_text(place: Path) -> bool:
  """Tells whether a path is a text, which may be a table of any name."""
  text = is_table(place) or place.suffix.lower() in TEXTS
  return text and place.is_file() and not archives.is_zip(place)


def _unique(
  files: Iterable[tuple[str, _Entry]], skipped: list[tuple[str, str]]
) -> dict[str, _Entry]:
  """Takes the last file of each name, as unpacking would; names the others."""
  found: dict[str, _Entry] = {}
  for name, entry in files:
    if name in found and found[name].digest() != entry.digest():
      skipped.append((name, _TWICE))
    found[name] = entry
  return found


def _of_folder(
  root: Path, skipped: list[tuple[str, str]]
) -> Iterator[tuple[str, _Entry]]:
  """Walks a folder, following links, and the zip archives in it."""
  for path in walk(root):
    shown = path.relative_to(root).as_posix()
    each = (functools.partial(function, path) for function in (read, digest))
    yield shown, _Entry(*each)
    if path.name.lower().endswith('.zip') and path.is_file():
      try:
        archive = archives.open_zip(path)
      except InputError as error:
        skipped.append((shown, str(error)))
        continue
      yield from _of_zip(archive, f'{shown}/', 2, skipped)


def _of_zip(
  archive: zipfile.ZipFile,
  prefix: str,
  depth: int,
  skipped: list[tuple[str, str]],
) -> Iterator[tuple[str, _Entry]]:
  """Lists an archive's files, and those of the archives in it."""
  for info in archive.infolist():
    if info.filename.endswith('/'):
      continue
    tidy = archives.name_of(info)
    name = prefix + tidy
    mark = f'{info.CRC} {info.file_size}'
    unpack = functools.partial(archives.read_zipped, archive, info)
    yield name, _Entry(unpack, mark.encode)
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
      skipped.append((name, reason))
      continue
    yield from _of_zip(inner, f'{name}/', depth + 1, skipped)


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


def _instead(place: Path, found: Iterable[str]) -> str:
  """Says what a place without a table holds, and the remedy; '' if nothing."""
  seen = [name for name in found if not is_clutter(name.split('/'))]
  if 'xl/workbook.xml' in seen:
    return '; it is an Excel workbook: save it as tab-separated text'
  for name in seen:
    if posixpath.splitext(name)[1].lower() in _TABLES:
      return f'; if {name} is the table, save it so, tab-separated'
  if count := sum(map(is_image, seen)):
    remedy = 'unpack them, and give their folder'
    if place.is_dir():
      remedy = "data.source='folder' reads one folder a class"
    return f'; it holds {count:,} images: {remedy}'
  return ''


def _tables(found: Mapping[str, _Entry]) -> tuple[str, ...]:
  """Finds the tables by their names, or else by their headers.

  Lists with other columns count where no table has EcoTaxa's.
  """
  seen = [n for n in sorted(found) if not is_clutter(n.split('/'))]
  called = [n for n in seen if _TABLE.fullmatch(posixpath.basename(n))]
  if called:
    return tuple(called)
  tables = {}
  for name in seen:
    if posixpath.splitext(name)[1].lower() in TEXTS:
      with contextlib.suppress(ValueError):
        tables[name] = lists.parse(found[name].read(), name)
  own = [n for n, found in tables.items() if {*found.columns} >= table.NEEDED]
  return tuple(own or (n for n in tables if lists.is_list(tables[n])))
