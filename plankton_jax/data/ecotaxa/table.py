"""One EcoTaxa table: header, types if there are any, and rows of text."""

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from plankton_jax.data.sources import files
from plankton_jax.data.sources.source import one_line
from plankton_jax.errors import InputError

TYPES = ('[t]', '[f]')  # of text and of numbers
STATES = ('validated', 'predicted', 'dubious')  # of annotation
# Cells without a value, in lower case, as R, pandas, databases and spreadsheets
# write them.
NO_VALUE = frozenset(('', 'na', 'n/a', '#n/a', 'nan', '<na>', 'none', 'null'))

_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_TYPE = re.compile(r'\[\w*\]')  # EcoTaxa's two, and others that people write
_SEPARATOR = 'sep='  # begins the line that tells Excel how to read the others
_AGAIN = 'the header or its types again'
# How files begin that are saved under a table's name by mistake.
_MISTAKEN = {
  b'PK\3\4': 'an Excel workbook or a zip archive',
  b'\xd0\xcf\x11\xe0': 'an Excel workbook of the old form, or with a password',
  b'PAR1': 'a Parquet file',
  b'ARROW1': 'a Feather file',
  b'%PDF': 'a PDF file',
  b'\x1f\x8b': 'packed by gzip',
}
# Columns without which a table is not EcoTaxa's.
NEEDED = frozenset(('object_id', 'img_file_name'))
MARKS = '\t;,|'  # that separate cells
# Encodings before Unicode, of Windows and the Macintosh, the likeliest first.
_OLD = {'cp1252': 'Windows-1252', 'mac_roman': 'Mac Roman'}
# What follows a small letter, or a great one in the midst of a word.
_WITHIN_A_WORD = re.compile(
  rb'(?<=[a-z])[\x80-\xff]|(?<=[A-Z])[\x80-\xff](?=[a-z])'
)
_LINES_ABOVE = 50  # the header at most, such as comments
_LINES_IN_A_CELL = 50  # at most; a quote that closes later was not meant


class Table(NamedTuple):
  """A table as read; nothing is converted."""

  place: str  # for messages
  columns: tuple[str, ...]  # lower case
  types: tuple[str, ...]  # as long, or () where the file has no such row
  rows: tuple[tuple[str, ...], ...]  # each as long as columns
  lines: tuple[int, ...]  # the line in the file that each row ends on
  bad: tuple[tuple[int, str], ...] = ()  # (line, reason) of rows left out
  notes: tuple[tuple[int, str], ...] = ()  # (line, what was read unlike usual)

  def column(self, name: str) -> Sequence[str]:
    """Lists the stripped values of a column; '' where there is no such one."""
    if name not in self.columns:
      return ('',) * len(self.rows)
    index = self.columns.index(name)
    return [row[index].strip() for row in self.rows]

  def require(self, *names: str) -> None:
    """Raises InputError unless the columns are there."""
    for name in names:
      if name not in self.columns:
        raise InputError(
          f'{self.place}: column {name!r} is missing (it has'
          f' {one_line(", ".join(self.columns))}); add it, or export it again'
        )

  def require_once(self, *names: str) -> None:
    """Raises InputError if one of the columns is there twice, and differs."""
    for name in names:
      own = [at for at, column in enumerate(self.columns) if column == name]
      if len({tuple(row[at] for row in self.rows) for at in own}) > 1:
        raise InputError(
          f'{self.place}: column {name!r} is there twice; delete one'
        )


