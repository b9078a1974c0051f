"""Distributes the objects of each class over their sizes."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

STEP = 2 ** (1 / 3)  # from one edge to the next: a volume doubles


class Spectrum(NamedTuple):
  """Objects by size and class."""

  edges: np.ndarray  # [B + 1] µm
  objects: np.ndarray  # [B, C]


def diameters(measures: Mapping[str, np.ndarray]) -> np.ndarray | None:
  """Computes diameters [N] of circles of the objects' areas, µm.

  Takes object_area, in pixels, and pixel_um; None where one is not known.
  """
  if not {'object_area', 'pixel_um'} <= measures.keys():
    return None
  area = np.asarray(measures['object_area'], np.float64)
  with np.errstate(invalid='ignore'):
    found = 2.0 * np.sqrt(area / np.pi) * measures['pixel_um']
  return found if np.isfinite(found).any() else None


def edges(size: np.ndarray) -> np.ndarray:
  """Makes edges that a third of an octave parts, around all sizes > 0."""
  sizes = size[np.isfinite(size) & (size > 0.0)]
  if not len(sizes):
    return np.array([1.0, STEP])
  first, last = np.log(sizes.min()), np.log(sizes.max())
  begin = np.floor(first / np.log(STEP))
  end = np.floor(last / np.log(STEP)) + 1
  return STEP ** np.arange(begin, end + 1)


def spectrum(
  size: np.ndarray, edges: np.ndarray, chance: np.ndarray, objects: np.ndarray
) -> Spectrum:
  """Distributes objects [C] of each class over bins of size.

  Each image counts for a class by its probability `chance` [N, C], scaled so
  that a class has its objects in all; those of images without a size are in no
  bin.
  """
  total = chance.sum(axis=0)
  weight = chance * (objects / np.where(total > 0.0, total, 1.0))
  found = np.zeros((len(edges) - 1, chance.shape[1]))
  place = np.searchsorted(edges, size, side='right') - 1
  inside = np.isfinite(size) & (place >= 0) & (place < len(found))
  np.add.at(found, place[inside], weight[inside])
  return Spectrum(edges, found)
