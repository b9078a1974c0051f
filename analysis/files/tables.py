"""Reads tables of people, writes CSV, JSON and Parquet, and prints tables."""

import csv
import gzip
import io
import json
import pathlib
import types
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from plankton_jax.data.ecotaxa import table, workbook
from plankton_jax.data.sources.source import describe, one_line
from plankton_jax.errors import InputError
from plankton_jax.files import atomic, home

Row = Mapping[str, Any]


def read_csv(
  path: pathlib.Path, what: str, columns: Collection[str]
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
  """Reads a table that a person made; may be gzipped.

  It may be separated by tabs, commas, semicolons or bars, and in any encoding
  that spreadsheets write, below comments, or a sheet of an Excel workbook.
  Words that mean no value, such as NA, become ''.

  Args:
    path: the table's.
    what: the table is of, for messages.
    columns: names by one of which the header is known.

  Returns:
    The header, in lower case, and (line, cells by column) of each row.

  Raises:
    InputError: it cannot be read, or a row has more cells than columns.
  """
  try:
    data = home.expand(path).read_bytes()
    if data.startswith(b'\x1f\x8b'):
      data = gzip.decompress(data)
    if data.startswith(workbook.MARK):
      texts = [*workbook.sheets(data, str(path)).values()]
      named = (x for x in texts if table.open_text(x, columns).mark)
      data = next(named, texts[0])
    if kind := table.kind_of(data):
      raise InputError(f'{path}: it is {kind}: save it as CSV')
    lines, top, mark, _ = table.open_text(data, columns)
    mark = mark or max(table.MARKS, key=lines[top].count)
    text = io.StringIO('\n'.join(lines[top:]))
    found = csv.reader(text, delimiter=mark, strict=True)
    filled = (row for row in found if any(map(str.strip, row)))
    header = [name.strip().lower() for name in next(filled, [])]
    rows = []
    for row in filled:
      if any(row[len(header) :]):
        raise InputError(
          f'{path}, line {top + found.line_num}: {len(row)} cells for'
          f' {len(header)} columns: quote what holds {mark!r}, and name every'
          ' column'
        )
      cells = [known(cell) for cell in [*row, *[''] * len(header)]]
      rows.append(
        (top + found.line_num, dict(zip(header, cells, strict=False)))
      )
    return header, rows
  except (OSError, EOFError, zlib.error, csv.Error) as error:
    raise InputError(
      f'{path}: no table of {what} ({describe(error)})'
    ) from None


def known(cell: str) -> str:
  """Strips a cell; returns '' for words that mean no value, such as NaN."""
  cell = cell.strip()
  return '' if cell.lower() in table.NO_VALUE else cell


def find_columns(
  path: pathlib.Path,
  header: Sequence[str],
  names: Mapping[str, Sequence[str]],
  needed: Sequence[str],
) -> dict[str, str | None]:
  """Finds the columns of a person's table, which may have several names.

  Args:
    path: the table's.
    header: as `read_csv` returns it.
    names: of each field's column; the first that is there counts.
    needed: fields that must be there.

  Returns:
    The column of each field; None where it has none.

  Raises:
    InputError: a column that is needed is missing.
  """
  found = {
    field: next((name for name in known if name in header), None)
    for field, known in names.items()
  }
  for field in needed:
    if found[field] is None:
      raise InputError(
        f'{path}: no column {names[field][0]} (it has'
        f' {one_line(", ".join(header)) or "no rows"})'
      )
  return found


def plain(value: Any) -> Any:
  """Converts NumPy scalars and arrays to JSON values; NaN to null."""
  if isinstance(value, np.ndarray) and value.dtype.kind == 'f':
    return np.where(np.isfinite(value), value, np.array(None)).tolist()
  if isinstance(value, np.ndarray):
    return [plain(item) for item in value.tolist()]
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float) and not np.isfinite(value):
    return None
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  return value


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes `value` as strict JSON (NaN becomes null), atomically."""
  text = json.dumps(plain(value), indent=1, allow_nan=False)
  atomic.text(path, text + '\n')


def write_csv(path: pathlib.Path, rows: Sequence[Row]) -> pathlib.Path:
  """Writes rows of the same fields as CSV with a header, atomically."""
  with (
    atomic.file(path) as building,
    building.open('w', newline='', encoding='utf-8') as file,
  ):
    writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
  return path


def write_parquet(
  path: pathlib.Path,
  columns: Mapping[str, Any],
  metadata: Mapping[bytes, bytes] = types.MappingProxyType({}),
) -> None:
  """Writes columns of one length as Parquet, atomically.

  A column is a sequence of N values, or an array [N, D], which becomes a list
  of D values a line. `metadata` go into the schema.
  """
  import pyarrow
  from pyarrow import parquet

  def array(values: Any) -> pyarrow.Array:
    if isinstance(values, np.ndarray) and values.ndim == 2:
      flat = pyarrow.array(np.ascontiguousarray(values).ravel())
      return pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pyarrow.array(values)

  made = pyarrow.table({name: array(v) for name, v in columns.items()})
  made = made.replace_schema_metadata(dict(metadata) or None)
  with atomic.file(path) as building:
    parquet.write_table(made, building, compression='zstd')


def show(rows: Sequence[Row], title: str = '') -> None:
  """Prints rows as an aligned table; floats to four digits."""
  if title:
    print(f'\n{title}')
  if not rows:
    print('  (nothing to show)')
    return
  fields = list(rows[0])
  cells = [[_cell(row[field]) for field in fields] for row in rows]
  widths = [
    max(len(field), *(len(line[i]) for line in cells))
    for i, field in enumerate(fields)
  ]
  for line in [fields, *cells]:
    text = [
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    print('  ' + '  '.join(text).rstrip())


def filled(rows: Iterable[Row]) -> list[dict[str, Any]]:
  """Gives all rows the fields of any, in order; '' where a row has none."""
  rows = list(rows)
  fields = list(dict.fromkeys(field for row in rows for field in row))
  return [{field: row.get(field, '') for field in fields} for row in rows]


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
  """Turns rows of the same fields, one or more, into columns."""
  return {field: [row[field] for row in rows] for field in rows[0]}


def skipped(named: Iterable[tuple[str, str]]) -> str:
  """Lists (name, reason) of what was left out, a line each, for skipped.txt."""
  return ''.join(f'{one_line(name)}\t{reason}\n' for name, reason in named)


def short(name: object, most: int = 40) -> str:
  """Shows a name in one line of at most so many characters.

  Leaves out the middle of a longer one.
  """
  text = one_line(name)
  if len(text) <= most:
    return text
  end = most // 3
  return f'{text[: most - end - 1]}…{text[-end:]}'


def _cell(value: Any) -> str:
  if isinstance(value, (float, np.floating)):
    return 'n/a' if np.isnan(value) else f'{value:.4f}'
  return short(value, 60)
