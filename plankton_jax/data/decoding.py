"""What processes do with images; they import this, and not JAX, for it."""

from collections.abc import Sequence
from typing import NamedTuple

from plankton_jax.data import pictures


class Part(NamedTuple):
  """What became of some records."""

  columns: list[tuple[str, int, int, int]]  # (id, label, digest, row) of each
  pixels: bytes  # of the images of `columns`, one after the other
  skipped: list[tuple[str, str]]  # (id, reason)


def rows(
  records: Sequence[tuple[str, int, bytes]],
  part: Sequence[int],
  *,
  size: int,
  resize: str,
  channels: int,
) -> Part:
  """Decodes and fits the records of some rows.

  Digests are of the original pixels. All records are read before the first is
  decoded: in turns, each would clear the core's caches of the other's data.
  """
  columns, pixels, skipped = [], [], []
  for row, (name, label, data) in [(row, records[row]) for row in part]:
    if label < 0:
      skipped.append((name, 'no label'))
      continue
    try:
      picture = pictures.decode(data)
    except ValueError as error:
      skipped.append((name, str(error)))
      continue
    fitted = pictures.fit(picture, size=size, resize=resize, channels=channels)
    columns.append((name, label, pictures.digest(picture), row))
    pixels.append(fitted.tobytes())
  return Part(columns, b''.join(pixels), skipped)


def fitted(
  data: bytes, *, size: int, resize: str, channels: int
) -> bytes | str:
  """Fitted pixels of an image, or why there are none."""
  try:
    picture = pictures.decode(data)
  except ValueError as error:
    return str(error)
  settings = {'size': size, 'resize': resize, 'channels': channels}
  return pictures.fit(picture, **settings).tobytes()
