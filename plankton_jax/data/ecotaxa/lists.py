"""Reads lists of images that people made as tables of EcoTaxa's columns."""

import collections
import contextlib
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from plankton_jax.data.ecotaxa import table, workbook
from plankton_jax.data.ecotaxa.table import Table
from plankton_jax.data.pixels import images
from plankton_jax.data.sources import archives
from plankton_jax.data.sources.source import one_line
from plankton_jax.errors import InputError

_IMAGE, _TAXON = 'img_file_name', 'object_annotation_category'
# Other names of EcoTaxa's columns, as `_fold` writes them.
_NAMES = {
  _IMAGE: (
    *('file', 'filename', 'file_name', 'filepath', 'file_path', 'path'),
    *('image', 'image_name', 'imagename', 'image_file', 'image_filename'),
    *('image_path', 'imagepath', 'img', 'img_name', 'img_path', 'picture'),
  ),
  _TAXON: (
    *('label', 'class', 'class_name', 'classname', 'label_name', 'category'),
    *('taxon', 'taxa', 'taxon_name', 'species', 'scientific_name'),
    *('scientificname', 'annotation', 'identification', 'display_name'),
    *('txo_display_name', 'espèce', 'espece', 'especie', 'classe', 'klasse'),
  ),
  'object_annotation_status': ('classif_qual', 'obj_classif_qual'),
  'object_annotation_hierarchy': ('lineage', 'hierarchy'),
  'object_id': ('orig_id', 'obj_orig_id', 'objid', 'obj_objid'),
  'sample_id': ('sample', 'sampleid', 'sample_name', 'sam_orig_id'),
  'acq_id': ('acquisition', 'acquisition_id', 'acq_orig_id'),
}
# Columns of boxes, by the names of any of their edges.
_BOXES = frozenset(('bbox', 'bounding_box', 'xmin', 'x_min', 'bbox_x', 'x1'))
_HEADERS = frozenset(name for names in _NAMES.values() for name in names)
START = 2**16  # bytes in which a header is looked for
TRIED = 50  # images of a list whose folder is looked for


def parse(data: bytes, place: str) -> Table:
  """Reads a list of images, or EcoTaxa's own table, as `table.parse` does.

  Of an Excel workbook, reads the first sheet with images, and notes others.
  """
  if data.startswith(workbook.MARK):
    return _of_workbook(data, place)
  own = table.open_text(data[:START], table.NEEDED).mark
  return table.parse(data, place, table.NEEDED if own else _HEADERS)


def _of_workbook(data: bytes, place: str) -> Table:
  found = {}
  for title, text in workbook.sheets(data, place).items():
    with contextlib.suppress(InputError):  # a sheet without a table
      sheet = parse(text, place)
      if _columns(sheet, _IMAGE) or _of_images(sheet):
        found[title] = sheet
  if not found:
    raise InputError(
      f'{place}: no sheet has a column of images: name it filename, and that of'
      ' the taxa label'
    )
  (title, first), *others = found.items()
  if not others:
    return first
  unread = ', '.join(one_line(name) for name, _ in others)
  note = f'sheet {one_line(title)} is read, not {unread}: save each as a table'
  return first._replace(notes=(*first.notes, (1, note)))


def is_prose(start: bytes) -> bool:
  """Tells by how it begins whether a text is no table, such as a readme."""
  lines, top, mark, _ = table.open_text(start, table.NEEDED)
  first = lines[top].strip()
  return bool(first) and not mark and '\t' not in first


def is_list(found: Table) -> bool:
  """Tells whether a table lists images.

  A column has their names in its cells, or those of images and of taxa are
  called so: numbers of images have no endings.
  """
  called = _columns(found, _IMAGE) and _columns(found, _TAXON)
  return bool(_of_images(found) or (found.rows and called))


