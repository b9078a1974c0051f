"""Embeds any folder of images, or the objects of any source."""

import glob
import hashlib
import pathlib
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from analysis.files import inputs, originals
from analysis.files.inputs import Embeddings, Source
from plankton_jax.data.pixels import images
from plankton_jax.data.sources import objects, source
from plankton_jax.data.sources.files import walk
from plankton_jax.data.sources.objects import Objects
from plankton_jax.errors import InputError

if TYPE_CHECKING:  # JAX is imported only where something is embedded.
  from plankton_jax.encoder import Encoder

BLOCK = 1024  # images decoded at a time, before they are embedded and freed


def stamp(found: Objects) -> str:
  """Digests size and time of the files that hold some images.

  An export or bins count as a whole, with all files at their place.
  """
  if found.root is not None:
    files = [found.root / name for name in found.ids]
  else:
    place = pathlib.Path(found.place)
    if place.is_dir():
      files = [*walk(place)]
    else:  # an archive, or one of the files of a bin
      files = sorted(place.parent.glob(f'{glob.escape(place.stem)}.*'))
  state = hashlib.blake2b(digest_size=16)
  for file in files:
    try:
      status = file.stat()
      state.update(f'{status.st_size} {status.st_mtime_ns}\n'.encode())
    except OSError:  # It is named when it cannot be read.
      state.update(b'missing\n')
  return state.hexdigest()


class Embedded(NamedTuple):
  """The embeddings of N images, and those that could not be read."""

  of: Objects  # all of them
  rows: Embeddings  # label -1 where there is none
  skipped: list[tuple[str, str]]  # name, reason
  white: int = 0  # the 16-bit value that became white
  # [N] each: height and width, px; pixel_um and others where they are known
  measures: Mapping[str, np.ndarray] = types.MappingProxyType({})
  kept: Sequence[int] = ()  # [N] their rows in what was to be embedded


def encoder(source: Source) -> 'Encoder':
  """Loads the encoder that made a workdir's embeddings, or the source's own.

  Raises:
    InputError: there is no encoder, no train split, or its checkpoint was
      deleted.
  """
  if source.workdir is None and source.encoder is None:
    raise InputError(
      'images are embedded by an encoder: give --workdir or --encoder=plankton'
      ' in place of --embeddings, or the images to predict as'
      ' --images=FILE.npz, of the same encoder'
    )
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
  encoder: 'Encoder',
  found: Objects,
  *,
  pixel_um: float | None = None,
  desc: str = 'embed',
  white: int = 0,
  some: bool = True,
) -> Embedded:
  """Embeds every readable image; names the others on stderr.

  Works on a block of images at a time, so that memory holds only embeddings.

  Args:
    encoder: the encoder.
    found: the images.
    pixel_um: the side of their pixels, µm; None takes the source's, or else the
      run's.
    desc: of the progress bar.
    white: of the whole set, as `find_white` finds it; 0 finds it here.
    some: whether one image must be readable at least.

  Raises:
    InputError: none can be read.
  """
  if not found.ids and not found.skipped:
    raise InputError(f'{found.place} holds no object that can be read')
  white = white or find_white(encoder, found)
  settings = originals.preprocessing(encoder)._replace(white=white)
  decoded = objects.decoded(found, settings, desc=desc)
  known = found.measures.of(found.ids)
  made = _embed(encoder, found.ids, decoded, known, pixel_um)
  skipped = [*found.skipped, *made.unread]
  _name_skipped(found.place, skipped, bool(made.kept) or not some)
  rows = Embeddings(
    made.embedding,
    found.labels[made.kept],
    np.array([found.ids[row] for row in made.kept]),
    found.class_names,
  )
  return Embedded(found, rows, skipped, white, made.measures, made.kept)


class _Found(NamedTuple):
  """The K readable images of some."""

  embedding: np.ndarray  # [K, D]
  kept: list[int]  # their rows
  unread: list[tuple[str, str]]  # (id, reason) of the others
  measures: dict[str, np.ndarray]  # [K] each


