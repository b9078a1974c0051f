"""Turns the images of samples into objects: their number, per m³ and by size.

How many objects of a cubic metre an image stands for is computed from the
columns of EcoTaxa's tables, as instruments' software names them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.measures import checked, counting, prevalence
from analysis.measures.checked import Checks
from analysis.measures.counting import Estimate
from plankton_jax.errors import shorten_list

EXACT = 1e-6  # a bound so near a whole number of images is that number
STEP = 2 ** (1 / 3)  # of sizes, from one edge to the next: a volume doubles
ABSENT = 999_999  # Zooprocess' mark of a volume that nobody measured

# Columns of the volume that was imaged, of the concentrated sample that it is
# of, both in millilitres, and of the water that this held; and how many of the
# latter's units are a cubic metre.
_FLOWN: tuple[tuple[str, str, str, float], ...] = (
  (  # FlowCam
    'acq_fluid_volume_imaged',
    'sample_conc_vol_ml',
    'sample_initial_col_vol_m3',
    1.0,
  ),
  (  # PlanktoScope
    'acq_imaged_volume',
    'sample_concentrated_sample_volume',
    'sample_total_volume',
    1000.0,  # litres
  ),
)
_SPLIT, _WATER = 'acq_sub_part', 'sample_tot_vol'  # ZooScan, other scanners


Row = dict[str, Any]


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
  """Adds the units of each sample up, by method.

  Intervals are widened to whole images: an image is of one class, while shares
  are not, and bounds of shares alone leave out the truth too often.
  """
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
        low, high = counting.interval(value, drawn)
        parts += [value, *outward(low, high, min(factors))]
      found.append(Sample(name, method, images, *parts))
  return found


def correct(
  found: Sequence[Sample],
  groups: np.ndarray,
  chance: np.ndarray,
  each: np.ndarray,
  checks: Mapping[str, Checks],
) -> list[Sample]:
  """Corrects samples by the images of them that a person checked.

  One without `enough` of them stays as it is. Intervals are widened to whole
  images, as in `tally`.

  Args:
    found: by the method that `chance` follows.
    groups: [N] the sample of each image.
    chance: [N, C] probabilities; C may be more than that of `found`, by classes
      that nobody predicts.
    each: [N] objects per m³ that an image stands for.
    checks: by sample.
  """
  rows = {one.name: np.flatnonzero(groups == one.name) for one in found}
  corrected = [one.name for one in found if enough(one, checks)]
  weight = checked.weigh((chance[rows[n]], checks[n]) for n in corrected)
  made = []
  for one in found:
    if one.name not in corrected:
      wide = widen(one, chance.shape[1])
      made.append(wide._replace(method=checked.METHOD))
      continue
    own = rows[one.name]
    parts: list[np.ndarray] = []
    for factor in (np.ones(len(own)), each[own]):
      value, low, high = checked.correct(
        chance[own], checks[one.name], weight, factor
      )
      parts += [value, *outward(low, high, float(factor.min()))]
    made.append(Sample(one.name, checked.METHOD, one.images, *parts))
  return made


def enough(one: Sample, checks: Mapping[str, Checks]) -> bool:
  """Tells whether FEWEST images of a sample are checked, or all of them."""
  return one.name in checks and len(checks[one.name].rows) >= min(
    checked.FEWEST, one.images
  )


def describe_checks(
  of_sample: Mapping[str, Checks], found: Sequence[Sample], added: Sequence[str]
) -> list[str]:
  """Says what was checked, and what could not be corrected by it."""
  images = sum(len(one.rows) for one in of_sample.values())
  notes = [f'{images:,} images of {len(of_sample):,} samples are checked']
  few = [one.name for one in found if not enough(one, of_sample)]
  if few:
    notes.append(
      f'{len(few):,} of {len(found):,} samples have fewer than'
      f' {checked.FEWEST} checked images and are not corrected, as {few[0]}'
    )
  if added:
    notes.append(
      'counted from checked images alone, as no class is named so:'
      f' {shorten_list(list(added))}'
    )
  return notes


def widen(one: Sample, classes: int) -> Sample:
  """Adds classes without objects, up to so many."""
  added = np.zeros(classes - len(one.objects))
  # 0 per m³, too, but NaN where the volume is not known.
  wide = (np.append(part, part.sum() * added) for part in one[3:])
  return Sample(one.name, one.method, one.images, *wide)


def outward(
  low: np.ndarray, high: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray]:
  """Widens intervals to multiples of a unit; NaN if that is not known."""
  low, high = low / unit, high / unit
  return (
    np.minimum(low, np.floor(low + EXACT)) * unit,
    np.maximum(high, np.ceil(high - EXACT)) * unit,
  )


def tabulate(
  found: Sequence[Sample],
  names: Sequence[str],
  *,
  methods: bool = False,
  checks: Mapping[str, Checks] | None = None,
) -> list[Row]:
  """Tabulates samples by class; concentrations if any is known.

  `methods` adds a column of the method, and `checks` one of the images of the
  sample that were checked.
  """
  known = any(np.isfinite(one.per_m3).any() for one in found)
  lines = []
  for one in found:
    for c, name in enumerate(names):
      line: Row = {'sample': one.name, 'class': name}
      if methods:
        line['method'] = one.method
      if checks is not None:
        line['checked'] = (
          len(checks[one.name].rows) if one.name in checks else 0
        )
      line |= {
        'objects': one.objects[c],
        'low': one.low[c],
        'high': one.high[c],
      }
      if known:
        line |= {
          'per_m3': one.per_m3[c],
          'per_m3_low': one.per_m3_low[c],
          'per_m3_high': one.per_m3_high[c],
        }
      lines.append(line)
  return lines


def per_m3(
  columns: Mapping[str, np.ndarray],
  samples: Sequence[str],
  acquisitions: Sequence[str],
) -> np.ndarray:
  """Computes objects per m³ for each image, [N]; NaN where it is unknown.

  A scanned image stands for acq_sub_part / sample_tot_vol: an acquisition is a
  part of the sample, and parts add up. (A sub_part below 1 is the share that
  was scanned.) Of a sample that flows past a camera, acquisitions repeat each
  other: an image stands for concentrated volume / (volume imaged in all of
  them · volume of water).
  """
  found = np.full(len(samples), np.nan)
  if _SPLIT in columns and _WATER in columns:
    split, water = (_volume(columns[name]) for name in (_SPLIT, _WATER))
    found = np.where(split < 1.0, 1.0 / split, split) / water
  for imaged_in, held_in, water_in, in_m3 in _FLOWN:
    names = (imaged_in, held_in, water_in)
    if not all(name in columns for name in names):
      continue
    imaged, held, whole = (_volume(columns[name]) for name in names)
    every = _imaged(imaged, samples, acquisitions)
    whole = whole / in_m3
    found = np.where(np.isnan(found), held / (every * whole), found)
  return found


def _volume(values: np.ndarray) -> np.ndarray:
  """Keeps what can be a volume; NaN in place of others."""
  values = np.asarray(values, np.float64)
  return np.where((values > 0.0) & (values < ABSENT), values, np.nan)


def _imaged(
  volume: np.ndarray, samples: Sequence[str], acquisitions: Sequence[str]
) -> np.ndarray:
  """Sums the volumes of a sample's acquisitions, for each of its images."""
  of: dict[str, dict[str, float]] = {}
  rows = zip(samples, acquisitions, volume.tolist(), strict=True)
  for sample, acquisition, value in rows:
    of.setdefault(sample, {})[acquisition] = value
  return np.array([sum(of[sample].values()) for sample in samples])


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
) -> np.ndarray:
  """Distributes objects [C] of each class over bins of size, [B, C].

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
  return found


def tabulate_spectra(
  measures: Mapping[str, np.ndarray],
  units: Sequence[Unit],
  estimates: Sequence[Estimate],
  chance: np.ndarray,
  names: Sequence[str],
  method: str,
) -> list[Row]:
  """Tabulates objects by sample, class and size; empty if sizes are unknown.

  Args:
    measures: of the N images, by name.
    units: the samples.
    estimates: of the units.
    chance: [N, C] probabilities of the images under the method's shares.
    names: of the classes.
    method: by which objects are counted.
  """
  size = diameters(measures)
  if size is None:
    return []
  bounds = edges(size)
  volumes_known = any(np.isfinite(unit.per_m3) for unit in units)
  sums: dict[str, list[np.ndarray]] = {}
  for unit, one in zip(units, estimates, strict=True):
    found = spectrum(
      size[unit.rows],
      bounds,
      chance[unit.rows],
      one.images * one.shares[method],
    )
    sums.setdefault(unit.sample, []).append(
      np.stack([found, unit.per_m3 * found])
    )
  lines = []
  for sample, parts in sums.items():
    objects, per_m3 = np.sum(parts, axis=0)
    for i, c in zip(*np.nonzero(objects), strict=True):
      line: Row = {
        'sample': sample,
        'class': names[c],
        'from_um': bounds[i],
        'to_um': bounds[i + 1],
        'objects': objects[i, c],
      }
      if volumes_known:
        line['per_m3'] = per_m3[i, c]
        line['per_m3_um'] = per_m3[i, c] / (bounds[i + 1] - bounds[i])
      lines.append(line)
  return lines
