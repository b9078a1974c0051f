"""Gathers the images to sort: new ones, splits of a run, or embedding files."""

from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from analysis.files import folders, inputs, new_images, originals
from analysis.files.inputs import Embeddings, Source
from analysis.files.originals import Read
from plankton_jax.data.sources import folder
from plankton_jax.data.sources.objects import Objects
from plankton_jax.errors import InputError

SPLITS = flags.DEFINE_list(
  'pile', ['unseen'], 'Splits to sort where there is no --images.'
)


class Pile(NamedTuple):
  """Images to sort, and a way to see them."""

  name: str
  rows: Embeddings  # label -1 where there is none
  read: Read | None  # None where only embeddings are there
  skipped: Sequence[tuple[str, str]]  # names and reasons
  notes: Sequence[str]


def open_place(
  source: Source, images: str | None, export: str | None
) -> Objects:
  """Opens the folder of --images, or what --export names.

  Raises:
    InputError: both are given, or it cannot be read.
  """
  if images and export:
    raise InputError('--images and --export exclude each other: give one')
  if not export:
    return folder.objects(images or '', field='--images')
  rank = (source.config or {}).get('data', {}).get('image_rank')
  return new_images.open_source(export, rank)


def gather(
  source: Source,
  *,
  images: str | None,
  export: str | None = None,
  splits: Sequence[str],
  pixel_um: float | None = None,
) -> Pile:
  """Gathers a folder or an export, or else the rows of some splits.

  Args:
    source: a run, an encoder, or embedding files, all rows of which are taken.
    images: a folder to embed.
    export: an EcoTaxa export, a table, IFCB bins or FlowCam runs to embed.
    splits: of the run, without `images` and `export`.
    pixel_um: the side of pixels of new images, µm; None takes the known.

  Raises:
    InputError: there is no such split, no image, images are asked of embedding
      files, or a size of pixels is given without images.
  """
  if pixel_um is not None and not (images or export):
    raise InputError('--pixel_um is of new images: give --images=FOLDER too')
  if images or export:
    listed = open_place(source, images, export)
    encoder = folders.encoder(source)
    found = folders.embed(encoder, listed, pixel_um=pixel_um)
    return Pile(
      listed.name,
      found.rows,
      originals.reader_of(listed, encoder, found.white),
      found.skipped,
      (),
    )
  if source.encoder is not None:
    raise InputError('--images is missing: the folder of images to sort')
  wanted = splits if source.workdir else list(source.splits)
  missing = [name for name in wanted if name not in source.splits]
  if missing:
    known = ', '.join(source.splits)
    raise InputError(
      f'{source.name} has no split {missing[0]!r}, only {known}; or give'
      ' --images=FOLDER'
    )
  rows = inputs.together(
    source.name, {name: source.splits[name] for name in wanted}
  )
  if not len(rows.id):
    raise InputError(
      f'{source.name}: {", ".join(wanted)} hold no image; name another split in'
      ' --pile'
    )
  notes = []
  read = None
  try:
    read = originals.reader(source)
  except InputError as error:
    notes.append(f'no pictures: {error}')
  name = f'{source.name}: {", ".join(wanted)}'
  return Pile(name, inputs.numbered(rows), read, (), notes)
