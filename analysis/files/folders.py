"""Embeds any folder of images, or the objects of any source."""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from analysis.files import inputs
from analysis.files.inputs import Embeddings, Source
from plankton_jax.data.pixels import images
from plankton_jax.data.sources import folder, objects, source
from plankton_jax.data.sources.objects import Objects
from plankton_jax.errors import InputError

if TYPE_CHECKING:  # JAX is imported only where something is embedded.
  from plankton_jax.encoder import Encoder

BLOCK = 1024  # images decoded at a time, before they are embedded and freed


class Embedded(NamedTuple):
  """The embeddings of a folder, and the files that could not be read."""

  root: pathlib.Path
  rows: Embeddings  # ids are paths below the root; -1 labels in the root itself
  skipped: list[tuple[str, str]]  # name, reason
  white: int = 0  # the 16-bit value that became white


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
  white = _white(encoder) or folder.find_white(listing)
  decoded = folder.decoded(
    listing, **_fields(encoder), white=white, crop=_crop(encoder), desc=desc
  )
  embedding, kept, unread = _embed(encoder, listing.ids, decoded)
  skipped = _name_skipped(listing.root, [*listing.skipped, *unread], kept)
  rows = Embeddings(
    embedding,
    listing.labels[kept],
    np.array([listing.ids[row] for row in kept]),
    listing.class_names,
  )
  return Embedded(listing.root, rows, skipped, white)


def embed_objects(
  encoder: 'Encoder', found: Objects, *, desc: str = 'embed'
) -> tuple[Embedded, list[int]]:
  """Embeds every readable object as `embed` does; returns which rows those are.

  Rows have no label, as no class is asked for.

  Raises:
    InputError: none can be read.
  """
  place = pathlib.Path(found.place)
  if not found.ids:
    raise InputError(f'{place} holds no object that can be read')
  white = _white(encoder) or objects.find_white(found)
  decoded = objects.decoded(
    found, **_fields(encoder), white=white, crop=_crop(encoder), desc=desc
  )
  embedding, kept, unread = _embed(encoder, found.ids, decoded)
  skipped = _name_skipped(place, [*found.skipped, *unread], kept)
  rows = Embeddings(
    embedding,
    np.full(len(kept), -1, np.int32),
    np.array([found.ids[row] for row in kept]),
    (),
  )
  return Embedded(place, rows, skipped, white), kept


def _embed(
  encoder: 'Encoder',
  ids: Sequence[str],
  decoded: Iterator[np.ndarray | str],
) -> tuple[np.ndarray, list[int], list[tuple[str, str]]]:
  """Embeds decoded images by blocks.

  Returns:
    Embeddings [K, D], which of the ids they are, and (id, reason) of the rest.
  """
  fields = _fields(encoder)
  shape = (BLOCK, fields['size'], fields['size'], fields['channels'])
  dim = encoder.config['encoder']['embedding_dim']
  embedding = np.empty((len(ids), dim), np.float32)
  block, filled, done = np.empty(shape, np.uint8), 0, 0
  kept: list[int] = []
  unread = []
  for row, pixels in enumerate(decoded):
    if isinstance(pixels, str):
      unread.append((ids[row], pixels))
    else:
      block[filled] = pixels
      filled += 1
      kept.append(row)
    if filled == BLOCK or (filled and row == len(ids) - 1):
      embedding[done : done + filled] = encoder.embed(block[:filled])
      done, filled = done + filled, 0
  return embedding[:done], kept, unread


def _name_skipped(
  place: pathlib.Path, skipped: list[tuple[str, str]], kept: Sequence[int]
) -> list[tuple[str, str]]:
  """Names what is skipped on stderr; raises InputError if that is all."""
  for name, reason in skipped:
    print(f'skipped {source.one_line(name)}: {reason}', file=sys.stderr)
  if not kept:
    raise source.none_readable(place, skipped)
  return skipped


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


def _white(encoder: 'Encoder') -> int:
  return encoder.config['data'].get('white', 65535)  # of configs without one


def _crop(encoder: 'Encoder') -> Sequence[int]:
  return encoder.config['data'].get('crop', images.NO_CROP)


def read(
  path: pathlib.Path, encoder: 'Encoder | None' = None, white: int = 0
) -> np.ndarray:
  """Reads one image file, uint8 [H, W] or [H, W, 3].

  It is scaled and cropped as the images of `encoder` are, if one is given.
  `white` is that of a set of images, where the encoder's config names none.

  Raises:
    InputError: it cannot be read.
  """
  try:
    return decode(path.read_bytes(), encoder, white)
  except (OSError, ValueError) as error:
    raise InputError(f'{path}: {folder.describe(error)}') from None


def decode(
  data: bytes, encoder: 'Encoder | None' = None, white: int = 0
) -> np.ndarray:
  """Decodes a file's bytes as `read` does.

  Raises:
    ValueError: they are no image that can be read.
  """
  if encoder is None:
    return images.decode(data, white)
  return images.decode(data, _white(encoder) or white, _crop(encoder))
