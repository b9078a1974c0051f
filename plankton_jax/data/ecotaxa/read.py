"""Reads the objects of an EcoTaxa export: taxon, state, sample, acquisition."""

import posixpath
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plankton_jax.data.ecotaxa import files, rules, table
from plankton_jax.data.sources.objects import Object
from plankton_jax.data.sources.source import Measures
from plankton_jax.errors import InputError

STATES = table.STATES
UNCLASSIFIED = 'unclassified'

# EcoTaxa's own letters of the states, as its database has them.
_LETTERS = {state[0]: state for state in STATES}

# Match the ids of one sample, or of one acquisition of a sample; an object
# without either is a group of its own.
GROUPS = {'sample': r'^([^/]+)/', 'acquisition': r'^([^/]*/[^/]+)/'}


# Object's fields after its image, in order: the first column there gives each.
_COLUMNS = {
  'status': ('object_annotation_status',),
  'taxon': ('object_annotation_category',),
  'lineage': ('object_annotation_hierarchy',),
  'sample': ('sample_id',),
  'acquisition': ('acq_id',),
  'category_id': ('object_annotation_category_id', 'classif_id'),
  'number': ('objid',),
  'latitude': ('object_lat',),
  'longitude': ('object_lon',),
  'date': ('object_date',),
  'time': ('object_time',),
  'depth_min': ('object_depth_min',),
  'depth_max': ('object_depth_max',),
  'person': ('object_annotation_person_name',),
}
# An export in which one of these is there twice is refused.
_ONCE = (
  *('object_id', 'img_file_name', 'img_rank', 'object_annotation_status'),
  *('object_annotation_category', 'object_annotation_hierarchy'),
  *('sample_id', 'acq_id'),
)
# Columns that give a pixel's side, and their factor to micrometres.
_PIXELS = {
  'process_particle_pixel_size_mm': 1000.0,
  'acq_pixel': 1.0,
  'process_pixel': 1.0,
}
# Columns that tell how much water an object stands for; analysis.counts
# computes with them.
_VOLUMES = (
  *('acq_sub_part', 'sample_tot_vol'),  # ZooScan
  *('acq_fluid_volume_imaged', 'sample_conc_vol_ml'),  # FlowCam
  'sample_initial_col_vol_m3',
  *('acq_imaged_volume', 'sample_concentrated_sample_volume'),  # PlanktoScope
  *('sample_total_volume', 'sample_dilution_factor'),
)
_MILLILITRES = re.compile(r'[\s_]*ml$', re.IGNORECASE)  # a unit in the cell
_LEAST_UM = 0.2  # a smaller pixel is given in millimetres
_NO_NUMBER = ('', 'nan', 'na')
_ROUNDED = re.compile(r'\d(\.\d+)?[eE]\+\d+')


class Export(NamedTuple):
  """The contents of an export; all rows of its tables are accounted for."""

  files: files.Files
  objects: tuple[Object, ...]  # sorted by id
  further: int  # images that are not the one kept of their object
  repeated: int  # rows that repeat another row
  skipped: tuple[tuple[str, str], ...]  # (name, reason) of rows and tables
  notes: tuple[str, ...]  # what was read in an unusual way
  measures: Measures  # object_* numbers, pixel_um, volumes; of objects


class _Row(NamedTuple):
  table: str
  line: int
  at: int  # among the table's rows
  rank: float
  item: Object

  @property
  def place(self) -> str:
    return f'{self.table}:{self.line}'


def check_rank(image_rank: str | int) -> None:
  """Raises InputError unless `image_rank` can choose an image."""
  if isinstance(image_rank, bool) or not (
    image_rank in ('lowest', 'highest') or isinstance(image_rank, int)
  ):
    raise InputError(
      f"data.image_rank={image_rank!r} must be 'lowest', 'highest' or a number"
    )


