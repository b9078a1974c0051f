"""One EcoTaxa table: header, types if there are any, and rows of text."""

import codecs
import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from plankton_jax.errors import InputError

TYPES = ('[t]', '[f]')  # of text and of numbers


class Table(NamedTuple):
  """A table as read; nothing is converted."""

  place: str  # for messages
  columns: tuple[str, ...]  # lower case
  types: tuple[str, ...]  # as long, or () where the file has no such row
  rows: tuple[tuple[str, ...], ...]  # each as long as columns
  lines: tuple[int, ...]  # the line in the file that each row ends on

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
          f' {", ".join(self.columns)})'
        )


def parse(data: bytes, place: str) -> Table:
  """Reads a table's bytes: UTF-8, or Latin-1 where that does not fit.

  Raises:
    InputError: it is empty or no table, or a row has more values than columns.
  """
  reader = csv.reader(io.StringIO(_text(data)), delimiter='\t')
  try:
    columns = tuple(name.strip().lower() for name in next(reader, ()))
    if len(columns) < 2:
      raise InputError(f'{place}: no tab-separated header in the first line')
    double = {name for name in columns if columns.count(name) > 1}
    if double:
      raise InputError(f'{place}: column {min(double)!r} is there twice')
    types: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    for values in reader:
      if len(values) > len(columns):
        raise InputError(
          f'{place}: line {reader.line_num} has {len(values)} values for'
          f' {len(columns)} columns'
        )
      if not any(values):
        continue
      values += [''] * (len(columns) - len(values))
      if not rows and not types and _are_types(values):
        types = tuple(value.strip().lower() for value in values)
        continue
      rows.append(tuple(values))
      lines.append(reader.line_num)
  except csv.Error as error:
    raise InputError(f'{place}: line {reader.line_num}: {error}') from error
  return Table(place, columns, types, tuple(rows), tuple(lines))


def _are_types(values: Sequence[str]) -> bool:
  stripped = {value.strip().lower() for value in values}
  return stripped <= {*TYPES, ''} and stripped != {''}


def _text(data: bytes) -> str:
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError:
    return data.removeprefix(codecs.BOM_UTF8).decode('latin-1')
