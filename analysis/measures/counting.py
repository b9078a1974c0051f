"""Counts a sample by five methods, with intervals.

Fits what a method needs on images whose class is known: those outside of
training (validation images), training images each left out of its own class,
and images of no class. Validation images are few, often four of a class, and
the many training images, though the encoder knows them, halve the errors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from analysis.files import inputs
from analysis.files.inputs import Embeddings
from analysis.measures import (
  classes,
  labeller,
  openset,
  posterior,
  prevalence,
  unknowns,
)
from analysis.measures.labeller import Labeller
from analysis.measures.posterior import Posterior
from analysis.measures.prevalence import METHODS, Answers, Errors

SEED = 0
MOST = 1500  # train images that are fitted to, and images of no class
EACH = 500  # and those of one class that its density is made of
MOST_CLASSES = 200  # that are counted apart
FEW_CLASSES = 100  # of more: the time is that by their number, squared or more
MOST_KINDS = 100  # whose images stand in for images of no class


class Placed(NamedTuple):
  """Places N images by their distances to C classes."""

  nearest: np.ndarray  # [N] the class of the nearest centre
  distance: np.ndarray  # [N] from all classes, see `unknowns`
  far: np.ndarray  # [N, C] see `posterior.far`

  def take(self, rows: np.ndarray) -> 'Placed':
    """Selects images."""
    return Placed(*(part[rows] for part in self))


class Known(NamedTuple):
  """N images whose class is known, of C classes."""

  placed: Placed
  true: np.ndarray  # [N] classes; C for no class
  weight: np.ndarray  # [N]
  fresh: np.ndarray  # [N] bool: of a class, and not trained on
  kind: np.ndarray  # [N] what images of no class are in truth; else -1

  def take(self, rows: np.ndarray) -> 'Known':
    """Selects images."""
    return Known(self.placed.take(rows), *(part[rows] for part in self[1:]))


class Space(NamedTuple):
  """Holds the labelled rows that images are placed by.

  The C classes that are counted are the labeller's, or some of these and a last
  one, in which all others are together.
  """

  labeller: Labeller
  counted: np.ndarray  # the class that each of the labeller's is counted as
  rows: np.ndarray  # of the gallery, at most EACH of a class
  dense: Embeddings  # these rows, labelled by the C classes
  width: float  # of the kernel, squared

  @property
  def names(self) -> tuple[str, ...]:
    """Lists the C classes."""
    return self.dense.class_names


class Quantifier(NamedTuple):
  """Turns places into answers, and answers into shares."""

  posterior: Posterior
  limit: float  # on the distance; inf where validation images are too few
  errors: Errors


Shares = dict[str, np.ndarray]  # by method


def make_space(fitted: Labeller, apart: np.ndarray | None = None) -> Space:
  """Chooses the rows and the width of the classes' densities.

  The width is a quarter of the mean squared distance to the own class's mean.

  Args:
    fitted: the labeller.
    apart: the classes to count apart, in order; None for all of them.
  """
  gallery = fitted.gallery
  rng = np.random.default_rng(SEED)
  order = rng.permutation(len(gallery.label))
  labels, _, means = classes.centroids(gallery.embedding, gallery.label)
  chosen = [order[gallery.label[order] == c][:EACH] for c in labels]
  gaps = gallery.embedding - means[gallery.label]
  width = 0.25 * float(np.mean(np.sum(gaps**2, axis=1)))
  rows = np.sort(np.concatenate(chosen))
  counted, names = np.arange(len(gallery.class_names)), gallery.class_names
  if apart is not None:
    counted = np.full(len(names), len(apart))
    counted[apart] = np.arange(len(apart))
    others = f'{len(names) - len(apart):,} other classes'
    names = (*(names[c] for c in apart.tolist()), others)
  dense = inputs.take(gallery, rows)
  dense = dense._replace(label=counted[dense.label], class_names=names)
  return Space(fitted, counted, rows, dense, max(width, 1e-7))


def choose_classes(
  fitted: Labeller, embedding: np.ndarray
) -> np.ndarray | None:
  """Chooses the classes that most of the images [N, D] are taken for.

  Returns:
    `FEW_CLASSES` of them, in order; None if there are `MOST_CLASSES` or fewer.
  """
  count = len(fitted.gallery.class_names)
  if count <= MOST_CLASSES:
    return None
  nearest, _ = labeller.guess(fitted, embedding)
  return classes.first(np.bincount(nearest, minlength=count), FEW_CLASSES)


def place(space: Space, embedding: np.ndarray) -> Placed:
  """Places embeddings [N, D] of images that are not in the gallery."""
  judged = unknowns.judge(space.labeller.seen, embedding)
  far = posterior.far(space.dense, embedding, space.width)
  return Placed(space.counted[judged.label], judged.distance, far)


def _place_left_out(
  space: Space, rows: np.ndarray
) -> tuple[Placed, np.ndarray]:
  """Places rows [R] of the densities outside of their own class.

  Returns:
    The places of those that are not alone in their class, and their classes.
  """
  dense, seen = space.dense, space.labeller.seen
  kept, distances = unknowns.distances_without(seen, space.rows[rows])
  judged = unknowns.score(seen, distances)
  rows = np.searchsorted(space.rows, kept)
  far = posterior.far(dense, dense.embedding[rows], space.width, rows)
  label = space.counted[judged.label]
  return Placed(label, judged.distance, far), dense.label[rows]


def gather(
  space: Space, val: Embeddings, added: np.ndarray, strange: Embeddings | None
) -> Known:
  """Gathers the images to fit to.

  Args:
    space: of the classes.
    val: images of these classes outside of training.
    added: ids of the gallery's rows that the encoder was not trained on.
    strange: images of no class, labelled by what they are. Without any,
      validation images stand in, each without its own class.
  """
  rng = np.random.default_rng(SEED)
  fresh = np.isin(space.dense.id, added)
  trained = rng.permutation(np.flatnonzero(~fresh))[:MOST]
  of_val = place(space, val.embedding)
  few, of_few = _place_left_out(space, np.flatnonzero(fresh))
  train, of_train = _place_left_out(space, np.sort(trained))
  if strange is not None:
    strange = inputs.take(strange, rng.permutation(len(strange.id))[:MOST])
    none, kind = place(space, strange.embedding), strange.label
  else:
    none, kind = _without_own(space, val, of_val)
  parts = (of_val, few, train, none)
  sizes = [len(part.nearest) for part in parts]
  count = len(space.names)
  # No class counts as much as a class does on average.
  weight = sum(sizes[:3]) / count / sizes[3]
  return Known(
    Placed(*map(np.concatenate, zip(*parts, strict=True))),
    np.concatenate(
      [space.counted[val.label], of_few, of_train, np.full(sizes[3], count)]
    ),
    np.repeat([1.0, 1.0, 1.0, weight], sizes),
    np.arange(sum(sizes)) < sizes[0] + sizes[1],
    np.append(np.full(sum(sizes[:3]), -1), kind),
  )


def _without_own(
  space: Space, val: Embeddings, placed: Placed
) -> tuple[Placed, np.ndarray]:
  """Places images as if their own class were not there.

  Takes those of at most `MOST_KINDS` classes, of such as are counted apart if
  there are any, and also returns which class each is of.
  """
  gallery, seen = space.labeller.gallery, space.labeller.seen
  # What several classes are counted as is there without one of them, too.
  times = np.bincount(space.counted)
  kinds = np.unique(val.label[times[space.counted[val.label]] == 1])
  kinds = kinds if len(kinds) else np.unique(val.label)
  if len(kinds) > MOST_KINDS:
    rng = np.random.default_rng(SEED)
    kinds = np.sort(rng.choice(kinds, MOST_KINDS, replace=False))
  chosen = np.flatnonzero(np.isin(val.label, kinds))
  val, placed = inputs.take(val, chosen), placed.take(chosen)
  nearest, distance = placed.nearest.copy(), placed.distance.copy()
  for label in kinds:
    own, others = val.label == label, gallery.label != label
    without = unknowns.fit_rows(
      gallery.embedding[others],
      gallery.label[others],
      neighbours=labeller.NEIGHBOURS,
    )
    judged = unknowns.judge(
      without._replace(scale=seen.scale), val.embedding[own]
    )
    nearest[own], distance[own] = space.counted[judged.label], judged.distance
  far = placed.far.copy()
  far[np.arange(len(far)), space.counted[val.label]] = far.max(axis=1)
  return Placed(nearest, distance, far), val.label


def set_limit(known: Known, acceptance: float) -> float:
  """Sets the threshold of unknowns as `analysis.predict` does."""
  fresh = known.placed.distance[known.fresh]
  return openset.threshold(fresh, acceptance)


def fit(
  known: Known,
  limit: float,
  times: np.ndarray | None = None,
  start: Posterior | None = None,
) -> Quantifier:
  """Fits to images, each counted `times` [N] times, once if not given."""
  weight = known.weight if times is None else known.weight * times
  some = weight > 0.0
  kept, weight = known.take(some), weight[some]
  found = posterior.fit(kept.placed.far, kept.true, weight, start)
  answers = answer(found, limit, kept.placed)
  return Quantifier(found, limit, prevalence.errors(answers, kept.true, weight))


def answer(found: Posterior, limit: float, placed: Placed) -> Answers:
  """Labels and weighs images; label C means none of the classes."""
  inside = placed.distance <= limit
  label = np.where(inside, placed.nearest, placed.far.shape[1])
  return Answers(label, posterior.chances(found, placed.far))


def estimate(
  quantifier: Quantifier, answers: Answers, times: np.ndarray | None = None
) -> Shares:
  """Estimates the shares [C + 1] by every method."""
  times = np.ones(len(answers.label)) if times is None else times
  return {
    name: method(quantifier.errors, answers, times)
    for name, method in METHODS.items()
  }


class Estimate(NamedTuple):
  """The shares of the classes in one sample, by method."""

  images: int
  shares: Shares  # [C + 1]
  drawn: Shares  # [draws, C + 1] of the bootstrap


def count(
  known: Known, limit: float, samples: Sequence[Placed], *, draws: int
) -> tuple[Quantifier, list[Estimate]]:
  """Estimates the shares in samples.

  The bootstrap resamples both the images of known class (within classes) and
  those of the sample. Its spread does not tell how wrong a method is by its
  assumptions; `trials` do.
  """
  whole = fit(known, limit)
  rng = np.random.default_rng(SEED)
  drawn: list[dict[str, list[np.ndarray]]] = [
    {name: [] for name in METHODS} for _ in samples
  ]
  strata = known.true * 2 + known.fresh
  for _ in tqdm(range(draws), 'bootstrap', delay=2, leave=False):
    again = fit(known, limit, resample(strata, rng), whole.posterior)
    for found, placed in zip(drawn, samples, strict=True):
      answers = answer(again.posterior, limit, placed)
      times = resample(np.zeros(len(placed.nearest), int), rng)
      for name, share in estimate(again, answers, times).items():
        found[name].append(share)
  estimates = [
    Estimate(
      len(placed.nearest),
      estimate(whole, answer(whole.posterior, limit, placed)),
      {name: np.array(shares) for name, shares in found.items()},
    )
    for found, placed in zip(drawn, samples, strict=True)
  ]
  return whole, estimates


def interval(
  value: np.ndarray, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Takes 95 % quantiles of draws [draws, C], which include the value [C]."""
  low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
  return np.minimum(low, value), np.maximum(high, value)


def resample(strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Draws with replacement within strata [N]; returns times drawn [N]."""
  times = np.zeros(len(strata))
  for stratum in np.unique(strata):
    rows = np.flatnonzero(strata == stratum)
    drawn = rng.integers(len(rows), size=len(rows))
    times[rows] = np.bincount(drawn, minlength=len(rows))
  return times
