"""Opens the files of an EcoTaxa export, in folders and archives."""

import contextlib
import functools
import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from plankton_jax.data.ecotaxa import lists, names, table, workbook
from plankton_jax.data.ecotaxa.table import Table
from plankton_jax.data.sources import archives, boxes, entries
from plankton_jax.data.sources.entries import Entry
from plankton_jax.data.sources.files import (
  PACKED,
  expanded,
  is_clutter,
  is_image,
)
from plankton_jax.errors import InputError

# Names that its importer looks for, though in lower case only.
_TABLE = re.compile(r'ecotaxa.*\.(tsv|txt)', re.IGNORECASE)
TEXTS = ('.tsv', '.txt', '.csv')  # endings of tables with other names
READ = (*TEXTS, *workbook.ENDINGS)  # endings of all tables
_COLUMNS = 'call its columns of images and taxa filename and label'
# Endings of tables that are not read.
_UNREAD = ('.xls', '.xlsb', '.ods', '.numbers', '.gz', '.parquet', '.feather')


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
  parsed: Mapping[str, Table]  # tables that had to be, to be known as such

  @property
  def single(self) -> bool:
    """Tells whether the place is one table, not what holds tables."""
    return self.tables == (self.place.name,) and self.place.is_file()

  def named(self, table: str) -> str:
    """Names a table in messages: by the whole path, once."""
    return _named(self.place, self.single, table)


def _named(place: Path, single: bool, table: str) -> str:
  return str(place if single else f'{place}/{table}')


class NoTable(InputError):
  """A place that can be read, but holds no table."""


def open_export(path: str, *, field: str = 'data.path') -> Files:
  """Lists the files of an archive, of a folder, or beside one table.

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
  if not place.exists():
    raise InputError(
      f'{field}: {place} is not there; give an archive, a folder, or a table'
    )
  single = _is_single(place)
  if not (single or place.is_dir() or entries.is_archive(place)):
    raise InputError(
      f'{field}: {place} is neither a folder, a zip or tar archive, nor a table'
      f' ecotaxa*.tsv{_remedy(place)}'
    )
  found, skipped = entries.find(place.parent if single else place)
  named = functools.partial(_named, place, single)
  every, parsed = _tables(found, named)
  tables = (place.name,) if single else every
  if not tables:
    held = _instead(found, named)
    held = held and f'; {held}'
    raise NoTable(f'{place} holds no table ecotaxa*.tsv or ecotaxa*.txt{held}')
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
    parsed,
  )


def is_table(path: Path) -> bool:
  """Tells by its name whether a file, no archive, is EcoTaxa's table."""
  return (
    _TABLE.fullmatch(path.name) is not None
    and path.is_file()
    and not archives.is_zip(path)
    and not _is_prose(path.name, entries.of_file(path))
  )


def _is_single(place: Path) -> bool:
  """Tells whether a path is a table, which may have any name."""
  ending = place.suffix.lower()
  if not place.is_file() or ending in workbook.ENDINGS:
    return place.is_file()
  return (ending in TEXTS and not archives.is_zip(place)) or is_table(place)


def _remedy(place: Path) -> str:
  """Says what to do with a file that is not read; '' if nothing."""
  ending = place.suffix.lower()
  if is_image(place.name):
    return ': give the folder that the image lies in'
  if ending in PACKED:
    return ': unpack it'
  return ': save it as .xlsx or .csv' if ending in _UNREAD else ''


def _instead(found: Mapping[str, Entry], named: Callable[[str], str]) -> str:
  """Says what a place without a table holds, and the remedy; '' if nothing."""
  seen = [name for name in found if not is_clutter(name.split('/'))]
  if 'xl/workbook.xml' in seen:
    return 'it is an Excel workbook: give it a name that ends in .xlsx'
  packed = [n for n in seen if n.lower().endswith(entries.ENDINGS)]
  of = {
    posixpath.splitext(name)[1].lower(): name
    for name in reversed(seen)
    if name not in packed
  }
  for ending in workbook.ENDINGS:
    if ending in of:
      try:
        lists.parse(found[of[ending]].read(), named(of[ending]))
      except ValueError as error:
        return str(error)
  for ending in ('.tsv', '.csv'):
    if ending in of:
      return f'if {of[ending]} is the table, {_COLUMNS}'
  for ending in _UNREAD:
    if ending in of:
      return f'if {of[ending]} is the table, save it as .xlsx or .csv'

  if boxed := boxes.describe(seen, lambda name, size: found[name].start(size)):
    return boxed
  if count := sum(map(is_image, seen)):
    remedy = "data.source='folder' reads one folder a class"
    return f'it holds {count:,} images: {remedy}'
  if '.txt' in of:
    return f'if {of[".txt"]} is the table, {_COLUMNS}'
  return f'unpack {packed[0]}' if packed else ''


def _tables(
  found: Mapping[str, Entry], named: Callable[[str], str]
) -> tuple[tuple[str, ...], dict[str, Table]]:
  """Finds the tables by their names, or else by their headers.

  Lists with other columns count where no table has EcoTaxa's. Returns the
  names, and the tables of those that had to be read, which `named` names.
  """
  seen = [n for n in sorted(found) if not is_clutter(n.split('/'))]
  called = [n for n in seen if _TABLE.fullmatch(posixpath.basename(n))]
  if called := [n for n in called if not _is_prose(n, found[n])]:
    return tuple(called), {}
  tables = {}
  for name in seen:
    if posixpath.splitext(name)[1].lower() in READ:
      with contextlib.suppress(ValueError):
        tables[name] = lists.parse(found[name].read(), named(name))
  own = [n for n, found in tables.items() if {*found.columns} >= table.NEEDED]
  kept = own or [n for n in tables if lists.is_list(tables[n])]
  return tuple(kept), {name: tables[name] for name in kept}


def _is_prose(name: str, entry: Entry) -> bool:
  """Tells whether a text is called as a table, but is none: a readme."""
  # One that cannot be read is named when it is.
  return name.lower().endswith('.txt') and lists.is_prose(
    entry.start(lists.START)
  )