def renamed(found: Table) -> tuple[Table, list[str]]:
  """Gives the columns of a list the names that EcoTaxa has for them.

  Columns are known by `_NAMES`, or that of the images by its cells. Without
  ids, the images' names are those of the objects.

  Returns:
    The table, and notes on what is read as what; EcoTaxa's own is left alone.

  Raises:
    InputError: several columns may be meant.
  """
  if {*found.columns} >= table.NEEDED:
    return found, []
  columns, notes = [*found.columns], []
  if any(map(_is_image, columns)):
    raise InputError(
      f'{found.place}: its first line, {one_line(", ".join(columns))}, names no'
      ' columns: write filename and label above it'
    )
  for name in _NAMES:
    if name in columns:
      continue
    places = _columns(found, name)
    if name == _IMAGE and len(places) != 1:
      held = _of_images(found)
      places = [place for place in places if place in held] or held or places
    if len(places) > 1 and name in (_IMAGE, _TAXON):
      meant = ' or '.join(one_line(found.columns[place]) for place in places)
      raise InputError(
        f'{found.place}: column {meant} may be meant by {name}: give this name'
        ' to one'
      )
    if len(places) == 1:
      columns[places[0]] = name
      notes.append(f'{one_line(found.columns[places[0]])} as {name}')
  if _IMAGE not in columns:
    return found, []
  if boxes := _BOXES.intersection(map(_fold, columns)):
    raise InputError(
      f'{found.place}: column {min(boxes)} gives boxes within images: cut them'
      ' out, an image each, and list these'
    )
  found = found._replace(columns=tuple(columns))
  if 'object_id' not in columns:
    notes.append(f'{_IMAGE} as object_id')
    found = found._replace(
      columns=(*columns, 'object_id'),
      types=(*found.types, '[t]') if found.types else (),
      rows=tuple(
        (*row, image)
        for row, image in zip(found.rows, found.column(_IMAGE), strict=True)
      ),
    )
  return found, [f'columns are read: {", ".join(notes)}']


def moved(
  named: Sequence[str], there: Iterable[str]
) -> Callable[[str], str] | None:
  """Finds the images of a list whose paths start elsewhere.

  Args:
    named: images as the list names them.
    there: names of all image files.

  Returns:
    A function from an image as named to the file that it means: below the one
    folder that holds most of the first images; or, where these have no folder
    and names of their own, anywhere. None if neither is so.
  """
  by_name: dict[str, list[str]] = {}
  for file in there:
    by_name.setdefault(posixpath.basename(file), []).append(file)
  first = [_parts(image) for image in named[:TRIED]]
  votes: collections.Counter[tuple[str, int]] = collections.Counter()
  for parts in first:
    for file in by_name.get(parts[-1], ()):
      other = file.split('/')
      same = len(posixpath.commonprefix([parts[::-1], other[::-1]]))
      votes['/'.join(other[: len(other) - same]), len(parts) - same] += 1
  most = [*votes.most_common(2), (('', 0), 0)]
  (folder, cut), count = most[0]
  if 2 * count > len(first) and count > most[1][1]:
    return lambda image: posixpath.join(folder, *_parts(image)[cut:])
  if all(parts[1:] == [] == by_name.get(parts[0], '')[1:] for parts in first):
    return lambda image: by_name.get(image, [image])[0]
  return None


def _parts(image: str) -> list[str]:
  return archives.tidy(image).split('/')


def _columns(found: Table, name: str) -> list[int]:
  """Finds the columns that EcoTaxa's may be meant by, by their names."""
  return [
    place
    for place, column in enumerate(found.columns)
    if _fold(column) in (name, *_NAMES[name])
  ]


def _of_images(found: Table) -> list[int]:
  """Finds columns most of whose cells end as names of images do."""

  def held(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell.strip()]
    return 2 * sum(map(_is_image, filled)) > len(filled)

  every: Iterator[Sequence[str]] = zip(*found.rows, strict=True)
  return [place for place, cells in enumerate(every) if held(cells)]


def _is_image(cell: str) -> bool:
  _, dot, ending = cell.strip().lower().rpartition('.')
  return dot + ending in images.EXTENSIONS


def _fold(column: str) -> str:
  """Writes a column's name with low lines in place of blanks and dots."""
  return re.sub(r'[\s.-]+', '_', column)
