"""Lists images for a person to check, and reads what the person found.

`analysis.counts --check` writes the list; a person fills it in, or decides on
its images on the page of `analysis.review --check`.
"""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.files import tables
from analysis.files.new_images import NewImages
from plankton_jax.data.ecotaxa.table import TYPES
from plankton_jax.data.sources.source import one_line
from plankton_jax.errors import InputError

SEED = 0

# Columns of a table of checked images; the first that is there counts.
_COLUMNS = {
  'id': ('id', 'object_id'),
  'class': ('class', 'object_annotation_category'),
  'status': ('status', 'object_annotation_status'),
}
_VALIDATED = 'validated'


def listed(
  new: NewImages, groups: np.ndarray, predicted: Sequence[str], number: int
) -> list[dict[str, Any]]:
  """Draws so many images of each sample, or all of a smaller one.

  Args:
    new: the images.
    groups: [N] their samples.
    predicted: [N] what each is taken for.
    number: of images of a sample.

  Returns:
    A line an image, with a class to fill in.
  """
  rng = np.random.default_rng(SEED)
  lines = []
  for name in np.unique(groups):
    rows = np.flatnonzero(groups == name)
    drawn = rng.permutation(rows)[:number]
    lines += [
      {
        'sample': str(name),
        'id': str(new.rows.id[row]),
        'object_id': new.items[row].object_id,
        'predicted': predicted[row],
        'class': '',
      }
      for row in sorted(drawn.tolist())
    ]
  return lines


def drawn(path: pathlib.Path, ids: Sequence[str]) -> list[int]:
  """Finds the images that a table of `listed` names, in the table's order.

  Returns:
    Their places among the `ids` of all images.

  Raises:
    InputError: it cannot be read, has no column id or no row, or names an image
      that is not there.
  """
  header, rows = tables.read_csv(path, 'images to check', _COLUMNS['id'])
  column = tables.find_columns(path, header, _COLUMNS, ['id'])['id']
  assert column
  place = {key: at for at, key in enumerate(ids)}
  names = list(dict.fromkeys(row[column] for _, row in rows))
  missing = [name for name in names if name not in place]
  if missing or not names:
    example = f', such as {one_line(missing[0])}' if missing else ''
    raise InputError(
      f'{path}: {len(missing):,} of its {len(names):,} images are not among'
      f' the {len(ids):,} there{example}: give the --images or --export that'
      ' analysis.counts drew them from'
    )
  return [place[name] for name in names]


def read(
  path: pathlib.Path, new: NewImages
) -> tuple[dict[int, str], list[str]]:
  """Reads the classes that a person gave to images.

  The table has the columns id and class, as `listed` makes them, or those of an
  EcoTaxa table, object_id and object_annotation_category. Where a status is
  given, only what is validated counts. An image without a class is not checked.

  Returns:
    The class of each checked image, by its row, and notes on what is left out.

  Raises:
    InputError: it cannot be read, lacks a column, has two classes for an image,
      or none for any of these images.
  """
  header, rows = tables.read_csv(path, 'checked images', _COLUMNS['id'])
  columns = tables.find_columns(path, header, _COLUMNS, ['id', 'class'])
  identity, named, status = columns['id'], columns['class'], columns['status']
  assert identity and named
  place = _places(new)
  found: dict[int, str] = {}
  blank = strange = 0
  for line, row in rows:
    key, name = row[identity], row[named]
    if key.lower() in TYPES:  # below the header of EcoTaxa's tables
      continue
    if status and row[status].lower() != _VALIDATED:
      name = ''
    at = place.get(key, -1)
    blank += not name
    strange += bool(name) and at < 0
    if name and at >= 0 and found.setdefault(at, name) != name:
      raise InputError(
        f'{path}, line {line}: {one_line(key)} is {one_line(name)} here and'
        f' {one_line(found[at])} before'
      )
  if not found:
    raise InputError(
      f'{path}: none of its {len(rows):,} rows gives a class to one of the'
      f' images, such as {new.rows.id[0]}: fill in the column {named}, and'
      ' count the images that it was drawn from'
    )
  notes = []
  if blank:
    notes.append(
      f'{path}: {blank:,} of {len(rows):,} rows have no class, and do not count'
      ' as checked: if those are the difficult ones, the counts are biased'
    )
  if strange:
    notes.append(f'{path}: {strange:,} rows are of other images, left out')
  return found, notes


def _places(new: NewImages) -> dict[str, int]:
  """Finds rows by the whole id, or by an object's own where no other has it."""
  own = [item.object_id for item in new.items]
  several = collections.Counter(own)
  place = {key: at for at, key in enumerate(own) if several[key] == 1}
  return place | {key: at for at, key in enumerate(new.rows.id.tolist())}
