"""What processes do with images; they import this, and not JAX, for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from plankton_jax.data.pixels import pictures


class Part(NamedTuple):
  """What became of some records."""

  columns: list[tuple[str, int, int, int]]  # (id, label, digest, row) of each
  skipped: list[tuple[str, str]]  # (id, reason)


def rows(
  records: Sequence[tuple[str, int, bytes]],
  part: range,
  *,
  file: Path,
  offset: int,
  size: int,
  resize: str,
  channels: int,
) -> Part:
  """Decodes and fits the records of some rows, into a file of all pixels.

  Digests are of the original pixels. All records are read before the first is
  decoded: in turns, each would clear the core's caches of the other's data.

  Args:
    records: (id, label, encoded image) of each row.
    part: rows that follow each other.
    file: of one length already, so that parts can be written in any order.
    offset: where row 0 begins, bytes; of skipped rows zeros are written.
    size: as `pictures.fit` takes it.
    resize: likewise.
    channels: likewise.
  """
  columns, pixels, skipped = [], [], []
  nothing = bytes(size * size * channels)
  read = records[part.start : part.stop]
  for row, (name, label, data) in zip(part, read, strict=True):
    pixels.append(nothing)
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
    pixels[-1] = fitted.tobytes()
  with open(file, 'r+b') as target:
    target.seek(offset + part.start * len(nothing))
    target.write(b''.join(pixels))
  return Part(columns, skipped)


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
