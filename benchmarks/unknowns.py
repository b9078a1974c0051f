"""Compares scores that tell images of unseen classes from those of seen ones.

  python -m benchmarks.unknowns --embeddings=FILE.npz [--draws=8] [--unseen=10]
    [--out=runs/unknowns]

The files hold embeddings of classes that the encoder was not trained on. Every
draw calls other classes unseen, and splits the images of the rest 75, 5 and 20
into labelled, validation and test images. The table is written to unknowns.csv
in --out too.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from analysis.files import inputs, tables
from analysis.files.inputs import Embeddings, Rows
from analysis.measures import openset, unknowns, whitened
from benchmarks import cells
from plankton_jax.cli import command
from plankton_jax.errors import InputError

ACCEPTANCE = 0.95
NEIGHBOURS = 10
SHRUNK = 40  # validation images whose weight the common threshold has
BASE = 'nearest centroid'  # which others are compared with
# Whose deviations on validation images each sum is of.
SUMS = {
  'mean': ('mean',),
  'angle': ('angle',),
  'density': ('density',),
  'mean + angle': ('mean', 'angle'),
  'mean + density': ('mean', 'density'),
  'angle + density': ('angle', 'density'),
  'mean + angle + density': ('mean', 'angle', 'density'),
}


class Parts(NamedTuple):
  """A score's distances of validation, test and unseen images."""

  val: np.ndarray
  test: np.ndarray
  unseen: np.ndarray


class Measured(NamedTuple):
  """A score in one draw."""

  auroc: float
  caught: float  # share of unseen beyond what accepts 95 % of test
  unknown: float  # share of unseen beyond the threshold of validation
  accepted: float  # share of test within it


def draw(
  rows: Rows, unseen: int, rng: np.random.Generator
) -> tuple[Embeddings, Parts]:
  """Draws classes to call unseen; returns labelled images and the others."""
  names, label = np.unique(rows.name.astype(str), return_inverse=True)
  strange = np.isin(label, rng.choice(len(names), unseen, replace=False))
  seen = rng.permutation(np.flatnonzero(~strange))
  train, val, test = np.split(
    seen, [int(0.75 * len(seen)), int(0.8 * len(seen))]
  )
  labelled = Embeddings(
    rows.embedding[train], label[train], rows.id[train], tuple(names)
  )
  others = Parts(*(rows.embedding[at] for at in (val, test, strange)))
  return labelled, others


def relative(train: Embeddings, embedding: np.ndarray) -> np.ndarray:
  """Computes the relative Mahalanobis distance, [N, D] -> [N].

  That to the nearest class mean less that to the mean of all, under the
  covariance of all (Ren et al. 2021, arXiv:2106.09022, equation 2).
  """
  classes = whitened.fit(train.embedding, train.label)
  every = whitened.fit(train.embedding, np.zeros(len(train.label), int))
  own = whitened.squared(classes, whitened.whiten(classes, embedding))
  return own.min(axis=1) - np.sum(
    whitened.whiten(every, embedding) ** 2, axis=1
  )


def scores(train: Embeddings, others: Parts) -> dict[str, Parts]:
  """Scores every image every way."""
  ends = np.cumsum([len(part) for part in others])[:-1]
  embedding = np.concatenate(others)

  def parts(distance: np.ndarray) -> Parts:
    return Parts(*np.split(distance, ends))

  seen = unknowns.fit(
    train.embedding, train.label, others.val, neighbours=NEIGHBOURS
  )
  apart = unknowns.distances(seen, embedding)
  scaled = dict(zip(apart._fields[1:], seen.scale, strict=True))
  found = {BASE: parts(openset.by_centroid(train, embedding).distance)}
  for k in (1, NEIGHBOURS):
    judged = openset.by_neighbour(train, embedding, k)
    found[f'neighbour {k}'] = parts(judged.distance)
  found['relative Mahalanobis'] = parts(relative(train, embedding))
  for name, terms in SUMS.items():
    found[name] = parts(sum(getattr(apart, t) / scaled[t] for t in terms))
  label = parts(apart.label)
  for name, weight in (('own', 0), ('shrunk', SHRUNK)):
    found[f'the last, {name} thresholds'] = less_thresholds(
      found['mean + angle + density'], label, weight
    )
  return found


