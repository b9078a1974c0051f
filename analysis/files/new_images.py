"""Gathers the images to predict, from wherever they are."""

import collections
import pathlib
import posixpath
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from analysis.files import folders, inputs, originals, samples
from analysis.files.inputs import Embeddings, Source
from analysis.files.originals import Read
from plankton_jax.data import select
from plankton_jax.data.sources import folder
from plankton_jax.data.sources.objects import Object, Objects
from plankton_jax.data.sources.source import NO_MEASURES, Measures
from plankton_jax.errors import InputError
from plankton_jax.files import home

if TYPE_CHECKING:  # JAX is imported only where something is embedded.
  from plankton_jax.encoder import Encoder


class NewImages(NamedTuple):
  """Images to predict: their embeddings, and what is known of each."""

  name: str  # of the place, for headings
  rows: Embeddings
  items: tuple[Object, ...]  # one for each row
  skipped: Sequence[tuple[str, str]]  # (name, reason)
  # reason -> number of objects left out for it without a name
  left_aside: Mapping[str, int] = types.MappingProxyType({})
  # By a row's id; None if only embeddings are given.
  picture: Read | None = None
  listed: tuple[Object, ...] = ()  # all that a table lists, predicted or not
  measures: Measures = NO_MEASURES  # of the rows, in their order, or none

  @property
  def exported(self) -> bool:
    """Tells whether EcoTaxa has these objects, or will by their own table."""
    return any(item.status for item in self.items)

  @property
  def total(self) -> int:
    """Counts all that was read, predicted or not."""
    return len(self.items) + len(self.skipped) + sum(self.left_aside.values())


def check(images: str | None, export: str | None) -> None:
  """Raises InputError unless --images and --export name one set of images."""
  if not images and not export:
    raise InputError(
      '--images is missing: the folder of images to label; or give --export'
    )
  if export and images and not _is_embedded(images):
    raise InputError(
      '--images and --export exclude each other, unless --images=FILE.npz holds'
      " the embeddings of the export's objects"
    )


def _is_embedded(images: str | None) -> bool:
  return images is not None and inputs.is_embedding_file(images)


def encoder_for(source: Source, images: str | None) -> 'Encoder | None':
  """Loads the run's encoder, unless `images` is an embedding file.

  Raises:
    InputError: the source has no encoder, or its checkpoint was deleted.
  """
  return None if _is_embedded(images) else folders.encoder(source)


def gather(
  encoder: 'Encoder | None',
  images: str | None,
  export: str | None,
  pixel_um: float | None = None,
) -> NewImages:
  """Gathers what --images and --export name; without an encoder, embeddings.

  Folders' names are not read as classes. `pixel_um` is the side of pixels, µm;
  None takes the source's, or the run's.

  Raises:
    InputError: nothing can be read.
  """
  if encoder is None:
    assert images is not None
    return from_files(images, export)
  return _embed(encoder, _list(encoder, images, export), pixel_um)


def gather_grouped(
  source: Source,
  images: str | None,
  export: str | None,
  by: str,
  pixel_um: float | None,
) -> tuple[NewImages, np.ndarray]:
  """Gathers images as `gather` does, and names the group [N] of each.

  Raises:
    InputError: nothing can be read, an image has no group, or the embeddings
      are not of the source's dimensions.
  """
  encoder = encoder_for(source, images)
  if encoder is None:
    new = gather(None, images, export)
  else:
    objects = _list(encoder, images, export)
    # An image without a group is told before embedding, which takes a while.
    samples.name_groups(objects.ids, by, objects.items)
    new = _embed(encoder, objects, pixel_um)
  splits = {'train': source.splits['train'], 'new images': new.rows}
  inputs.check_widths(source.name, splits)
  return new, samples.name_groups(new.rows.id.tolist(), by, new.items)


def _list(
  encoder: 'Encoder', images: str | None, export: str | None
) -> Objects:
  if export:
    return open_source(export, encoder.config['data']['image_rank'])
  assert images is not None
  return folder.objects(images, field='--images')


