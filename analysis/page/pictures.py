"""Packs small pictures of many images on a few sheets."""

import base64
import io
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from analysis.files import originals
from analysis.files.inputs import Source
from plankton_jax.data import workers
from plankton_jax.errors import InputError

TILE = 96  # px, side of a picture
ACROSS = 16  # pictures along either side of a sheet
QUALITY = 70  # of WebP
EFFORT = 2  # of WebP: 4 takes twice as long for 6 % fewer bytes

Key = TypeVar('Key')


def sheets(
  ids: Sequence[Key], read: Callable[[Key], np.ndarray]
) -> list[bytes]:
  """Makes WebP sheets with a picture of each id in order, row by row.

  Scales an image to fit its square; the rest is white. Reads in threads.
  """
  pages = []
  each = ACROSS * ACROSS
  made = workers.in_order(lambda key: fit(read(key)), ids, desc='pictures')
  for _ in range(0, len(ids), each):
    # Always full-sized, so that the page finds every picture by its share.
    page = Image.new('RGB', (ACROSS * TILE, ACROSS * TILE), 'white')
    for place, picture in enumerate(itertools.islice(made, each)):
      row, column = divmod(place, ACROSS)
      x = column * TILE + (TILE - picture.width) // 2
      y = row * TILE + (TILE - picture.height) // 2
      page.paste(picture, (x, y))
    held = io.BytesIO()
    page.save(held, 'WEBP', quality=QUALITY, method=EFFORT)
    pages.append(held.getvalue())
  return pages


def payload(pages: Sequence[bytes]) -> dict[str, Any]:
  """Packs sheets for the JSON that pictures.js reads."""
  encoded = [base64.b64encode(page).decode() for page in pages]
  return {'across': ACROSS, 'sheets': encoded}


def fit(image: np.ndarray) -> Image.Image:
  """Scales an image, uint8 [H, W] or [H, W, 3], to a longer side of TILE px."""
  picture = Image.fromarray(image).convert('RGB')
  scale = TILE / max(picture.size)
  size = [max(1, round(side * scale)) for side in picture.size]
  return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def collect(
  sources: Sequence[Source], wanted: Sequence[Sequence[str]]
) -> tuple[list[bytes], list[dict[str, int]], list[str]]:
  """Collects pictures of the ids that each source needs, on sheets.

  Sources of the same data share their pictures.

  Returns:
    The sheets, each source's places of pictures by id (empty without images),
    and notes.
  """
  pages: list[bytes] = []
  known: list[dict[str, int]] = []
  notes = []
  for i, source in enumerate(sources):
    twin = next((j for j in range(i) if _same_data(sources[j], source)), None)
    shared = {} if twin is None else known[twin]
    known.append(dict(shared))
    ids = [key for key in dict.fromkeys(wanted[i]) if key not in shared]
    try:
      found = sheets(ids, originals.reader(source)) if ids else []
    except InputError as error:
      notes.append(str(error))
      continue
    first = len(pages) * ACROSS**2
    known[i] |= {key: first + place for place, key in enumerate(ids)}
    pages += found
  return pages, known, notes


def _same_data(a: Source, b: Source) -> bool:
  fields = ('seed', 'data')
  return (
    a.config is not None
    and b.config is not None
    and all(a.config[field] == b.config[field] for field in fields)
  )
