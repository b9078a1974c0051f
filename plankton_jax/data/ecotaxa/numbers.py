"""Reads the numbers of a table, as spreadsheets of any country write them."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from plankton_jax.data.ecotaxa import rules
from plankton_jax.data.ecotaxa.table import NO_VALUE, Table
from plankton_jax.data.sources.source import one_line

# Columns that give a pixel's side, the surest first; others name the unit.
_PIXELS = ('process_particle_pixel_size_mm', 'acq_pixel', 'process_pixel')
_UNIT = r'(mm|[uµμ]m|nm|microns?|micrometers?)'
_UNITS = {'mm': 1000.0, 'nm': 0.001}  # in micrometres; all others are these
_PIXEL = re.compile(rf'(?:acq|process)_(?:\w+_)?pixel(?:_size|_side)?_{_UNIT}')
_PER_UNIT = re.compile(rf'(?:acq|process)_(?:\w+_)?pixels?_per_{_UNIT}')
_IN_CELL = re.compile(rf'\s*{_UNIT}(?:\s*/\s*(?:pixels?|px))?$')
# Columns that tell how much water an object stands for, and the unit that a
# cell may repeat; analysis.counts computes with them.
_VOLUMES = {
  'acq_sub_part': '',  # ZooScan
  'sample_tot_vol': 'm3|m³',
  'acq_fluid_volume_imaged': 'ml',  # FlowCam
  'sample_conc_vol_ml': 'ml',
  'sample_initial_col_vol_m3': 'm3|m³',
  'acq_imaged_volume': 'ml',  # PlanktoScope
  'sample_concentrated_sample_volume': 'ml',
  'sample_total_volume': 'l|litres?|liters?',
  'sample_dilution_factor': '',
}
_LEAST_UM = 0.2  # a smaller pixel is given in millimetres

# One decimal comma. In front of just three digits it may part thousands.
_COMMA = re.compile(r'([+-]?\d*),(\d+)((?:[eE][+-]?\d+)?)')
# A blank or an apostrophe between thousands.
_THOUSANDS = re.compile(r"(?<=\d)[\s'’](?=\d{3}(?!\d))")


class Numbers(NamedTuple):
  """The numbers of a table's N rows."""

  of: Mapping[str, np.ndarray]  # column, or pixel_um -> float32 [N]
  notes: tuple[str, ...]  # names columns with cells that are no number


def read(found: Table) -> Numbers:
  """Reads the columns of numbers; NaN where a cell has none.

  These are the free object_* columns of type [f], or whose every value is a
  number; the pixel's side in micrometres, where a column gives it; and the
  columns of volumes.
  """
  kinds = dict(zip(found.columns, found.types, strict=False))
  of: dict[str, np.ndarray] = {}
  notes = []

  def note(
    name: str, cells: Sequence[str], bad: Sequence[int], what: str
  ) -> None:
    if len(bad):
      notes.append(
        f'{name}: {len(bad):,} of {len(cells):,} cells are no {what}, such as'
        f' {one_line(cells[bad[0]])[:30]!r} in line {found.lines[bad[0]]}'
      )

  def add(name: str, cells: Sequence[str], *, text: bool = False) -> None:
    values, bad = floats(cells)
    if text and bad:
      return
    if not np.isnan(values).all():
      of[name] = values
    note(name, cells, bad, 'number')

  for name in dict.fromkeys(found.columns):
    if name.startswith('object_') and rules.is_free(name):
      add(name, found.column(name), text=kinds.get(name) != '[f]')
  for name, unit in _VOLUMES.items():
    own = re.compile(rf'(?<=\d)[\s_]*(?:{unit})$', re.IGNORECASE)
    add(name, [own.sub('', cell) for cell in found.column(name)])
  for name in dict.fromkeys((*_PIXELS, *found.columns)):
    if name not in _PIXELS and not _unit_of(name):
      continue
    cells = found.column(name)
    sides, in_mm = _sides(name, cells)
    unknown = np.flatnonzero(np.isnan(sides)).tolist()
    bad = [row for row in unknown if cells[row].lower() not in NO_VALUE]
    note(name, cells, bad, 'positive number')
    if not np.isnan(sides).all():
      of['pixel_um'] = sides
      if in_mm:
        notes.append(
          f'{name}: pixels of a side below {_LEAST_UM} are taken to be given in'
          ' millimetres; data.pixel_um gives another'
        )
      break
  return Numbers(of, tuple(notes))


def _unit_of(name: str) -> str:
  """Finds the unit in the name of a column of pixels' sides; '' if none."""
  match = _PIXEL.fullmatch(name) or _PER_UNIT.fullmatch(name)
  return match[1] if match else ''


def _sides(name: str, cells: Sequence[str]) -> tuple[np.ndarray, bool]:
  """Reads the sides of pixels, with the unit in each cell or the column's name.

  Returns:
    µm, float32 [N], NaN where there is none; and whether sides without a unit
    are so small that they are taken for millimetres.
  """
  named = _unit_of(name)
  units, numbers = [], []
  for cell in cells:
    match = _IN_CELL.search(cell.lower())
    units.append(match[1] if match else named)
    numbers.append(cell[: match.start()] if match else cell)
  values, _ = floats(numbers)
  values[~(values > 0) | ~np.isfinite(values)] = np.nan
  small = np.array([not unit for unit in units], bool) & (values < _LEAST_UM)
  if _PER_UNIT.fullmatch(name):
    values = 1.0 / values
  factors = np.array([_UNITS.get(unit, 1.0) for unit in units], float)
  sides = values * np.where(small, _UNITS['mm'], factors)
  return sides.astype(np.float32), bool(small.any())


def points(values: Sequence[str], *, small: bool = False) -> Sequence[str]:
  """Puts a decimal point in place of the commas of a column.

  Leaves the column as it is if each of its commas may part thousands.

  Args:
    values: stripped cells [N].
    small: whether the column holds no thousands, such as degrees.
  """
  if not any(',' in value for value in values):
    return values
  found = [_COMMA.fullmatch(value) for value in values]
  if not small and not any(map(_is_decimal, found)):
    return values
  return [
    f'{match[1]}.{match[2]}{match[3]}' if match else value
    for match, value in zip(found, values, strict=True)
  ]


def floats(values: Sequence[str]) -> tuple[np.ndarray, list[int]]:
  """Parses a column's stripped cells.

  Returns:
    float32 [N], NaN where there is no number, and the rows of cells that are
    neither empty nor a number.
  """
  found = np.full(len(values), np.nan)
  bad = []
  whole = [_THOUSANDS.sub('', value) for value in values]
  for row, value in enumerate(points(whole)):
    if value.lower() in NO_VALUE:
      continue
    try:
      if '_' in value:  # which Python would read over
        raise ValueError
      found[row] = float(value)
    except ValueError:
      bad.append(row)
  with np.errstate(over='ignore'):
    return found.astype(np.float32), bad


def _is_decimal(match: re.Match[str] | None) -> bool:
  """Tells whether a comma cannot part thousands, as in 0,125 and 1,5."""
  if match is None:
    return False
  whole = match[1].lstrip('+-')
  return len(match[2]) != 3 or len(whole) > 3 or whole in ('', '0')
