"""Reads the objects of an EcoTaxa export: taxon, state, sample, acquisition."""

import contextlib
import functools
import math
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from plankton_jax.data.ecotaxa import (
  annotations,
  files,
  ids,
  lists,
  numbers,
  table,
)
from plankton_jax.data.ecotaxa.annotations import Annotated
from plankton_jax.data.ecotaxa.ids import Row
from plankton_jax.data.sources.objects import Object
from plankton_jax.data.sources.source import Measures, one_line
from plankton_jax.errors import InputError, shorten_list

# EcoTaxa's own letters of the states, as its database has them; n of none.
_LETTERS = {state[0]: state for state in table.STATES}
_LETTERS['n'] = annotations.UNCLASSIFIED

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
  'annotation_date': ('object_annotation_date',),
  'annotation_time': ('object_annotation_time',),
}
_IMAGE = 'img_file_name'
_TAXA = ('taxon', 'lineage')
_ANNOTATION = ('status', 'taxon', 'lineage', 'category_id')
_DEGREES = ('latitude', 'longitude')
_POINTS = (*_DEGREES, 'depth_min', 'depth_max')
# An export in which one of these is there twice is refused.
_ONCE = (
  *('object_id', 'img_file_name', 'img_rank', 'object_annotation_status'),
  *('object_annotation_category', 'object_annotation_hierarchy'),
  *('sample_id', 'acq_id'),
)


class Export(NamedTuple):
  """The contents of an export; all rows of its tables are accounted for."""

  files: files.Files
  objects: tuple[Object, ...]  # sorted by id
  further: int  # images that are not the one kept of their object
  repeated: int  # rows that repeat another row
  skipped: tuple[tuple[str, str], ...]  # (name, reason) of rows and tables
  notes: tuple[str, ...]  # what was read in an unusual way
  measures: Measures  # object_* numbers, pixel_um, volumes; of objects


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
  """Reads all tables of an export: an archive, a folder, or one table.

  Of an object with several images, the one with the lowest or highest
  `img_rank` is kept, or the one of a given rank if it has that, else the
  lowest; the others are counted. Copies of an export, such as an archive beside
  what was unpacked of it, count once. Tables that give one id to different
  images of one rank come from different projects; their objects are told apart
  by their tables' names. Of several images that one table gives one id and rank
  the first counts; the others are further images of the object.

  Raises:
    InputError: there is no export, no table can be read, or a spreadsheet has
      rounded ids so that one stands for several images.
  """
  check_rank(image_rank)
  opened = files.open_export(path, field=field)
  found = _read_tables(opened)
  rows, apart = ids.keep_apart(ids.join_copies(opened, found.rows))
  alike = ids.note_alike(rows, opened)
  kept = _choose(rows, image_rank)
  chosen = [kept.best[id] for id in sorted(kept.best)]
  items, contrary = annotations.settle([row.item for row in chosen], kept.said)
  objects, apart_by_parent = annotations.by_parent(items)
  return Export(
    opened._replace(parsed={}),  # which may be large
    objects,
    kept.further,
    kept.repeated,
    found.skipped,
    (
      *found.notes,
      *_unnamed(opened, found.rows),
      *apart,
      *alike,
      *ids.note_rounded(rows),
      *contrary,
      *apart_by_parent,
    ),
    _measures(chosen, found.measured),
  )


class _Tables(NamedTuple):
  """All rows of an export's tables, and what is said of them."""

  rows: list[Row]
  skipped: tuple[tuple[str, str], ...]  # (name, reason)
  notes: list[str]
  measured: dict[str, Mapping[str, np.ndarray]]  # table -> column -> numbers


def _read_tables(opened: files.Files) -> _Tables:
  """Reads the rows of all tables.

  Raises:
    InputError: not one table can be read.
  """
  rows: list[Row] = []
  skipped = list(opened.skipped)
  notes: dict[str, list[str]] = {}  # what is said -> of which tables
  unread: list[InputError] = []
  measured: dict[str, Mapping[str, np.ndarray]] = {}
  for name in opened.tables:
    try:
      found, listed = _read(opened, name)
    except InputError as error:
      unread.append(error)
      why = str(error).removeprefix(f'{opened.named(name)}: ')
      skipped.append((name, why))
      continue
    for line, note in found.notes:
      notes.setdefault(note, []).append(f'{name}:{line}')
    skipped += [(f'{name}:{line}', why) for line, why in found.bad]
    measured[name], unclear = numbers.read(found)
    annotated = annotations.complete(*(_field(found, x) for x in _ANNOTATION))
    for note in (*unclear, *listed, *annotated.notes):
      notes.setdefault(note, []).append(name)
    locate = _locator(opened, name, found.column(_IMAGE) if listed else ())
    for at, (line, rank, item) in enumerate(_objects(found, annotated, locate)):
      if isinstance(item, str):
        skipped.append((f'{name}:{line}', item))
      else:
        rows.append(Row(name, line, at, rank, item))
  if len(unread) == len(opened.tables):
    raise unread[0]
  said = [f'{shorten_list(where)}: {note}' for note, where in notes.items()]
  return _Tables(rows, tuple(skipped), said, measured)


def _locator(
  opened: files.Files, name: str, listed: Sequence[str]
) -> Callable[[str], str]:
  """Returns a function that locates the images of a table.

  Those of a list may lie elsewhere, if none of the first is where it says.
  """
  locate = functools.partial(opened.locate, name)
  for image in listed[: lists.TRIED]:
    with contextlib.suppress(ValueError):
      opened.find(locate(image))
      return locate
  moved = lists.moved(listed, opened.images) if listed else None
  return (lambda image: opened.find(moved(image))) if moved else locate