def parse(data: bytes, place: str, names: Collection[str] = NEEDED) -> Table:
  """Reads a table's bytes, in any encoding and line ending of spreadsheets.

  `names` are those by one of which its header is known.

  A row with more values than columns is left out as bad, as is a header that
  comes again, of tables that were joined. A quote that opens a cell and never
  closes is a character like others; that line is noted. Row names, for which R
  writes no column name, are an unnamed column.

  Raises:
    InputError: it is empty or no table.
  """
  lines_of_text, top, mark, old = open_text(data, names)
  first = lines_of_text[top]
  mark = mark or max(MARKS, key=first.count)
  if mark != '\t':
    lines_of_text = _with_tabs(lines_of_text, top, mark, place)
    first = lines_of_text[top]
  header = _values([first]) or first.split('\t')
  columns = tuple(name.strip().lower() for name in header)
  if len(columns) < 2:
    raise InputError(
      f'{place}: no tab-separated header in the first line'
      f'{_mistake(data, first)}'
    )
  if _has_row_names(lines_of_text[top + 1 :], len(columns)):
    columns = ('', *columns)
  types: tuple[str, ...] = ()
  rows: list[tuple[str, ...]] = []
  lines: list[int] = []
  bad: list[tuple[int, str]] = []
  notes: list[tuple[int, str]] = []
  if mark != '\t':
    notes.append((top + 1, f'cells are separated by {mark!r}, not by tabs'))
  if old:
    notes.append((top + 1, f'letters, not UTF-8, are read as {_OLD[old]}'))
  for line, values, note in _records(lines_of_text, top + 1, len(columns)):
    if note:
      notes.append((line, note))
    if any(values[len(columns) :]):
      bad.append((line, f'{len(values)} values for {len(columns)} columns'))
      continue
    if not any(map(str.strip, values)):
      continue
    values = [*values, *[''] * len(columns)][: len(columns)]
    if not rows or values[0].strip().lower() in (columns[0], *TYPES):
      stripped = tuple(value.strip().lower() for value in values)
      if _are_types(stripped) and not rows and not types:
        types = stripped
        continue
      if _are_types(stripped) or stripped == columns:
        bad.append((line, _AGAIN))
        continue
    rows.append(tuple(values))
    lines.append(line)
  return Table(
    place, columns, types, tuple(rows), tuple(lines), tuple(bad), tuple(notes)
  )


class Opened(NamedTuple):
  """A text as lines, and what is known of it."""

  lines: list[str]
  top: int  # the header's place among them
  mark: str  # what separates its cells; '' if it has none of the columns
  old: str  # which of `_OLD` it is in; '' if it is Unicode


def open_text(data: bytes, names: Collection[str]) -> Opened:
  """Splits a table into lines; finds its header and what separates cells.

  The header is the first line with one of these columns, or else that below
  blank lines, and one that names the separator.
  """
  text, old = _decode(data)
  lines = re.split('\r\n|\n|\r', text.replace('\0', ''))
  for at, line in enumerate(lines[:_LINES_ABOVE]):
    for mark in MARKS:
      if mark in line and not {*names}.isdisjoint(_names(line, mark)):
        return Opened(lines, at, mark, old)
  for at, line in enumerate(lines):
    if line.strip(f' {MARKS}') and not line.lower().startswith(_SEPARATOR):
      return Opened(lines, at, '', old)
  return Opened(lines, 0, '', old)


def _names(header: str, mark: str) -> list[str]:
  return [cell.strip(' "').lower() for cell in header.split(mark)]


def _with_tabs(
  lines: Sequence[str], top: int, mark: str, place: str
) -> list[str]:
  """Separates the cells from the header on by tabs; lines keep their numbers.

  Raises:
    InputError: a quote is never closed.
  """
  text = io.StringIO()
  rows = csv.reader(
    io.StringIO('\n'.join(lines[top:])), delimiter=mark, strict=True
  )
  try:
    csv.writer(text, delimiter='\t', lineterminator='\n').writerows(rows)
  except csv.Error as error:
    raise InputError(
      f'{place}: line {top + rows.line_num}: {error}; save it as tab-separated'
      ' text'
    ) from None
  return [*lines[:top], *text.getvalue().split('\n')]


def _has_row_names(lines: Iterable[str], width: int) -> bool:
  """Tells whether every row begins with a number more than the header has."""

  def has(line: str) -> bool:
    cells = line.split('\t')
    numbered = cells[0].strip('"').isdecimal() and bool(cells[-1].strip())
    return len(cells) == width + 1 and numbered

  filled = (line for line in lines if line.strip())
  return has(next(filled, '')) and all(map(has, filled))


def kind_of(data: bytes) -> str:
  """Says what a file is that bears a table's name by mistake; '' for texts."""
  return next((k for mark, k in _MISTAKEN.items() if data.startswith(mark)), '')


def _mistake(data: bytes, first: str) -> str:
  """Says what a file without a header of columns is, and the remedy."""
  remedy = 'save it as .xlsx or .csv'
  if not first.strip():
    return '; it is empty'
  if kind := kind_of(data):
    return f'; it is {kind}: {remedy}'
  if first.lstrip().lower().startswith(('<!doctype', '<html', '<table')):
    return '; it is a web page: download the table again, logged in'
  return ''


def _records(
  lines: Sequence[str], start: int, width: int
) -> Iterator[tuple[int, list[str], str]]:
  """Yields (line it ends on, values, note) of each record from `start` on."""
  while start < len(lines):
    end = min(start + _LINES_IN_A_CELL, len(lines))
    split = _full if lines[start].count('\t') == width - 1 else _short
    stop, values, opened = split(lines[start:end], width)
    note = 'a quote is never closed: read as a character' if opened else ''
    start += stop
    yield start, values, note


