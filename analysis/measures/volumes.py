"""Computes how many objects in a cubic metre each image stands for.

From the columns of EcoTaxa's tables, as instruments' software names them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

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