class _Kept(NamedTuple):
  """The rows of one image an object."""

  best: dict[str, Row]  # by the object's id
  said: dict[str, list[Object]]  # of objects that rows annotate differently
  further: int  # images of the same objects
  repeated: int  # rows that repeat another


def _choose(rows: Sequence[Row], image_rank: str | int) -> _Kept:
  """Chooses the image of each object, and counts the others."""
  best: dict[str, Row] = {}
  seen: set[tuple[str, str]] = set()
  said: dict[str, list[Object]] = {}
  further = repeated = 0
  for row in rows:
    id = row.item.id
    if id in best and _annotation(row.item) != _annotation(best[id].item):
      said.setdefault(id, [best[id].item]).append(row.item)
    if (id, row.item.image) in seen:
      repeated += 1
      continue
    seen.add((id, row.item.image))
    further += id in best
    if id not in best or _before(row.rank, best[id].rank, image_rank):
      best[id] = row
  return _Kept(best, said, further, repeated)


def object_id(id: str) -> str:
  """Extracts EcoTaxa's own id of an object from the id of its record."""
  return urllib.parse.unquote(id.split('/')[-1])


def _read(opened: files.Files, name: str) -> tuple[table.Table, list[str]]:
  """Reads a table, and checks that no column in use is there twice.

  Returns:
    The table, and notes on what of a list is read as what.
  """
  place = opened.named(name)
  try:
    found = opened.parsed.get(name) or lists.parse(opened.read(name), place)
  except ValueError as error:
    if isinstance(error, InputError):
      raise
    raise InputError(f'{place}: {error}') from error
  found, listed = lists.renamed(found)
  found.require_once(*_ONCE)
  found.require(*sorted(table.NEEDED))
  return found, listed


def _measures(
  rows: Sequence[Row], measured: Mapping[str, Mapping[str, np.ndarray]]
) -> Measures:
  names = tuple(sorted({name for found in measured.values() for name in found}))
  values = np.full((len(rows), len(names)), np.nan, np.float32)
  tables = np.array([row.table for row in rows])
  at = np.array([row.at for row in rows], int)
  for name, found in measured.items():
    own = np.flatnonzero(tables == name)
    for column, values_of in found.items():
      values[own, names.index(column)] = values_of[at[own]]
  return Measures(names, tuple(row.item.id for row in rows), values)


def _objects(
  found: table.Table, annotated: Annotated, locate: Callable[[str], str]
) -> Iterator[tuple[int, float, Object | str]]:
  """Yields (line, rank, object or why it is skipped) of each row.

  Objects of a table without annotation are unclassified.
  """
  others = [field for field in _COLUMNS if field not in _ANNOTATION[:2]]
  columns = zip(
    found.lines,
    numbers.points(found.column('img_rank')),
    *(_known(found, name) for name in ('object_id', 'img_file_name')),
    annotated.states,
    annotated.taxa,
    *(_field(found, field) for field in others),
    strict=True,
  )
  (column,) = _COLUMNS['taxon']
  nowhere = '' if column in found.columns else f', as no column is {column}'
  for line, rank, key, image, status, taxon, *more in columns:
    status = status.lower() or annotations.UNCLASSIFIED
    status = _LETTERS.get(status, status)
    if not key or not image:
      missing = 'object_id' if image else 'img_file_name'
      yield line, 0.0, f'no {missing}'
    elif status in table.STATES and not taxon:
      yield line, 0.0, f'{status} without a category{nowhere}'
    else:
      try:
        where = locate(image)
      except ValueError as error:
        yield line, 0.0, f'{image}: {error}'
        continue
      yield line, _number(rank), Object(key, where, status, taxon, *more)


def _field(found: table.Table, field: str) -> Sequence[str]:
  """Lists an object's field, from the first of its columns that is there."""
  names = _COLUMNS[field]
  there = [name for name in names if name in found.columns]
  values = _known(found, there[0] if there else names[0])
  if field in _TAXA:
    clean = {value: annotations.tidy(value) for value in set(values)}
    return [clean[value] for value in values]
  if field in _POINTS:
    return numbers.points(values, small=field in _DEGREES)
  return values


def _known(found: table.Table, name: str) -> Sequence[str]:
  """Lists a column's values; '' for words that mean none, such as NaN."""
  return [
    '' if value.lower() in table.NO_VALUE else value
    for value in found.column(name)
  ]


def _unnamed(opened: files.Files, rows: Sequence[Row]) -> list[str]:
  """Counts the image files of an export that no row names."""
  if opened.single:
    return []  # Its folder holds what it likes.
  left = dict.fromkeys(opened.images)
  for row in rows:
    with contextlib.suppress(ValueError):
      left.pop(opened.find(row.item.image), None)
  if not left:
    return []
  return [
    f'{len(left):,} image files are in no row that can be used, such as'
    f' {one_line(next(iter(left)))}'
  ]


def _annotation(item: Object) -> tuple[str, str]:
  return item.status, item.taxon


def _before(rank: float, other: float, wanted: str | int) -> bool:
  """Tells whether an image of one rank is preferred to one of another."""
  if wanted == 'highest':
    return rank > other
  return (rank != wanted, rank) < (other != wanted, other)


def _number(rank: str) -> float:
  try:
    number = float(rank or 0)
  except ValueError:
    return 0.0
  return number if math.isfinite(number) else 0.0
