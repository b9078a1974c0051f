"""Embeds any folder of images, labelled or not."""

import pathlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.files import inputs
from analysis.files.inputs import Embeddings, Source
from plankton_jax.data.pixels import images
from plankton_jax.data.sources import folder, source
from plankton_jax.errors import InputError

if TYPE_CHECKING:  # JAX is imported only where something is embedded.
  from plankton_jax.encoder import Encoder

BLOCK = 1024  # images decoded at a time, before they are embedded and freed


class Embedded(NamedTuple):
  """The embeddings of a folder, and the files that could not be read."""

  root: pathlib.Path
  rows: Embeddings  # ids are paths below the root; -1 labels in the root itself
  skipped: list[tuple[str, str]]  # name, reason


def encoder(source: Source) -> 'Encoder':
  """Loads the encoder that made a workdir's embeddings, or the source's own.

  Raises:
    InputError: there is no train split, or its checkpoint was deleted.
  """
  from plankton_jax import checkpoints

  if source.encoder is not None:
    return checkpoints.load_encoder(source.encoder)
  assert source.workdir is not None
  remedy = f'run python -m analysis.embed --workdir={source.workdir}'
  if 'train' not in source.splits:
    raise InputError(f'{source.workdir}: no train embeddings; {remedy}')
  try:
    return checkpoints.load_encoder(source.workdir, inputs.step(source))
  except InputError as error:
    raise InputError(f'{error}; {remedy}') from None


def embed(
  encoder: 'Encoder', listing: folder.Listing, *, desc: str = 'embed'
) -> Embedded:
  """Embeds every readable image of a listing; names the others on stderr.

  Works on a block of images at a time, so that memory holds only embeddings.

  Raises:
    InputError: none can be read.
  """
  fields = _fields(encoder)
  shape = (BLOCK, fields['size'], fields['size'], fields['channels'])
  dim = encoder.config['encoder']['embedding_dim']
  embedding = np.empty((len(listing.ids), dim), np.float32)
  block, filled, done = np.empty(shape, np.uint8), 0, 0
  kept: list[int] = []
  skipped = list(listing.skipped)
  decoded = folder.decoded(listing, **fields, **_decoding(encoder), desc=desc)
  for row, pixels in enumerate(decoded):
    if isinstance(pixels, str):
      skipped.append((listing.ids[row], pixels))
    else:
      block[filled] = pixels
      filled += 1
      kept.append(row)
    if filled == BLOCK or (filled and row == len(listing.ids) - 1):
      embedding[done : done + filled] = encoder.embed(block[:filled])
      done, filled = done + filled, 0
  for name, reason in skipped:
    print(f'skipped {name}: {reason}', file=sys.stderr)
  if not kept:
    raise source.none_readable(listing.root, skipped)
  rows = Embeddings(
    embedding[:done],
    listing.labels[kept],
    np.array([listing.ids[row] for row in kept]),
    listing.class_names,
  )
  return Embedded(listing.root, rows, skipped)


def collect(
  source: Source, encoder: 'Encoder', listing: folder.Listing, split: str
) -> Source:
  """Embeds a folder as the images of an encoder's source; names its split.

  Raises:
    InputError: no image can be read.
  """
  found = embed(encoder, listing, desc=split)
  return source._replace(splits={split: found.rows}, images=found.root)


def embed_one(encoder: 'Encoder', pixels: np.ndarray) -> np.ndarray:
  """Embeds an image, uint8 [H, W] or [H, W, 3], to [D]."""
  return encoder.embed(images.fit(pixels, **_fields(encoder))[None])[0]


def _fields(encoder: 'Encoder') -> dict[str, Any]:
  data = encoder.config['data']
  return {name: data[name] for name in ('size', 'resize', 'channels')}


def _decoding(encoder: 'Encoder') -> dict[str, Any]:
  data = encoder.config['data']
  return {
    'white': data.get('white', 65535),  # of configs that name none
    'crop': data.get('crop', images.NO_CROP),
  }


def read(path: pathlib.Path, encoder: 'Encoder | None' = None) -> np.ndarray:
  """Reads one image file, uint8 [H, W] or [H, W, 3].

  It is scaled and cropped as the images of `encoder` are, if one is given.

  Raises:
    InputError: it cannot be read.
  """
  try:
    fields = _decoding(encoder) if encoder else {}
    return images.decode(path.read_bytes(), **fields)
  except (OSError, ValueError) as error:
    raise InputError(f'{path}: {folder.describe(error)}') from None
