"""Fits a labeller to a run's embeddings, and tests it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.files import inputs
from analysis.files.folders import Embedded
from analysis.files.inputs import Embeddings, Source
from analysis.measures import calibration, labeller, openset, unknowns
from analysis.measures.calibration import Reliability
from analysis.measures.labeller import Labeller

LOST = {  # without a split
  'val': 'confidence is not calibrated, and no image is unknown',
  'test': 'the calibration is not tested',
}


class Tested(NamedTuple):
  """A labeller's accuracy and calibration on test images."""

  measures: dict[str, Any]
  ways: dict[str, Reliability]  # by the way confidence is computed


class Fitted(NamedTuple):
  """A labeller, and how well it does on images outside of it."""

  labeller: Labeller
  trained: tuple[str, ...]  # the classes of train images
  val: Embeddings | None
  held_out: Embeddings | None  # test images
  tested: Tested
  notes: list[str]  # what was left out
  remarks: list[str]  # what the reader of the page should know


def test(fitted: Labeller, rows: Embeddings, trained: Sequence[str]) -> Tested:
  """Measures accuracy and calibration on test images."""
  seen = np.isin(fitted.gallery.class_names, trained)
  scales = {'temperature 1': 1.0, 'calibrated': fitted.temperature}
  label, among_seen = [], []
  sure: dict[str, list[np.ndarray]] = {name: [] for name in scales}
  for distance in labeller.squared_in_blocks(fitted.seen, rows.embedding):
    label.append(distance.argmin(axis=1))
    for name, scale in scales.items():
      sure[name].append(calibration.confidence(-distance, scale))
    among_seen.append(np.where(seen, distance, np.inf).argmin(axis=1))
  right = np.concatenate(label) == rows.label
  alone = np.concatenate(among_seen) == rows.label
  ways = {
    name: calibration.reliability(np.concatenate(values), right)
    for name, values in sure.items()
  }
  measures = {
    'test_images': len(right),
    'accuracy': float(right.mean()),
    'accuracy_without_new_classes': float(alone.mean()),
    'calibration_error': ways['calibrated'].error,
    'calibration_error_at_1': ways['temperature 1'].error,
  }
  return Tested(measures, ways)


def mistaken(fitted: Labeller, rows: Embeddings) -> dict[str, int]:
  """Counts the images of classes without labelled rows, and those named.

  Empty if there are none, or if a row's class is not known.
  """
  names = inputs.named(rows.class_names, rows.label)
  strange = ~np.isin(names, [*fitted.gallery.class_names, ''])
  if not strange.any():
    return {}
  distance = unknowns.judge(fitted.seen, rows.embedding[strange]).distance
  return {
    'unseen_images': int(strange.sum()),
    'unseen_named': int(np.sum(distance <= fitted.threshold)),
  }


def fit(source: Source, added: Embedded | None, *, acceptance: float) -> Fitted:
  """Takes centres from train images and examples, a threshold from val images.

  `acceptance` is the share of known images that the threshold lets through.

  An encoder without a run has only examples. It was trained on none of them, so
  each, left out of the fit, takes the place of a val image.

  Raises:
    InputError: there are no labelled train images, or no examples.
  """
  gallery, rows, notes = labeller.gallery(source, added)
  val = held_out = None
  remarks: list[str] = []
  trained: tuple[str, ...] = ()
  if source.encoder is None:
    (val, no_val), (held_out, no_test) = (
      labeller.split(source, split, gallery.class_names) for split in LOST
    )
    notes += no_val + no_test
    missing = {'val': val is None, 'test': held_out is None}
    remarks += [f'No {s} images: {LOST[s]}.' for s in LOST if missing[s]]
    trained = _present(source.splits['train'])
  calibrated = val is not None or source.encoder is not None
  found = labeller.fit(
    gallery, rows if calibrated else rows[:0], val, acceptance=acceptance
  )
  if calibrated and math.isinf(found.threshold):
    kind = 'examples' if val is None else 'validation images'
    remarks.append(
      f'Too few {kind} for thresholds at {acceptance:.0%}'
      f' ({openset.fewest(acceptance)} needed): no image is unknown.'
    )
  tested = Tested({}, {})
  if held_out is not None:
    tested = test(found, held_out, trained)
  strangers = source.splits.get('unseen')
  if strangers is not None and np.isfinite(found.threshold):
    tested.measures.update(mistaken(found, strangers))
  return Fitted(found, trained, val, held_out, tested, notes, remarks)


def _present(rows: Embeddings) -> tuple[str, ...]:
  """Names the classes that have rows."""
  present = np.unique(rows.label[rows.label >= 0])
  return tuple(rows.class_names[label] for label in present)