def _embed(
  encoder: 'Encoder', objects: Objects, pixel_um: float | None
) -> NewImages:
  found = folders.embed(encoder, objects, pixel_um=pixel_um, desc='predict')
  picture = originals.reader_of(objects, encoder, found.white)
  return _of_objects(objects, found.kept, found.rows, found.skipped, picture)


def from_files(embeddings: str, path: str | None) -> NewImages:
  """Takes embeddings of anyone's encoder, and the objects that they are of.

  Args:
    embeddings: an embedding file, whose labels are not read.
    path: what `--export` names, if there is more than embeddings. Its
      objects are found by the file's ids: the whole id of a record, such as
      sample/acquisition/object, or the object's own.

  Raises:
    InputError: a file cannot be read, or has none of the objects.
  """
  file = home.expand(embeddings)
  rows = inputs.read_embeddings(file)
  if not len(rows.id):
    raise InputError(f'{file}: no rows to predict')
  if path is None:
    items = _described_by_name(rows.id.tolist())
    return NewImages(file.stem, rows, items, [])
  objects = open_source(path, None)
  place = _places(objects, rows.id.tolist(), file)
  kept = [row for row, at in enumerate(place) if at >= 0]
  missing = [
    (objects.ids[row], f'not in {file.name}')
    for row, at in enumerate(place)
    if at < 0
  ]
  found = inputs.take(rows, np.array([place[row] for row in kept]))
  found = found._replace(id=np.array([objects.ids[row] for row in kept]))
  return _of_objects(objects, kept, found, [*objects.skipped, *missing], None)


def open_source(path: str, image_rank: str | int | None) -> Objects:
  """Opens what `--export` names; see `select.objects`."""
  return select.objects(path, image_rank or 'lowest', field='--export')


def object_ids(files: Sequence[str]) -> list[str]:
  """Strips the extensions of files; keeps those that make names unique."""
  stems = [posixpath.splitext(file)[0] for file in files]
  counts = collections.Counter(stems)
  return [
    stem if counts[stem] == 1 else file
    for stem, file in zip(stems, files, strict=True)
  ]


def _described_by_name(files: Sequence[str]) -> tuple[Object, ...]:
  return tuple(map(Object, object_ids(files), files))


def _of_objects(
  objects: Objects,
  kept: Sequence[int],
  rows: Embeddings,
  skipped: Sequence[tuple[str, str]],
  picture: Read | None,
) -> NewImages:
  """Takes the objects whose rows are `kept`, with their embeddings."""
  items = objects.items or _described_by_name(objects.ids)
  return NewImages(
    objects.name,
    rows,
    tuple(items[row] for row in kept),
    skipped,
    objects.left_aside,
    picture,
    objects.items,
    _take(objects.measures, kept),
  )


def _take(measures: Measures, rows: Sequence[int]) -> Measures:
  """Selects objects; of an export, measures are in the order of its objects."""
  if not measures.ids:
    return measures
  ids = tuple(measures.ids[row] for row in rows)
  return Measures(measures.names, ids, measures.values[list(rows)])


def _places(
  objects: Objects, ids: Sequence[str], file: pathlib.Path
) -> list[int]:
  """Finds each object's row among the ids of embeddings; -1 if it has none.

  Raises:
    InputError: two rows have one id, or no object is found.
  """
  if len(set(ids)) < len(ids):
    twice = collections.Counter(ids).most_common(1)[0][0]
    raise InputError(
      f'{file}: the id {twice} is there twice: give each image its own'
    )
  row = {id: at for at, id in enumerate(ids)}
  own = [item.object_id for item in objects.items] or object_ids(objects.ids)
  several = collections.Counter(own)
  found = [
    row.get(id, row.get(short, -1) if several[short] == 1 else -1)
    for id, short in zip(objects.ids, own, strict=True)
  ]
  if max(found, default=-1) < 0:
    raise InputError(
      f'{file}: none of its ids, such as {ids[0]}, is an object of'
      f' {objects.place}, such as {objects.ids[0] if objects.ids else "none"}'
    )
  return found
