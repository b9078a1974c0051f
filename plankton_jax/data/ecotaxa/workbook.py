"""Reads the sheets of an Excel workbook as tab-separated text."""

import csv
import datetime
import io
import itertools
import re
import warnings
import zipfile
from typing import Any

from plankton_jax.data.sources import archives
from plankton_jax.errors import InputError, reason

ENDINGS = ('.xlsx', '.xlsm')
_BREAKS = re.compile(r'[\t\r\n]+')
MARK = b'PK\3\4'  # how they begin, being zip archives


def sheets(data: bytes, place: str) -> dict[str, bytes]:
  """Reads every sheet by its title: UTF-8 text, a line for each row.

  Dates are written by ISO 8601, whole numbers without a point; formulas give
  what Excel last computed of them.

  Args:
    data: the workbook.
    place: its name, for errors.

  Raises:
    InputError: it is no workbook, or is damaged.
  """
  import openpyxl  # takes a third of a second, which few commands need

  try:
    with (
      zipfile.ZipFile(io.BytesIO(data)) as archive,
      warnings.catch_warnings(),
    ):
      for info in archive.infolist():
        if refused := archives.zip_refusal(info):
          raise ValueError(f'{info.filename}: {refused}')
      warnings.simplefilter('ignore')  # of what is no cell, such as styles
      book = openpyxl.load_workbook(
        io.BytesIO(data), read_only=True, data_only=True
      )
      return {sheet.title: _text(sheet) for sheet in book.worksheets}
  except Exception as error:  # openpyxl lets through whatever its parsers raise
    raise InputError(
      f'{place}: not a readable Excel workbook ({reason(error)}): save it as'
      ' .xlsx or .csv'
    ) from None


def _text(sheet: Any) -> bytes:
  """Writes a sheet's cells, without the empty rows and columns at its end."""
  rows = []
  sheet.reset_dimensions()  # some programs write a wrong size
  for row in sheet.iter_rows(values_only=True):
    cells = [_cell(value) for value in row]
    blank = itertools.takewhile(lambda cell: not cell, reversed(cells))
    rows.append(cells[: len(cells) - len([*blank])])
  while rows and not rows[-1]:
    rows.pop()
  text = io.StringIO()
  csv.writer(text, delimiter='\t', lineterminator='\n').writerows(rows)
  return text.getvalue().encode(errors='replace')


def _cell(value: Any) -> str:
  """Writes a cell in one line."""
  if value is None:
    return ''
  if isinstance(value, datetime.datetime) and value.time() == datetime.time():
    value = value.date()
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  return _BREAKS.sub(' ', str(value))