def export(
  path: str, image_rank: str | int = 'lowest', *, field: str = 'data.path'
) -> Export:
  """Reads all tables of an export: a zip archive, a folder, or one table.

  Of an object with several images, the one with the lowest or highest
  `img_rank` is kept, or the one of a given rank if it has that, else the
  lowest; the others are counted. Tables that give one id to different images
  of one rank come from different projects; their objects are told apart by
  their tables' names.

  Raises:
    InputError: there is no export, no table can be read, or one table gives an
      id to different images of one rank.
  """
  check_rank(image_rank)
  opened = files.open_export(path, field=field)
  rows: list[_Row] = []
  skipped, notes = list(opened.skipped), []
  unread: list[InputError] = []
  numbers: dict[str, dict[str, np.ndarray]] = {}
  for name in opened.tables:
    try:
      found = _read(opened, name)
    except InputError as error:
      unread.append(error)
      skipped.append((name, str(error)))
      continue
    notes += [f'{name}:{line}: {note}' for line, note in found.notes]
    skipped += [(f'{name}:{line}', why) for line, why in found.bad]
    numbers[name] = _numbers(found)
    for at, (line, rank, item) in enumerate(_objects(found, name)):
      if isinstance(item, str):
        skipped.append((f'{name}:{line}', item))
      else:
        rows.append(_Row(name, line, at, rank, item))
  if len(unread) == len(opened.tables):
    raise unread[0]
  rows, apart = _kept_apart(rows)
  if apart:
    notes.append(
      'ids of different objects are equal in these tables, which are kept'
      f' apart by their names: {", ".join(sorted(apart))}'
    )
  rounded = [row for row in rows if _ROUNDED.fullmatch(row.item.object_id)]
  if rounded:
    notes.append(
      f'{len(rounded)} ids such as {rounded[0].item.object_id}'
      f' ({rounded[0].place}) look rounded by a spreadsheet'
    )
  _check_ids(rows, opened.place)
  best: dict[str, _Row] = {}
  seen: set[tuple[str, str]] = set()
  further = repeated = 0
  for row in rows:
    id = row.item.id
    if (id, row.item.image) in seen:
      repeated += 1
      continue
    seen.add((id, row.item.image))
    further += id in best
    if id not in best or _before(row.rank, best[id].rank, image_rank):
      best[id] = row
  chosen = [best[id] for id in sorted(best)]
  return Export(
    opened,
    tuple(row.item for row in chosen),
    further,
    repeated,
    tuple(skipped),
    tuple(notes),
    _measures(chosen, numbers),
  )


def object_id(id: str) -> str:
  """Extracts EcoTaxa's own id of an object from the id of its record."""
  return urllib.parse.unquote(id.split('/')[-1])


def _read(opened: files.Files, name: str) -> table.Table:
  """Reads a table, and checks that no column in use is there twice."""
  place = f'{opened.place}/{name}'
  try:
    found = table.parse(opened.read(name), place)
  except ValueError as error:
    if isinstance(error, InputError):
      raise
    raise InputError(f'{place}: {error}') from error
  found.require_once(*_ONCE)
  found.require('object_id', 'img_file_name')
  return found


def _numbers(found: table.Table) -> dict[str, np.ndarray]:
  """Reads the columns of numbers, float32 [rows] each; NaN where empty.

  These are the free object_* columns whose every value is a number, the pixel's
  side in micrometres, where a column gives it, and the columns of volumes.
  """
  numbers: dict[str, np.ndarray] = {}
  for name in dict.fromkeys(found.columns):
    if name.startswith('object_') and rules.is_free(name):
      values = _floats(found.column(name))
      if values is not None and not np.isnan(values).all():
        numbers[name] = values
  for name in _VOLUMES:
    cells = [_MILLILITRES.sub('', cell) for cell in found.column(name)]
    values = _floats(cells)
    if values is not None and not np.isnan(values).all():
      numbers[name] = values
  for name, factor in _PIXELS.items():
    values = _floats(found.column(name))
    if values is None or not (values > 0).any():
      continue
    # Some instruments give millimetres where others give micrometres.
    scale = np.where(values < _LEAST_UM, 1000.0, 1.0) if factor == 1 else factor
    numbers['pixel_um'] = (values * scale).astype(np.float32)
    break
  return numbers


