"""Made-up images to review, with thumbnails, for the tests of the review."""

import io

import numpy as np
from PIL import Image

from analysis.files import taxa
from analysis.review import refit
from analysis.review.prepare import Images
from analysis.review.refit import Known
from analysis.review.session import Session
from analysis.review.store import Store
from analysis.review.thumbnails import Thumbnails
from plankton_jax.data.sources.objects import Object

DIM = 6


def jpeg(level: int) -> bytes:
  """Encodes a small picture of one grey level."""
  held = io.BytesIO()
  Image.new('L', (24, 16), level).save(held, 'JPEG')
  return held.getvalue()


def make(count=12, *, groups=3, seed=0) -> Images:
  """Images of groups about the axes; classes ant and bee are the first two."""
  rng = np.random.default_rng(seed)
  group = np.arange(count) % groups
  rows = np.eye(DIM)[group] + 0.05 * rng.normal(size=(count, DIM))
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  rows = rows.astype(np.float32)
  # Of the same group, but for the last ones.
  near = (np.arange(count)[:, None] + groups * np.arange(1, 6)) % count
  shades = [jpeg(40 + 60 * g) for g in range(3)]
  sizes = [len(shades[g % 3]) for g in group]
  data = np.frombuffer(
    b''.join(shades[g % 3] for g in group) if count < 10_000 else shades[0],
    np.uint8,
  )
  ends = np.cumsum([0, *sizes])
  axes = np.eye(DIM, dtype=np.float32)
  return Images(
    'night haul',
    [f'{i:06}.png' for i in range(count)],
    rows,
    rows,
    group,
    np.ones(count),
    refit.link(rows, near),
    Known(('ant', 'bee'), np.eye(2, DIM), np.array([9, 9]), 0.2, axes),
    Thumbnails(data, ends),
    lambda key: np.full((16, 24), 90, np.uint8),
    None,
    tuple(Object(f'{i:06}', f'{i:06}.png') for i in range(count)),
    taxa.NONE,
    'plankton_jax 1.0, a run step 9',
  )


def session(folder, images=None) -> Session:
  """Opens a review of the images in a folder."""
  images = images or make()
  log = Store(folder / 'review.sqlite', images.ids, images.group)
  return Session(images, log)
