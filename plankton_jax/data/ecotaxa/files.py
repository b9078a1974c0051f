"""Opens the files of an EcoTaxa export, in folders and zip archives."""

import contextlib
import functools
import hashlib
import os
import posixpath
import re
import shutil
import tempfile
import unicodedata
import urllib.parse
import zipfile
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from pathlib import Path
from typing import NamedTuple

from plankton_jax.data.ecotaxa import table
from plankton_jax.data.pixels import images
from plankton_jax.data.sources import archives
from plankton_jax.data.sources.files import (
  PACKED,
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
_TABLES = (*TEXTS, '.xlsx', '.gz')  # of files that may have been tables
_TWICE = 'another file of this name comes later in the archive, and is read'

_SCHEME = re.compile(r'[a-z]+:', re.IGNORECASE)  # of drives and of the web
_DEEPEST = 3  # zip archives inside each other
_LARGEST = 2**36  # bytes of an archive in another, unpacked
_GONE = 'no such file in the export'


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
    raise InputError(
      f'{field}: {place} is neither a folder, a zip archive, nor a table'
      f' ecotaxa*.tsv{remedy}'
    )
  every = _tables(found)
  tables = (place.name,) if single else every
  if not tables:
    raise InputError(
      f'{place} holds no table ecotaxa*.tsv or ecotaxa*.txt{_instead(found)}'
    )
  find, locate = _finders(found, every)

  def digest(name: str) -> bytes:
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
    digest,
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


def beside(table: str, image: str) -> str:
  """Resolves the path of an image, which starts at the table that names it.

  Raises:
    ValueError: the path leads outside the export.
  """
  image = archives.tidy(image)
  name = posixpath.normpath(posixpath.join(posixpath.dirname(table), image))
  absolute = image.startswith('/') or _SCHEME.match(image)
  if reason := archives.refusal('/' if absolute else name):
    raise ValueError(reason)
  return name


class _Finders(NamedTuple):
  find: Callable[[str], str]
  locate: Callable[[str, str], str]


def _finders(found: Collection[str], tables: Sequence[str]) -> _Finders:
  """Makes `Files.find` and `Files.locate` for the names of files and tables."""
  zips = (name for name in found if name.lower().endswith('.zip'))
  packed = sorted(zips, key=len, reverse=True)  # the inner ones first
  bare = [name for name in packed if not _holds(name, tables)]
  named = {name: _unpacked_names(name, bare) for name in found}
  alike = _alike(named, _fold)
  stems = functools.cache(lambda: _stems(filter(is_image, found)))
  endless = functools.cache(
    lambda: _alike({n: named[n] for n in found if is_image(n)}, _endless)
  )

  def near(name: str) -> str:
    other = stems().get(_stem(name))
    return f', but {other}: write this into img_file_name' if other else ''

  def find(name: str) -> str:
    if name in found:
      return name
    others = alike.get(_fold(name), ()) or endless().get(_endless(name), ())
    if not others:
      raise ValueError(f'{_GONE}{near(name)}')
    if len(others) > 1:
      raise ValueError(f'{_GONE}, but several alike: {", ".join(others[:3])}')
    return others[0]

  def locate(table: str, image: str) -> str:
    names, reason = _places(table, image, packed, tables)
    for name in names:
      with contextlib.suppress(ValueError):
        return find(name)
    if reason:
      raise ValueError(f'{reason}{near(archives.tidy(image))}')
    return names[0]

  return _Finders(find, locate)


def _places(
  table: str, image: str, packed: Sequence[str], tables: Sequence[str]
) -> tuple[list[str], str]:
  """Lists the names that a table may mean by an image, the likeliest first.

  The table of an archive may name images beside the archive, unless another
  table lies there. Of a path that leads out of the export, the end may lie
  beside the table.

  Returns:
    The names, and why the path itself is refused; '' if it is not.
  """
  bases = [table]
  for base in _unpacked_names(table, packed)[1:]:
    if posixpath.dirname(base) not in map(posixpath.dirname, tables):
      bases.append(base)
  try:
    return [beside(base, image) for base in bases], ''
  except ValueError as error:
    reason = str(error)
  parts = archives.tidy(image).split('/')
  names = []
  for at in range(1, len(parts)):
    for base in bases:
      with contextlib.suppress(ValueError):
        names.append(beside(base, '/'.join(parts[at:])))
  return names, reason


def _holds(archive: str, names: Iterable[str]) -> bool:
  return any(name.startswith(f'{archive}/') for name in names)


def _unpacked_names(name: str, packed: Sequence[str]) -> list[str]:
  """Names a file, and as if more and more archives were unpacked in place.

  The archives that hold others come after these, in `packed` and as unpacked.
  """
  names = [name]
  for archive in packed:
    if names[-1].startswith(f'{archive}/'):
      rest = names[-1][len(archive) + 1 :]
      names.append(posixpath.join(posixpath.dirname(archive), rest))
  return names


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
    yield shown, _Entry(functools.partial(read, path), _hasher(path))
    if path.name.lower().endswith('.zip') and path.is_file():
      try:
        archive = archives.open_zip(path)
      except InputError as error:
        skipped.append((shown, str(error)))
        continue
      yield from _of_zip(archive, f'{shown}/', 2, skipped)


def _hasher(path: Path) -> Callable[[], bytes]:
  def digest() -> bytes:
    with path.open('rb') as file:
      return hashlib.file_digest(file, 'blake2b').digest()

  return digest


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
    yield name, _Entry(_unpacker(archive, info), mark.encode)
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


def _unpacker(
  archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> Callable[[], bytes]:
  def read() -> bytes:
    reason = archives.zip_refusal(info)
    if reason:
      raise ValueError(reason)
    return archives.read_zipped(archive, info)

  return read


def _instead(names: Iterable[str]) -> str:
  """Says what a place without a table holds, and the remedy; '' if nothing."""
  seen = [name for name in names if not is_clutter(name.split('/'))]
  if 'xl/workbook.xml' in seen:
    return '; it is an Excel workbook: save it as tab-separated text'
  for name in seen:
    if posixpath.splitext(name)[1].lower() in _TABLES:
      return f'; if {name} is the table, save it so, tab-separated'
  if count := sum(map(is_image, seen)):
    return f'; it holds {count:,} images: unpack them, and give their folder'
  return ''


def _tables(found: Mapping[str, _Entry]) -> tuple[str, ...]:
  """Finds the tables by their names, or by their headers if none is."""
  names = [n for n in sorted(found) if not is_clutter(n.split('/'))]
  called = [n for n in names if _TABLE.fullmatch(posixpath.basename(n))]
  return tuple(called or (n for n in names if _has_header(n, found[n])))


def _has_header(name: str, entry: _Entry) -> bool:
  if posixpath.splitext(name)[1].lower() not in TEXTS:
    return False
  try:
    return table.is_ecotaxa(entry.read())
  except ValueError:
    return False


def _fold(name: str) -> str:
  """Writes a name in one way.

  Systems differ in letter case, in how Unicode composes characters, and in
  whether %20 stands for a blank.
  """
  name = urllib.parse.unquote(name)
  return unicodedata.normalize('NFC', name).casefold()


def _stem(name: str) -> str:
  return _fold(posixpath.splitext(posixpath.basename(name))[0])


def _stems(names: Iterable[str]) -> dict[str, str]:
  """Finds the first file of each name, whatever its folder and ending."""
  found: dict[str, str] = {}
  for name in names:
    found.setdefault(_stem(name), name)
  return found


def _endless(name: str) -> str:
  """Writes a name in one way, without the ending of an image."""
  root, ending = posixpath.splitext(name)
  return _fold(root if ending.lower() in images.EXTENSIONS else name)


def _alike(
  names: Mapping[str, Sequence[str]], fold: Callable[[str], str]
) -> dict[str, list[str]]:
  """Groups the files of which a name is one by `fold`.

  Args:
    names: file -> its names.
    fold: writes names in one way.
  """
  alike: dict[str, list[str]] = {}
  for name, own in sorted(names.items()):
    for form in {*map(fold, own)}:
      alike.setdefault(form, []).append(name)
  return alike
