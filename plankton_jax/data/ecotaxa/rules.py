"""Checks a table as EcoTaxa's importer would; docs/ecotaxa.md has the sources.

The checks follow py/BO/TSVFile.py and py/BO/Bundle.py of
github.com/ecotaxa/ecotaxa_back, the lengths its py/DB.
"""

import re
from collections.abc import Iterator

from plankton_jax.data.ecotaxa.table import STATES, TYPES, Table

# Columns that EcoTaxa defines; all others are free.
NUMBERS = frozenset({
  'img_rank', 'object_annotation_category_id', 'object_depth_max',
  'object_depth_min', 'object_lat', 'object_lon',
})  # fmt: skip
TEXTS = frozenset({
  'acq_id', 'acq_instrument', 'img_file_name', 'object_annotation_category',
  'object_annotation_date', 'object_annotation_person_email',
  'object_annotation_person_name', 'object_annotation_status',
  'object_annotation_time', 'object_date', 'object_id', 'object_link',
  'object_time', 'process_id', 'sample_dataportal_descriptor', 'sample_id',
})  # fmt: skip
FREE_NUMBERS = 500  # columns object_* of a project that hold numbers
FREE_TEXTS = {'object': 20, 'acq': 30, 'process': 30, 'sample': 30}
TEXT_LENGTH = 250  # of a value in a free column
NAME_LENGTH = 255  # of ids, image names and links

_FILE = re.compile(r'ecotaxa.*\.(tsv|txt)')
_LENGTHS = dict.fromkeys((
  'object_id', 'sample_id', 'acq_id', 'process_id', 'img_file_name',
  'object_link', 'acq_instrument',
), NAME_LENGTH)  # fmt: skip
_RANGES = {'object_lat': 90.0, 'object_lon': 180.0}
_PATTERNS = {
  'object_date': re.compile(r'\d{4}(-?)\d\d\1\d\d'),
  'object_annotation_date': re.compile(r'\d{4}(-?)\d\d\1\d\d'),
  'object_time': re.compile(r'\d{1,6}|\d\d:\d\d:\d\d'),
  'object_annotation_time': re.compile(r'\d{1,6}|\d\d:\d\d:\d\d'),
}


def problems(file_name: str, table: Table) -> Iterator[str]:
  """Yields why EcoTaxa would refuse a table, one line each."""
  if not _FILE.fullmatch(file_name):
    yield f'the name must be ecotaxa*.tsv or ecotaxa*.txt, not {file_name}'
  yield from (f'line {line} has {reason}' for line, reason in table.bad)
  yield from (f'line {line}: {note}' for line, note in table.notes)
  yield from _columns(table)
  if not table.types:
    yield 'the second line must give the types, [t] or [f], of all columns'
    return
  for name, kind in zip(table.columns, table.types, strict=True):
    if kind not in TYPES:
      yield f'column {name}: type {kind!r} is neither [t] nor [f]'
    elif name.startswith('object_'):
      number = kind == '[f]' or name in NUMBERS
      yield from _values(table, name, is_number=number)
    else:
      yield from _values(table, name, is_number=name in NUMBERS)
  yield from _rows(table)


def is_free(column: str) -> bool:
  """Tells whether a column is free: EcoTaxa gives it no meaning."""
  return column not in NUMBERS | TEXTS


def _columns(table: Table) -> Iterator[str]:
  """Yields the problems of the header: names, and how many are free."""
  free: dict[tuple[str, str], int] = {}
  types = table.types or ('[t]',) * len(table.columns)
  for name in sorted(set(table.columns)):
    if table.columns.count(name) > 1:
      yield f'column {name} is there twice'
  for name, kind in zip(table.columns, types, strict=True):
    level, _, rest = name.partition('_')
    known = level in FREE_TEXTS or (level == 'img' and not is_free(name))
    if not known or not rest:
      yield f'column {name}: must begin object_, acq_, process_ or sample_'
      continue
    if is_free(name):
      key = level, kind if level == 'object' else '[t]'
      free[key] = free.get(key, 0) + 1
  for name in ('img_file_name', 'object_id'):
    if name not in table.columns:
      yield f'column {name} is missing'
  for level in ('acq', 'process', 'sample'):
    names = [n for n in table.columns if n.startswith(f'{level}_')]
    if names and f'{level}_id' not in names:
      yield f'column {level}_id is missing, as there is {names[0]}'
  for (level, kind), count in free.items():
    most = FREE_NUMBERS if kind == '[f]' else FREE_TEXTS[level]
    if count > most:
      yield f'{count} free columns {level}_* of type {kind}: {most} at most'


def _values(table: Table, name: str, *, is_number: bool) -> Iterator[str]:
  """Yields the problems of one column, the first of each kind."""
  most = _LENGTHS.get(name, TEXT_LENGTH if is_free(name) else None)
  for line, value in zip(table.lines, table.column(name), strict=True):
    if not value or (is_number and value.lower() in ('nan', 'na')):
      continue
    at = f'line {line}, column {name}'
    if is_number:
      number = _number(value)
      if number is None:
        yield f'{at}: {value!r} is no number'
        return
      if name in _RANGES and not abs(number) <= _RANGES[name]:
        yield f'{at}: {value} is beyond {_RANGES[name]:g} degrees'
        return
    elif most and len(value) > most:
      yield f'{at}: {len(value)} characters, {most} at most'
      return
    elif name in _PATTERNS and not _PATTERNS[name].fullmatch(value):
      yield f'{at}: {value!r} must be YYYYMMDD for a date, hhmmss for a time'
      return


def _rows(table: Table) -> Iterator[str]:
  """Yields the problems of rows: ids, states, and samples of acquisitions."""
  ids = table.column('object_id')
  pictures = table.column('img_file_name')
  states = table.column('object_annotation_status')
  # The importer uses the id only if there is no column of names.
  by = 'object_annotation_category'
  taxa = table.column(by if by in table.columns else f'{by}_id')
  seen: dict[tuple[str, str], int] = {}
  for line, key, picture, state, taxon in zip(
    table.lines, ids, pictures, states, taxa, strict=True
  ):
    at = f'line {line}'
    if not key:
      yield f'{at}: no object_id'
    if (key, picture) in seen:
      first = seen[key, picture]
      yield f'{at}: object {key}, image {picture} are in line {first} too'
    seen[key, picture] = line
    if state and state.lower() not in (*STATES, 'noid'):
      yield f'{at}: status {state!r} is none of {", ".join(STATES)}'
    if state and not taxon:
      yield f'{at}: status {state!r} needs a category'
    if taxon and not state:
      yield f'{at}: category {taxon!r} needs a status'
  samples: dict[str, str] = {}
  for line, sample, acquisition in zip(
    table.lines, table.column('sample_id'), table.column('acq_id'), strict=True
  ):
    other = samples.setdefault(acquisition, sample)
    if sample and acquisition and other != sample:
      yield f'line {line}: acquisition {acquisition} is of sample {other} too'


def _number(text: str) -> float | None:
  try:
    number = float(text)
  except ValueError:
    return None
  return None if number == float('-inf') else number