def less_thresholds(distances: Parts, label: Parts, weight: int) -> Parts:
  """Subtracts a threshold for each class from the distances.

  It is set on the validation images predicted as the class. With `weight` 0 a
  class of too few has the common one; otherwise every class's is its mean with
  the common one, which counts as so many images.
  """
  common = openset.threshold(distances.val, ACCEPTANCE)
  limits = dict.fromkeys(np.concatenate(label).tolist(), common)
  for one in limits:
    own = distances.val[label.val == one]
    limit = openset.threshold(own, ACCEPTANCE)
    if weight and len(own):
      limit = limit if np.isfinite(limit) else float(own.max())
      limit = (len(own) * limit + weight * common) / (len(own) + weight)
    if np.isfinite(limit):
      limits[one] = limit
  return Parts(
    *(
      part - np.array([limits[one] for one in labels.tolist()])
      for part, labels in zip(distances, label, strict=True)
    )
  )


def measure(found: Parts) -> Measured:
  """Measures how a score tells unseen from test images."""
  curve, others = openset.detection(found.test, found.unseen)
  limit = openset.threshold(found.val, ACCEPTANCE)
  return Measured(
    curve.area,
    1.0 - others['fpr_at_95'],
    float(np.mean(found.unseen > limit)),
    float(np.mean(found.test <= limit)),
  )


def lines(found: Mapping[str, Sequence[Measured]]) -> list[dict[str, str]]:
  """Makes the rows of the table: means ± half their 95 % intervals."""
  base = np.array(found[BASE])
  table = []
  for name, draws in found.items():
    values = np.array(draws)
    gain = values - base
    table.append(
      {
        'score': name,
        'AUROC': cells.shown(values[:, 0].tolist()),
        'gain': '' if name == BASE else cells.shown(gain[:, 0].tolist()),
        'caught': cells.shown(values[:, 1].tolist()),
        'gain in caught': (
          '' if name == BASE else cells.shown(gain[:, 1].tolist())
        ),
        'unknown': cells.shown(values[:, 2].tolist()),
        'accepted': cells.shown(values[:, 3].tolist()),
      }
    )
  return table


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  flags.DEFINE_multi_string(
    'embeddings', [], 'An embedding file; repeat it.', flag_values=values
  )
  flags.DEFINE_integer('draws', 8, 'How many.', flag_values=values)
  flags.DEFINE_integer('unseen', 10, 'Classes in each.', flag_values=values)
  flags.DEFINE_string(
    'out', 'runs/unknowns', 'Folder of the results.', flag_values=values
  )


def main(values: flags.FlagValues) -> None:
  """Scores every draw; prints and writes the table."""
  if not values.embeddings:
    raise InputError('--embeddings=FILE.npz is missing')
  source = inputs.from_files([pathlib.Path(p) for p in values.embeddings])
  rows = inputs.together(source.name, source.splits)
  count = len(set(rows.name))
  if not 0 < values.unseen < count or values.draws < 1:
    raise InputError(
      f'--unseen={values.unseen} --draws={values.draws}: give 1 or more, and'
      f' fewer classes than the {count} of the files'
    )
  found: dict[str, list[Measured]] = {}
  for seed in range(values.draws):
    train, others = draw(rows, values.unseen, np.random.default_rng(seed))
    if len(others.val) < openset.fewest(ACCEPTANCE):
      raise InputError(
        f'{source.name}: {len(others.val)} validation images in a draw are too'
        f' few ({openset.fewest(ACCEPTANCE)} needed); give more images'
      )
    for name, parts in scores(train, others).items():
      found.setdefault(name, []).append(measure(parts))
  table = lines(found)
  tables.show(table, f'{values.draws} draws of {values.unseen} unseen classes')
  out = pathlib.Path(values.out)
  out.mkdir(parents=True, exist_ok=True)
  print(tables.write_csv(out / 'unknowns.csv', table))


if __name__ == '__main__':
  define(flags.FLAGS)
  command.run(lambda argv: main(flags.FLAGS), fast=True)
