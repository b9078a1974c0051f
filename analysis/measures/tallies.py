"""Adds the images of samples up to objects, with intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.measures import counting, prevalence
from analysis.measures.counting import Estimate


class Sample(NamedTuple):
  """The objects of one sample by one method."""

  name: str
  method: str
  images: int
  objects: np.ndarray  # [C]
  low: np.ndarray
  high: np.ndarray
  # The same per m³; NaN where a volume is not known.
  per_m3: np.ndarray
  per_m3_low: np.ndarray
  per_m3_high: np.ndarray


class Unit(NamedTuple):
  """Images of one sample that stand for equally many objects."""

  sample: str
  rows: np.ndarray
  per_m3: float  # objects that an image stands for; NaN if not known


def split_units(names: np.ndarray, per_m3: np.ndarray) -> list[Unit]:
  """Splits images by sample, and by how many objects they stand for."""
  units = []
  for name in np.unique(names):
    rows = np.flatnonzero(names == name)
    for factor in np.unique(per_m3[rows]):
      own = per_m3[rows] == factor
      if np.isnan(factor):
        own = np.isnan(per_m3[rows])
      units.append(Unit(str(name), rows[own], float(factor)))
  return units


def tally(units: Sequence[Unit], estimates: Sequence[Estimate]) -> list[Sample]:
  """Adds the units of each sample up, by method."""
  found = []
  for name in dict.fromkeys(unit.sample for unit in units):
    own = [
      (unit, one)
      for unit, one in zip(units, estimates, strict=True)
      if unit.sample == name
    ]
    images = sum(one.images for _, one in own)
    for method in prevalence.METHODS:
      parts: list[np.ndarray] = []
      for factors in ([1.0] * len(own), [unit.per_m3 for unit, _ in own]):
        scale = [
          factor * one.images
          for factor, (_, one) in zip(factors, own, strict=True)
        ]
        value, drawn = (
          np.sum(
            [k * by[method] for k, by in zip(scale, shares, strict=True)],
            axis=0,
          )
          for shares in (
            [one.shares for _, one in own],
            [one.drawn for _, one in own],
          )
        )
        parts += [value, *counting.interval(value, drawn)]
      found.append(Sample(name, method, images, *parts))
  return found
