"""Caches every readable image decoded, at one size, memory-mapped."""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plankton_jax.data import workers
from plankton_jax.data.pixels import bars, images
from plankton_jax.data.pixels.images import Preprocessing
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

_ARRAYS = ('images', 'labels', 'ids', 'digests', 'rows', 'sizes')


class Cache(NamedTuple):
  """The N readable images of a source, in its order."""

  images: np.ndarray  # uint8 [N, size, size, C], memory-mapped
  labels: np.ndarray  # int32 [N], in the source's order of classes
  ids: np.ndarray  # str [N]
  digests: np.ndarray  # uint64 [N], of the original pixels
  rows: np.ndarray  # int64 [N], the record each came from
  sizes: np.ndarray  # int32 [N, 2], height and width before resizing, px
  skipped: tuple[tuple[str, str], ...]  # (name, reason)
  white: int  # the 16-bit value that became 255
  bars: int  # rows at the bottom that most images share


class _Part(NamedTuple):
  """The outcome of decoding some records."""

  # (id, label, digest, row, (height, width)) of each
  columns: list[tuple[str, int, int, int, tuple[int, int]]]
  skipped: list[tuple[str, str]]  # (id, reason)
  bottoms: list[list[int]]  # of the set's first images, as `bars` hashes them


def key(fingerprint: str, settings: Preprocessing) -> str:
  """Names a cache's folder: one for each content, settings and version."""
  named = (fingerprint, *settings, images.VERSION)
  return hashlib.blake2b(repr(named).encode(), digest_size=16).hexdigest()


def build(
  directory: Path,
  records: Sequence,
  skipped: Sequence[tuple[str, str]],
  settings: Preprocessing,
) -> None:
  """Decodes all records on all cores into a new directory.

  `skipped` lists (name, reason) of what the records already left out.

  Raises:
    InputError: no image is readable, or two have the same id.
  """
  kept, skipped, bottoms = [], list(skipped), []
  with atomic.directory(directory) as building:
    pixels = building / 'images.npy'
    side = settings.size
    shape = (len(records), side, side, settings.channels)
    offset = np.lib.format.open_memmap(pixels, 'w+', np.uint8, shape).offset
    # Processes write the pixels themselves: sending them by pipes costs more.
    decode = functools.partial(
      _decode, records, file=pixels, offset=offset, settings=settings
    )
    rows = range(len(records))
    for part in workers.in_parts(decode, rows, desc='decode', processes=True):
      kept += part.columns
      skipped += part.skipped
      bottoms += part.bottoms
    if not kept:
      name, reason = skipped[0]
      raise InputError(
        f'none of the {len(skipped)} images can be read, '
        f'the first being {name}: {reason}'
      )
    ids, labels, digests, origins, sizes = zip(*kept, strict=True)
    if len(set(ids)) < len(ids):
      raise InputError('the ids of the data set are not unique')
    _keep(pixels, origins)
    np.save(building / 'ids.npy', np.array(ids))
    np.save(building / 'labels.npy', np.array(labels, np.int32))
    np.save(building / 'digests.npy', np.array(digests, np.uint64))
    np.save(building / 'rows.npy', np.array(origins, np.int64))
    np.save(building / 'sizes.npy', np.array(sizes, np.int32))
    (building / 'skipped.json').write_text(json.dumps(skipped))
    facts = {'white': settings.white, 'bars': bars.find(bottoms)}
    (building / 'facts.json').write_text(json.dumps(facts))


def read(directory: Path) -> Cache:
  """Maps the arrays that `build` wrote."""
  arrays = {
    name: np.load(directory / f'{name}.npy', mmap_mode='r') for name in _ARRAYS
  }
  skipped = json.loads((directory / 'skipped.json').read_text())
  return Cache(
    **arrays,
    skipped=tuple((name, why) for name, why in skipped),
    **json.loads((directory / 'facts.json').read_text()),
  )


def _decode(
  records: Sequence,
  part: range,
  *,
  file: Path,
  offset: int,
  settings: Preprocessing,
) -> _Part:
  """Decodes and fits the records of some rows, into a file of all pixels.

  Runs in processes, which must not import JAX. Digests are of the original
  pixels. Reads all records before it decodes the first: alternating, each would
  evict the other's data from the core's caches.

  Args:
    records: of (id, label, encoded image).
    part: rows that follow each other.
    file: already as long as all pixels, so that parts may come in any order.
    offset: of row 0, bytes; skipped rows become zeros.
    settings: of all.
  """
  columns, pixels, skipped, bottoms = [], [], [], []
  nothing = bytes(settings.size**2 * settings.channels)
  read = records[part.start : part.stop]
  for row, (name, label, data) in zip(part, read, strict=True):
    pixels.append(nothing)
    if label < 0:
      skipped.append((name, 'no label'))
      continue
    try:
      picture, fitted = settings.apply(data)
    except ValueError as error:
      skipped.append((name, str(error)))
      continue
    size_of = picture.image.height, picture.image.width
    columns.append((name, label, picture.digest(), row, size_of))
    pixels[-1] = fitted.tobytes()
    if row < bars.SAMPLE:
      bottoms.append(bars.bottom(np.asarray(picture.image)))
  with open(file, 'r+b') as target:
    target.seek(offset + part.start * len(nothing))
    target.write(b''.join(pixels))
  return _Part(columns, skipped, bottoms)


def _keep(path: Path, rows: Sequence[int]) -> None:
  """Moves rows, in ascending order, to the front and truncates the file.

  Moves a few at a time, as memory may not hold them all.
  """
  images = np.lib.format.open_memmap(path, 'r+')
  if len(rows) == len(images):
    return
  for start in range(0, len(rows), 1024):
    some = list(rows[start : start + 1024])
    images[start : start + len(some)] = images[some]
  os.truncate(path, images.offset + images[: len(rows)].nbytes)
  with open(path, 'r+b') as file:  # The header has the same length for any N.
    header = {
      'descr': '|u1',
      'fortran_order': False,
      'shape': (len(rows), *images.shape[1:]),
    }
    np.lib.format.write_array_header_1_0(file, header)
