"""The objects of an EcoTaxa export: taxon, state, sample and acquisition."""

import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

from plankton_jax.data.ecotaxa import files, table
from plankton_jax.errors import InputError

STATES = ('validated', 'predicted', 'dubious')
UNCLASSIFIED = 'unclassified'

# What binds ids of one sample, or one acquisition of a sample; an object
# without either stays for itself.
GROUPS = {'sample': r'^([^/]+)/', 'acquisition': r'^([^/]*/[^/]+)/'}


class Object(NamedTuple):
  """One object of a project, by the first of its images."""

  object_id: str
  image: str  # where it lies in the export
  status: str  # of STATES, or UNCLASSIFIED
  taxon: str  # object_annotation_category; '' if unclassified
  lineage: str  # object_annotation_hierarchy; '' where it was not exported
  sample: str
  acquisition: str

  @property
  def id(self) -> str:
    """Joins sample/acquisition/object, with / and % escaped in each."""
    return '/'.join(
      part.replace('%', '%25').replace('/', '%2F')
      for part in (self.sample, self.acquisition, self.object_id)
    )


class Export(NamedTuple):
  """The contents of an export."""

  files: files.Files
  objects: tuple[Object, ...]  # sorted by id
  further: int  # images of objects that have one of a lower rank
  skipped: tuple[tuple[str, str], ...]  # (name, reason)


def export(path: str) -> Export:
  """Reads all tables of an export, a zip archive or a folder.

  An object with several images is represented by that of the lowest
  `img_rank`; the others are counted.

  Raises:
    InputError: no export, or a table that lacks a column.
  """
  opened = files.open_export(path)
  best: dict[str, tuple[float, Object]] = {}
  further, skipped = 0, []
  for name in opened.tables:
    for line, rank, item in _objects(opened, name):
      if isinstance(item, str):
        skipped.append((line, item))
        continue
      other = best.get(item.id)
      further += other is not None
      if other is None or rank < other[0]:
        best[item.id] = rank, item
  objects = (best[id][1] for id in sorted(best))
  return Export(opened, tuple(objects), further, tuple(skipped))


def object_id(id: str) -> str:
  """Extracts EcoTaxa's own id of an object from its record's."""
  return urllib.parse.unquote(id.split('/')[-1])


def _objects(
  opened: files.Files, name: str
) -> Iterator[tuple[str, float, Object | str]]:
  """Yields (line, rank, object or the reason against it) of each row."""
  place = f'{opened.place}/{name}'
  try:
    found = table.parse(opened.read(name), place)
  except ValueError as error:
    if isinstance(error, InputError):
      raise
    raise InputError(f'{place}: {error}') from error
  found.require(
    'object_id',
    'img_file_name',
    'object_annotation_status',
    'object_annotation_category',
  )
  columns = zip(
    found.lines,
    *map(
      found.column,
      (
        'object_id',
        'img_file_name',
        'object_annotation_status',
        'object_annotation_category',
        'object_annotation_hierarchy',
        'sample_id',
        'acq_id',
        'img_rank',
      ),
    ),
    strict=True,
  )
  for line, key, image, status, taxon, *others, rank in columns:
    at = f'{name}:{line}'
    status = status.lower() or UNCLASSIFIED
    if not key or not image:
      missing = 'img_file_name' if key else 'object_id'
      yield at, 0.0, f'no {missing}'
    elif status in STATES and not taxon:
      yield at, 0.0, f'{status} without a category'
    else:
      try:
        where = files.beside(name, image)
      except ValueError as error:
        yield at, 0.0, f'{image}: {error}'
        continue
      yield at, _number(rank), Object(key, where, status, taxon, *others)


def _number(rank: str) -> float:
  try:
    return float(rank or 0)
  except ValueError:
    return 0.0