def _embed(
  encoder: 'Encoder',
  ids: Sequence[str],
  decoded: Iterator[images.Fitted | str],
  known: Mapping[str, np.ndarray],
  pixel_um: float | None,
) -> _Found:
  """Embeds decoded images by blocks.

  Args:
    encoder: the encoder.
    ids: of all N images.
    decoded: each of them, or why it cannot be read.
    known: measures [N] by name.
    pixel_um: the side of their pixels, µm; None takes the known, or the run's.
  """
  data = encoder.config['data']
  shape = (BLOCK, data['size'], data['size'], data['channels'])
  dim = encoder.config['encoder']['embedding_dim']
  embedding = np.empty((len(ids), dim), np.float32)
  block, filled, done = np.empty(shape, np.uint8), 0, 0
  kept: list[int] = []
  unread = []
  measures = _with_pixel(encoder, known, pixel_um, len(ids))
  measures |= {side: np.full(len(ids), np.nan) for side in ('height', 'width')}
  for row, one in enumerate(decoded):
    if isinstance(one, str):
      unread.append((ids[row], one))
    else:
      block[filled] = one.pixels
      measures['height'][row], measures['width'][row] = one.height, one.width
      filled += 1
      kept.append(row)
    if filled == BLOCK or (filled and row == len(ids) - 1):
      own = {name: x[kept[done:]] for name, x in measures.items()}
      found = encoder.embed(block[:filled], measures=own)
      embedding[done : done + filled] = found
      done, filled = done + filled, 0
  kept_measures = {name: x[kept] for name, x in measures.items()}
  return _Found(embedding[:done], kept, unread, kept_measures)


def _with_pixel(
  encoder: 'Encoder',
  known: Mapping[str, np.ndarray],
  pixel_um: float | None,
  count: int,
) -> dict[str, np.ndarray]:
  """Completes measures [N] by the side of a pixel, as far as it is known.

  Says on stderr if the encoder will miss it.

  Raises:
    InputError: `pixel_um` is not positive.
  """
  if pixel_um is not None and not 0 < pixel_um < np.inf:
    raise InputError(f'--pixel_um={pixel_um} must be positive')
  pixel = np.full(count, pixel_um or np.nan)
  if pixel_um is None:
    ours = encoder.config['data']['pixel_um'] or np.nan
    pixel = known.get('pixel_um', pixel)
    pixel = np.where(np.isnan(pixel), ours, pixel)
  missing = int(np.isnan(pixel).sum())
  if encoder.size_unit == 'µm' and missing:
    print(
      f'the encoder takes sizes in µm, but {missing:,} of {count:,} images have'
      ' no pixel size: it embeds them as of unknown size; give --pixel_um',
      file=sys.stderr,
    )
  return {**known, 'pixel_um': pixel}


def _name_skipped(
  place: str, skipped: list[tuple[str, str]], enough: bool
) -> None:
  """Names what is skipped on stderr; raises InputError if that is all."""
  for name, reason in skipped:
    print(f'skipped {source.one_line(name)}: {reason}', file=sys.stderr)
  if not enough:
    raise source.none_readable(place, skipped)


def embed_one(
  encoder: 'Encoder', pixels: np.ndarray, pixel_um: float | None = None
) -> np.ndarray:
  """Embeds an image, uint8 [H, W] or [H, W, 3], to [D]; see `embed`."""
  measures = _with_pixel(encoder, {}, pixel_um, 1)
  size, resize, channels, *_ = originals.preprocessing(encoder)
  fitted = images.fit(pixels, size=size, resize=resize, channels=channels)
  sizes = np.array([pixels.shape[:2]])
  return encoder.embed(fitted[None], sizes, measures=measures)[0]


def find_white(encoder: 'Encoder', found: Objects) -> int:
  """Finds the white of 16-bit images: the run's, or by all of them."""
  return encoder.config['data']['white'] or objects.find_white(found)