def _full(lines: Sequence[str], width: int) -> tuple[int, list[str], bool]:
  """Splits a line of just as many cells as there are columns.

  A quote that a cell does not close is a character then; the last cell alone
  may go on in further lines, of fewer cells.

  Returns:
    How many lines are read, the values, and whether a quote is never closed.
  """
  *cells, last = lines[0].split('\t')
  stop = 1
  while (
    last.startswith('"')
    and not _QUOTED.fullmatch(last)
    and stop < len(lines)
    and lines[stop].count('\t') < width - 1
  ):
    last += f'\n{lines[stop]}'
    stop += 1
  if not _QUOTED.fullmatch(last):
    stop, last = 1, lines[0].rpartition('\t')[2]
  cells.append(last)
  return stop, [_unquoted(cell) for cell in cells], any(map(_is_open, cells))


def _short(lines: Sequence[str], width: int) -> tuple[int, list[str], bool]:
  """Splits a line of more or fewer cells, or one that goes on in others.

  Returns what `_full` does.
  """
  for stop in range(1, len(lines) + 1):
    values = _values(lines[:stop])
    if values is not None:
      if stop > 1 and _is_wrong(values, width):
        break
      return stop, values, False
  cells = lines[0].split('\t')
  return 1, [_unquoted(cell) for cell in cells], any(map(_is_open, cells))


def _is_open(cell: str) -> bool:
  return cell.startswith('"') and not _QUOTED.fullmatch(cell)


def _unquoted(cell: str) -> str:
  if not _QUOTED.fullmatch(cell):
    return cell
  return cell[1:-1].replace('""', '"')


def _is_wrong(values: Sequence[str], width: int) -> bool:
  """Says whether lines were joined that are rows of their own.

  Then there are more than `width` cells, or one holds whole rows.
  """
  return len(values) > width or any(
    value.count('\t') >= breaks * (width - 1)
    for value in values
    if (breaks := value.count('\n'))
  )


def _values(lines: Sequence[str]) -> list[str] | None:
  """Splits one record into values; None if a quote is still open."""
  if len(lines) == 1 and '"' not in lines[0]:
    return lines[0].split('\t')
  text = '\n'.join(lines)
  try:
    return next(csv.reader([text], delimiter='\t', strict=True), [])
  except csv.Error as error:
    if 'unexpected end' in str(error) or len(lines) > 1:
      return None
  try:  # A closing quote in the midst of a cell, which others read over.
    return next(csv.reader([text], delimiter='\t'), [])
  except csv.Error:  # A cell of more characters than csv takes.
    return text.split('\t')


def _are_types(values: Sequence[str]) -> bool:
  """Tells whether stripped values are types; one at least is EcoTaxa's."""
  found = {*values} - {''}
  return not found.isdisjoint(TYPES) and all(map(_TYPE.fullmatch, found))


def _decode(data: bytes) -> tuple[str, str]:
  """Decodes a text in any encoding that spreadsheets write.

  Lines that are no UTF-8 are of one of `_OLD`, which is returned, too.
  """
  if encoding := files.utf16(data):
    return data.decode(encoding, errors='replace').replace('\ufeff', ''), ''
  old = ''
  try:
    text = data.decode()
  except UnicodeDecodeError:
    old = _old_encoding(data)
    lines = data.splitlines(keepends=True)  # some alone, of joined tables
    text = ''.join(_decode_line(line, old) for line in lines)
  text = '\n'.join(map(mend, text.split('\n')))
  return text.replace('\ufeff', ''), old  # marks of order, of each joined table


def _old_encoding(data: bytes) -> str:
  """Tells which of `_OLD` a text is in that is no Unicode.

  In the right one, a letter within a word is a small one, or an apostrophe;
  Windows' own is taken where both do alike.
  """
  within = b''.join(_WITHIN_A_WORD.findall(data))

  def fitting(encoding: str) -> int:
    text = within.decode(encoding, errors='replace')
    return sum(letter.islower() or letter == '’' for letter in text)

  return max(_OLD, key=fitting)


def mend(text: str) -> str:
  """Undoes UTF-8 that was read as Windows-1252, as in Ã© for é."""
  if text.isascii():
    return text
  try:
    return text.encode('cp1252').decode()
  except UnicodeError:
    return text


def _decode_line(line: bytes, old: str) -> str:
  for encoding in ('utf-8', old):
    try:
      return line.decode(encoding)
    except UnicodeDecodeError:
      continue
  return line.decode('latin-1')