def _floats(values: Sequence[str]) -> np.ndarray | None:
  """Parses float32 [N]; returns None if one of them is not a number."""
  try:
    return np.array(
      [float(v) if v.lower() not in _NO_NUMBER else np.nan for v in values],
      np.float32,
    )
  except ValueError:
    return None


def _measures(
  rows: Sequence[_Row], numbers: dict[str, dict[str, np.ndarray]]
) -> Measures:
  names = tuple(sorted({name for found in numbers.values() for name in found}))
  values = np.full((len(rows), len(names)), np.nan, np.float32)
  tables = np.array([row.table for row in rows])
  at = np.array([row.at for row in rows], int)
  for name, found in numbers.items():
    own = np.flatnonzero(tables == name)
    for column, values_of in found.items():
      values[own, names.index(column)] = values_of[at[own]]
  return Measures(names, tuple(row.item.id for row in rows), values)


def _objects(
  found: table.Table, name: str
) -> Iterator[tuple[int, float, Object | str]]:
  """Yields (line, rank, object or why it is skipped) of each row.

  Objects of a table without annotation are unclassified.
  """
  columns = zip(
    found.lines,
    *map(found.column, ('img_rank', 'object_id', 'img_file_name')),
    *(_first(found, names) for names in _COLUMNS.values()),
    strict=True,
  )
  for line, rank, key, image, status, taxon, *others in columns:
    status = status.lower() or UNCLASSIFIED
    status = _LETTERS.get(status, status)
    if not key or not image:
      missing = 'img_file_name' if key else 'object_id'
      yield line, 0.0, f'no {missing}'
    elif status in STATES and not taxon:
      yield line, 0.0, f'{status} without a category'
    else:
      try:
        where = files.beside(name, image)
      except ValueError as error:
        yield line, 0.0, f'{image}: {error}'
        continue
      yield line, _number(rank), Object(key, where, status, taxon, *others)


def _first(found: table.Table, names: Sequence[str]) -> Sequence[str]:
  """Lists the values of the first of the columns that is there."""
  there = [name for name in names if name in found.columns]
  return found.column(there[0] if there else names[0])


def _collisions(rows: Sequence[_Row]) -> list[list[_Row]]:
  """Groups rows of one id and rank that name different images."""
  alike: dict[tuple[str, float], dict[str, _Row]] = {}
  for row in rows:
    images = alike.setdefault((row.item.id, row.rank), {})
    images.setdefault(row.item.image, row)
  return [list(rows.values()) for rows in alike.values() if len(rows) > 1]


def _kept_apart(rows: list[_Row]) -> tuple[list[_Row], set[str]]:
  """Puts the table's name before the sample of objects whose tables collide."""
  apart = {
    row.table
    for rows in _collisions(rows)
    if len({row.table for row in rows}) > 1
    for row in rows
  }
  if not apart:
    return rows, apart

  def named(row: _Row) -> _Row:
    if row.table not in apart:
      return row
    sample = f'{posixpath.splitext(row.table)[0]}/{row.item.sample}'
    return row._replace(item=row.item._replace(sample=sample))

  return [named(row) for row in rows], apart


def _check_ids(rows: Sequence[_Row], place: Path) -> None:
  collisions = _collisions(rows)
  if not collisions:
    return
  first = collisions[0]
  lines = ', '.join(str(row.line) for row in first[:6])
  more = ', ...' if len(first) > 6 else ''
  others = f' (and {len(collisions) - 1} more ids)' if collisions[1:] else ''
  raise InputError(
    f'{place}/{first[0].table}: lines {lines}{more} give the id'
    f' {first[0].item.object_id!r} and one img_rank to different images'
    f'{others}: number img_rank, or restore ids that a spreadsheet rounded'
  )


def _before(rank: float, other: float, wanted: str | int) -> bool:
  """Tells whether an image of one rank is preferred to one of another."""
  if wanted == 'highest':
    return rank > other
  return (rank != wanted, rank) < (other != wanted, other)


def _number(rank: str) -> float:
  try:
    return float(rank or 0)
  except ValueError:
    return 0.0
