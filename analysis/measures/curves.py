"""Measures learning curves of simple classifiers over seeded resamplings."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from analysis.measures import classes, threads
from plankton_jax.neighbours import search

RESAMPLINGS = 10
TRAIN_SHARE = 0.65
SMALLEST = 30  # training images, then doubled repeatedly
NEIGHBOURS = 10
# Training images of the published experiment (docs/student.md).
PUBLISHED = (
  *range(30, 100, 10),
  *range(100, 1000, 100),
  *range(1000, 3001, 200),
)
GRIDS = ('doubling', 'published')
SCALINGS = ('one', 'each')
LOSSES = ('logistic', 'hinge')

CLASSIFIERS = ('SVC', 'linear', 'kNN')
MEASURES = ('balanced accuracy', 'macro F1')


class Options(NamedTuple):
  """Options of the curves; the published experiment took the other choices."""

  grid: str = 'doubling'  # of training-set sizes
  scaling: str = 'one'  # number for all dimensions, or each its own
  loss: str = 'logistic'  # of the linear classifier


class Classifier(Protocol):
  """A fitted classifier."""

  def predict(self, rows: np.ndarray) -> np.ndarray:
    """Labels rows [N, D], [N]."""


class Curve(NamedTuple):
  """One classifier on one set of features."""

  features: str
  classifier: str
  sizes: np.ndarray  # [S] training images
  scores: dict[str, np.ndarray]  # by measure: [RESAMPLINGS, S]
  chance: float  # balanced accuracy of a guess
  unconverged: int  # fits that stopped early


def sizes(most: int, classes: int, grid: str = 'doubling') -> np.ndarray:
  """Lists 30, 60, 120, … and all, or the published sizes up to all.

  Sizes below one image a class are dropped; if none remains, lists all.
  """
  if grid == 'published':
    count = np.array(PUBLISHED)
    count = count[(count >= classes) & (count <= most)]
    return count if count.size else np.array([most])
  count = SMALLEST * 2 ** np.arange(32)
  # The last doubling is dropped if it nearly coincides with all.
  return np.append(count[(count >= classes) & (count * 1.5 < most)], most)


def split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Splits rows 65/35 by class: indices for training, then for test.

  The first rows of training hold one of each class, and the rest is shuffled,
  so that every prefix is a training set. Every class of two images or more is
  on both sides.
  """
  rng = np.random.default_rng(seed)
  first: list[int] = []
  rest: list[int] = []
  test: list[int] = []
  for label in np.unique(labels):
    rows = rng.permutation(np.flatnonzero(labels == label))
    count = int(np.clip(round(TRAIN_SHARE * len(rows)), 1, len(rows) - 1))
    first.append(rows[0])
    rest.extend(rows[1:count])
    test.extend(rows[count:])
  train = [*rng.permutation(first), *rng.permutation(rest)]
  return np.array(train, int), np.array(test, int)


class Neighbours(NamedTuple):
  """Classifies by the vote of the nearest rows [N, D] with labels [N]."""

  rows: np.ndarray
  labels: np.ndarray

  def predict(self, rows: np.ndarray) -> np.ndarray:
    """Labels each of rows [M, D]; a tied vote goes to the lowest label."""
    _, near = search.nearest(rows, self.rows, NEIGHBOURS)
    return classes.voted(near, self.labels)


def fit(
  name: str, rows: np.ndarray, labels: np.ndarray, *, loss: str = 'logistic'
) -> Classifier:
  """Fits a classifier by name; labels hold two classes or more."""
  from sklearn import linear_model, svm

  if name == 'SVC':
    model = svm.SVC(kernel='rbf', C=1.0, gamma='scale')
  elif name == 'linear' and loss == 'hinge':
    model = svm.LinearSVC(C=1.0, loss='hinge', random_state=0)
  elif name == 'linear':
    model = linear_model.LogisticRegression(C=1.0, tol=1e-3, max_iter=500)
  else:
    return Neighbours(rows, labels)
  return model.fit(rows, labels)


@threads.single()
def learn(
  features: str,
  rows: np.ndarray,
  labels: np.ndarray,
  *,
  classifiers: Sequence[str] = CLASSIFIERS,
  options: Options = Options(),  # noqa: B008 (it cannot change)
  step: Callable[[], Any] = lambda: None,
) -> list[Curve]:
  """Learns curves of the classifiers on rows [N, D] with labels [N].

  Rows are centred and divided by one number, so that the variance of a
  dimension is 1 on average over the training images; angles and relative
  distances are kept. With options.scaling 'each', each dimension is divided by
  its own number. Calls `step` after each classifier of each resampling.
  """
  from sklearn import exceptions, metrics

  splits = [split(labels, seed) for seed in range(RESAMPLINGS)]
  present = np.unique(labels)
  counts = sizes(len(splits[0][0]), len(present), options.grid)
  found = []
  for name in classifiers:
    scores = {m: np.empty((RESAMPLINGS, len(counts))) for m in MEASURES}
    unconverged = 0
    for seed, (train, test) in enumerate(splits):
      for i, count in enumerate(counts):
        chosen = rows[train[:count]].astype(np.float64)
        centre = chosen.mean(axis=0)
        scale = _scale(chosen - centre, options.scaling)
        with warnings.catch_warnings(record=True) as caught:
          warnings.simplefilter('always', exceptions.ConvergenceWarning)
          model = fit(
            name,
            (chosen - centre) / scale,
            labels[train[:count]],
            loss=options.loss,
          )
        # Others warn of many classes among few images.
        unconverged += any(
          issubclass(one.category, exceptions.ConvergenceWarning)
          for one in caught
        )
        predicted = model.predict((rows[test] - centre) / scale)
        _, recall, f1, _ = metrics.precision_recall_fscore_support(
          labels[test], predicted, average='macro', zero_division=0.0
        )
        scores['balanced accuracy'][seed, i] = recall
        scores['macro F1'][seed, i] = f1
      step()
    chance = 1.0 / len(present)
    found.append(Curve(features, name, counts, scores, chance, unconverged))
  return found


def _scale(centred: np.ndarray, scaling: str) -> np.ndarray:
  """Computes what rows [N, D] are divided by; 1 where nothing varies."""
  axis = 0 if scaling == 'each' else None
  scale = np.sqrt(np.mean(centred**2, axis=axis))
  return np.where(scale > 0.0, scale, 1.0)


def band(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Computes mean, and mean ± 1.96 standard deviations in 0 … 1, all [S]."""
  mean = scores.mean(axis=0)
  reach = 1.96 * scores.std(axis=0, ddof=1)
  return mean, np.maximum(mean - reach, 0.0), np.minimum(mean + reach, 1.0)


def rows(curve: Curve) -> list[dict[str, Any]]:
  """Tabulates the curve, a line for each size and measure."""
  return [
    {
      'features': curve.features,
      'classifier': curve.classifier,
      'measure': measure,
      'training_images': size,
      'mean': mean,
      'low': low,
      'high': high,
    }
    for measure in MEASURES
    for size, mean, low, high in zip(
      curve.sizes, *band(curve.scores[measure]), strict=True
    )
  ]
