"""Finds rows that most images of a set share: scale bars and captions."""

import collections
from collections.abc import Sequence

import numpy as np

SAMPLE = 2048  # images examined, the first of a set

_HEIGHT = 64  # rows examined at the bottom
_WIDTH = 24  # columns at the left, where bars and captions begin
_SHARE = 0.5  # share of images that must hold the same row
_FEWEST = 20  # images at least, for a share to mean something
_WEIGHTS = np.random.default_rng(0).integers(1, 2**63, _WIDTH, np.uint64)


def bottom(pixels: np.ndarray) -> list[int]:
  """Hashes the lowest rows of an image [H, W] or [H, W, 3], the last first.

  A row of a single value is background and hashes to 0.
  """
  corner = pixels[::-1][:_HEIGHT, :_WIDTH]
  if corner.ndim == 3:
    corner = corner[..., 1]
  sums = corner.astype(np.uint64) @ _WEIGHTS[: corner.shape[1]]
  return np.where(np.ptp(corner, axis=1) > 0, sums, 0).tolist()


def find(bottoms: Sequence[Sequence[int]]) -> int:
  """Counts the rows from the bottom up to the highest that most images share.

  Returns 0 if there is none, or if the images are few.
  """
  if len(bottoms) < _FEWEST:
    return 0
  found = 0
  for row in range(_HEIGHT):
    values = [rows[row] for rows in bottoms if len(rows) > row and rows[row]]
    most = collections.Counter(values).most_common(1)
    if most and most[0][1] > _SHARE * len(bottoms):
      found = row + 1
  return found


def describe(rows: int) -> str:
  """Words a warning of a bar of so many rows; '' for 0."""
  if not rows:
    return ''
  return (
    f'most images are equal in the lowest {rows} rows, as by a scale bar:'
    f' data.crop=(0, 0, {rows}, 0) cuts them off, or data.image_rank takes'
    ' another image'
  )
