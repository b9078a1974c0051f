"""Makes small pictures once, in one file, to be read by their number."""

import hashlib
import io
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from analysis.page import pictures
from plankton_jax.data import workers
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

QUALITY = 75  # of JPEG, which is decoded faster than WebP


class Thumbnails(NamedTuple):
  """Encoded pictures, one after the other."""

  data: np.ndarray  # [bytes] uint8, mapped from a file
  ends: np.ndarray  # [N + 1] where each begins, and the last ends

  def of(self, row: int) -> bytes:
    """Returns the JPEG of one row."""
    return self.data[self.ends[row] : self.ends[row + 1]].tobytes()


def collect(
  folder: pathlib.Path,
  ids: Sequence[str],
  read: Callable[[str], np.ndarray],
  *,
  before: int = 0,
) -> Thumbnails:
  """Reads the pictures of a folder, made first where they are missing.

  Pictures of other ids have another name. Those of the first `before` ids, if
  they are there, are taken over, and their file is removed.
  """
  path = _file(folder, ids)
  if not path.exists():
    old = _file(folder, ids[:before])
    known = _read(old) if before and old.exists() else None
    kept = [] if known is None else map(known.of, range(before))
    made = workers.in_order(
      lambda key: encoded(read, key),
      list(ids if known is None else ids[before:]),
      desc='thumbnails',
    )
    write(path, itertools.chain(kept, made))
    if known is not None:
      old.unlink()
      old.with_suffix('.bin').unlink()
  return _read(path)


def _file(folder: pathlib.Path, ids: Sequence[str]) -> pathlib.Path:
  digest = hashlib.blake2b('\0'.join(ids).encode(), digest_size=8).hexdigest()
  return folder / f'thumbnails-{digest}.npz'


def _read(path: pathlib.Path) -> Thumbnails:
  with np.load(path, allow_pickle=False) as arrays:
    ends = arrays['ends']
  return Thumbnails(np.memmap(path.with_suffix('.bin'), np.uint8, 'r'), ends)


def write(path: pathlib.Path, made: Iterable[bytes]) -> None:
  """Writes pictures beside an index, which appears when all are there."""
  path.parent.mkdir(parents=True, exist_ok=True)
  sizes = []

  def noted() -> Iterator[bytes]:
    for one in made:
      sizes.append(len(one))
      yield one

  with (
    atomic.file(path.with_suffix('.bin')) as building,
    building.open('wb') as file,
  ):
    file.writelines(noted())
  with atomic.file(path) as building, building.open('wb') as file:
    np.savez(file, ends=np.cumsum([0, *sizes]))


def encoded(read: Callable[[str], np.ndarray], key: str) -> bytes:
  """Encodes the small picture of one image; a grey one if it is unreadable."""
  try:
    picture = pictures.fit(read(key))
  except InputError:
    picture = Image.new('L', (pictures.TILE, pictures.TILE), 200)
  held = io.BytesIO()
  picture.save(held, 'JPEG', quality=QUALITY)
  return held.getvalue()
