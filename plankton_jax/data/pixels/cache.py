"""The decoded cache: every readable image at one size, memory-mapped."""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from plankton_jax import atomic
from plankton_jax.data.pixels import decoding, images, processes
from plankton_jax.errors import InputError

_ARRAYS = ('images', 'labels', 'ids', 'digests', 'rows')


class Cache(NamedTuple):
  """The N readable images of a source, in its order."""

  images: np.ndarray  # uint8 [N, size, size, C], memory-mapped
  labels: np.ndarray  # int32 [N], in the source's order of classes
  ids: np.ndarray  # str [N]
  digests: np.ndarray  # uint64 [N], of the original pixels
  rows: np.ndarray  # int64 [N], the record each came from
  skipped: tuple[tuple[str, str], ...]  # (name, reason)


def key(fingerprint: str, *, size: int, resize: str, channels: int) -> str:
  """Directory name: different for any content, setting or decoding code."""
  settings = (fingerprint, size, resize, channels, images.VERSION)
  return hashlib.blake2b(repr(settings).encode(), digest_size=16).hexdigest()


def build(
  directory: Path,
  records: Sequence,
  skipped: Sequence[tuple[str, str]],
  *,
  size: int,
  resize: str,
  channels: int,
) -> None:
  """Decodes all records on all cores into a new directory.

  `skipped`, (name, reason), is what the records left out already.

  Raises:
    InputError: no image is readable, or two have one id.
  """
  kept, skipped = [], list(skipped)
  with atomic.directory(directory) as building:
    pixels = building / 'images.npy'
    shape = (len(records), size, size, channels)
    offset = np.lib.format.open_memmap(pixels, 'w+', np.uint8, shape).offset
    # Processes write the pixels themselves: through pipes they cost more.
    decode = functools.partial(
      decoding.rows,
      records,
      file=pixels,
      offset=offset,
      size=size,
      resize=resize,
      channels=channels,
    )
    for part in processes.in_parts(decode, range(len(records)), desc='decode'):
      kept += part.columns
      skipped += part.skipped
    if not kept:
      name, reason = skipped[0]
      raise InputError(
        f'none of the {len(skipped)} images can be read, '
        f'the first being {name}: {reason}'
      )
    ids, labels, digests, rows = zip(*kept, strict=True)
    if len(set(ids)) < len(ids):
      raise InputError('the ids of the data set are not unique')
    _keep(pixels, rows)
    np.save(building / 'ids.npy', np.array(ids))
    np.save(building / 'labels.npy', np.array(labels, np.int32))
    np.save(building / 'digests.npy', np.array(digests, np.uint64))
    np.save(building / 'rows.npy', np.array(rows, np.int64))
    (building / 'skipped.json').write_text(json.dumps(skipped))


def read(directory: Path) -> Cache:
  """Maps what `build` built."""
  arrays = [np.load(directory / f'{a}.npy', mmap_mode='r') for a in _ARRAYS]
  skipped = json.loads((directory / 'skipped.json').read_text())
  return Cache(*arrays, tuple((name, reason) for name, reason in skipped))


def _keep(path: Path, rows: Sequence[int]) -> None:
  """Moves the rows, in ascending order, to the front, and ends the file there.

  A few at a time, as memory may not hold them all.
  """
  images = np.lib.format.open_memmap(path, 'r+')
  if len(rows) == len(images):
    return
  for start in range(0, len(rows), 1024):
    some = list(rows[start : start + 1024])
    images[start : start + len(some)] = images[some]
  os.truncate(path, images.offset + images[: len(rows)].nbytes)
  with open(path, 'r+b') as file:  # The header has one length whatever N.
    header = {
      'descr': '|u1',
      'fortran_order': False,
      'shape': (len(rows), *images.shape[1:]),
    }
    np.lib.format.write_array_header_1_0(file, header)
