"""Labels each group of a run's own images by a fit to the others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from analysis.files import inputs, samples
from analysis.files.inputs import Embeddings, Source
from analysis.measures import calibration, fitted, labeller, unknowns
from analysis.measures.fitted import Fitted
from plankton_jax.errors import InputError

MOST_GROUPS = 60  # of labelled images: the largest

Row = dict[str, Any]


class Measured(NamedTuple):
  """Tells how a labeller does on some images."""

  images: int
  accuracy: float
  calibration_error: float
  unknown: float  # share that no class takes; NaN without thresholds


def measure(fit: Fitted, rows: Embeddings) -> Measured:
  """Measures a labeller on rows that are labelled by its classes."""
  label, sure = labeller.guess(fit.labeller, rows.embedding)
  right = label == rows.label
  unknown = np.nan
  if np.isfinite(fit.labeller.threshold):
    distance = unknowns.judge(fit.labeller.seen, rows.embedding).distance
    unknown = float(np.mean(distance > fit.labeller.threshold))
  return Measured(
    len(right),
    float(right.mean()),
    calibration.reliability(sure, right).error,
    unknown,
  )


def by_group(
  source: Source, whole: Fitted, by: str, acceptance: float
) -> tuple[list[Row], list[str]]:
  """Labels the val and test images of each group by centres of the others.

  Thresholds and confidence, too, come from the others. The columns that end in
  `_all` are of `whole`, the fit to all groups.

  Returns:
    A line for each group, and notes on what is left out.

  Raises:
    InputError: an image has no group, or there is one group.
  """
  splits, notes = inputs.labelled_splits(source, ('train', 'val', 'test'))
  groups = {
    name: samples.name_groups(rows.id.tolist(), by)
    for name, rows in splits.items()
  }
  every, counts = np.unique(
    np.concatenate(list(groups.values())), return_counts=True
  )
  if len(every) < 2:
    raise InputError(
      f'--by={by}: all images are of one group, {every[0]}; give what makes two'
      ' groups or more, so that one can be left out'
    )
  if len(every) > MOST_GROUPS:
    notes.append(
      f'{len(every):,} groups: the {MOST_GROUPS} of most images are left out'
    )
    every = every[np.argsort(-counts, kind='stable')[:MOST_GROUPS]]
  lines = []
  for group in sorted(every.tolist()):
    own, others = (
      {
        name: inputs.take(rows, (groups[name] == group) == inside)
        for name, rows in splits.items()
      }
      for inside in (True, False)
    )
    if not len(others['train'].id):
      notes.append(f'{group} has all train images: not left out')
      continue
    del own['train']
    others.pop('test', None)  # nothing is fitted to it
    line = _line(source._replace(splits=others), own, whole, acceptance)
    if line is None:
      notes.append(
        f'{group} has no val or test images of a class: not measured'
      )
      continue
    lines.append({'group': group, **line})
  return lines, notes


def _line(
  others: Source,
  own: Mapping[str, Embeddings],
  whole: Fitted,
  acceptance: float,
) -> Row | None:
  """Measures a group's own splits by the other groups, and by all.

  Returns:
    None if it has no images of the others' classes.
  """
  fit = fitted.fit(others, None, acceptance=acceptance)
  names = fit.labeller.gallery.class_names
  every = inputs.numbered(inputs.together(others.name, own))
  one = others._replace(splits={'own': every})
  rows, _ = labeller.split(one, 'own', names)
  if rows is None:
    return None
  index = {x: i for i, x in enumerate(whole.labeller.gallery.class_names)}
  of_all = np.array([index[name] for name in names])
  apart = measure(fit, rows)
  together = measure(whole, rows._replace(label=of_all[rows.label]))
  low, high = calibration.wilson(apart.accuracy, apart.images)
  return {
    'images': apart.images,
    'accuracy': apart.accuracy,
    'low': low,
    'high': high,
    'accuracy_all': together.accuracy,
    'calibration_error': apart.calibration_error,
    'unknown': apart.unknown,
    'unknown_all': together.unknown,
  }
