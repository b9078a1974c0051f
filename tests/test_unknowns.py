"""The whitened space and its three distances against loops in float64."""

import itertools
import math

import numpy as np
import pytest
from scipy.spatial import distance
from sklearn import covariance

from analysis.measures import classes, openset, unknowns, whitened
from analysis.measures.openset import threshold
from tests.analysis_runs import blobs

COUNTS = (9, 1, 6, 14)


def strangers(seed=5):
  """Rows of the four classes, and of a fifth."""
  return blobs([3] * 5, noise=0.5, seed=seed).embedding


def fit(rows, held_out=None, k=4):
  return unknowns.fit(rows.embedding, rows.label, held_out, neighbours=k)


def test_whitened_rows_vary_alike_within_classes():
  rows = blobs(COUNTS, noise=0.4, dim=5, seed=1)
  points = rows.embedding.astype(np.float64)
  space = whitened.fit(rows.embedding, rows.label)
  residuals = []
  for c in (0, 2, 3):  # a class of one row says nothing
    own = points[rows.label == c]
    n = len(own)
    residuals += [(x - own.mean(axis=0)) * math.sqrt(n / (n - 1)) for x in own]
  shrunk = covariance.LedoitWolf(assume_centered=True).fit(residuals)
  np.testing.assert_allclose(
    space.map @ space.map.T, np.linalg.inv(shrunk.covariance_), rtol=1e-4
  )
  new = strangers()[:, :5].astype(np.float64)
  found = whitened.squared(space, whitened.whiten(space, new))
  inverse = np.linalg.inv(shrunk.covariance_)
  for i, c in itertools.product(range(len(new)), range(4)):
    own = points[rows.label == c]
    gap = new[i] - own.mean(axis=0)
    want = gap @ inverse @ gap / (1 + 1 / len(own))
    assert found[i, c] == pytest.approx(want, rel=1e-4)


def test_distances_near_a_mean_keep_their_digits():
  rows = blobs([6] * 5, noise=1e-3, dim=5, seed=1)
  space = whitened.fit(rows.embedding, rows.label)
  points = np.concatenate([space.means, space.means + 1e-3, 50 * space.means])
  found = whitened.squared(space, points)
  apart = distance.cdist(points, space.means, 'sqeuclidean')
  np.testing.assert_allclose(found, apart / (1 + 1 / 6), rtol=1e-9)
  assert (np.diag(found) == 0).all()


def loops(rows, new, k, skip=None):
  """The three distances of `new`, in the space of all rows; label too.

  With `skip`, `new` are these labelled rows, each left out.
  """
  space = whitened.fit(rows.embedding, rows.label)
  points = space.rows.astype(np.float64)
  target = points[skip] if skip is not None else whitened.whiten(space, new)

  def unit(x):
    return x / np.linalg.norm(x)

  def kth(x, without, k):
    far = sorted(
      (np.linalg.norm(unit(x) - unit(y)), j)
      for j, y in enumerate(points)
      if j not in without
    )
    return far[k - 1][0], [j for _, j in far[:k]]

  found = []
  for i, x in enumerate(target):
    out = {skip[i]} if skip is not None else set()
    means, cosines, sizes = {}, [], {}
    for c in np.unique(rows.label):
      own = [
        p for j, p in enumerate(points) if rows.label[j] == c and j not in out
      ]
      mean = np.mean(own, axis=0)
      means[c] = np.linalg.norm(x - mean) / math.sqrt(1 + 1 / len(own))
      cosines.append(unit(x) @ unit(mean))
      sizes[c] = len(own)
    label = min(means, key=means.get)
    few = min(k, sizes[label])
    far, near = kth(x, out, few)
    among = np.mean([kth(points[j], {j}, few)[0] for j in near])
    found.append((label, means[label], 1 - max(cosines), far / among))
  return [np.array(column) for column in zip(*found, strict=True)]


@pytest.mark.parametrize('block', [classes.ENTRIES, 20])
def test_distances_match_loops(monkeypatch, block):
  monkeypatch.setattr(classes, 'ENTRIES', block)
  monkeypatch.setattr(unknowns, 'APART', 0.0)
  rows, new = blobs(COUNTS, noise=0.4, seed=1), strangers()
  found = unknowns.distances(fit(rows), new)
  for ours, theirs in zip(found, loops(rows, new, 4), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize('block', [classes.ENTRIES, 20])
def test_rows_left_out_match_loops(monkeypatch, block):
  monkeypatch.setattr(classes, 'ENTRIES', block)
  monkeypatch.setattr(unknowns, 'APART', 0.0)
  rows = blobs(COUNTS, noise=0.4, seed=1)
  which, found = unknowns.distances_without(fit(rows, k=6), np.arange(30))
  alone = np.flatnonzero(rows.label == 1)
  assert which.tolist() == [i for i in range(30) if i not in alone]
  for ours, theirs in zip(found, loops(rows, None, 6, which), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)


def test_the_score_adds_distances_over_their_deviations():
  rows, new = blobs(COUNTS, noise=0.4, seed=1), strangers()
  held_out = blobs([20] * 4, noise=0.4, seed=2).embedding
  seen = fit(rows, held_out)
  spread = unknowns.distances(seen, held_out)
  found = unknowns.distances(seen, new)
  judged = unknowns.judge(seen, new)
  for i in range(len(new)):
    want = sum(
      getattr(found, part)[i] / max(np.std(getattr(spread, part)), least)
      for part, least in zip(
        ('mean', 'angle', 'density'), unknowns.LEAST, strict=True
      )
    )
    assert judged.distance[i] == pytest.approx(want)
  assert all(np.std(spread.density) > least for least in unknowns.LEAST[1:])
  np.testing.assert_array_equal(judged.label, found.label)


def test_strangers_score_higher_than_images_of_the_classes():
  rows = blobs([60, 50, 40], noise=0.2, dim=16, seed=1)
  seen = fit(rows, blobs([30] * 3, noise=0.2, dim=16, seed=2).embedding, k=10)
  known = unknowns.judge(
    seen, blobs([40] * 3, noise=0.2, dim=16, seed=3).embedding
  )
  far = unknowns.judge(
    seen, blobs([40], noise=0.2, first=4, dim=16, seed=4).embedding
  )
  assert np.mean(far.distance > np.quantile(known.distance, 0.95)) > 0.95


def test_a_sample_of_rows_tells_the_density(monkeypatch):
  rows, new = blobs([90, 80, 70], seed=1), strangers()
  whole = unknowns.distances(fit(rows), new)
  monkeypatch.setattr(unknowns, 'MOST', 120)
  seen = fit(rows)
  assert len(seen.directions) == len(set(seen.sample)) == 120
  part = unknowns.distances(seen, new)
  np.testing.assert_array_equal(part.mean, whole.mean)
  np.testing.assert_allclose(part.density, whole.density, rtol=0.6)
  # Rows outside of the sample are left out of it as they are.
  _, apart = unknowns.distances_without(seen, np.arange(240))
  assert np.isfinite(apart.density).all() and np.median(apart.density) < 2


@pytest.mark.parametrize(
  ('counts', 'noise', 'dim'),
  [
    ((1,), 0.3, 6),  # one row
    ((1, 1, 1), 0.3, 6),  # classes of one row
    ((20,), 0.3, 6),  # one class, whose mean is the origin
    ((8, 8), 0.0, 6),  # identical images
    ((3, 2), 0.3, 40),  # more dimensions than rows
    ((2, 1), 0.0, 3),
  ],
)
def test_degenerate_rows_give_finite_distances(counts, noise, dim):
  rows = blobs(counts, noise=noise, dim=dim, seed=1)
  new = blobs([3] * 2, noise=0.4, dim=dim, seed=2).embedding
  for held_out in (None, new[:1], rows.embedding):
    seen = fit(rows, held_out, k=10)
    for embedding in (new, rows.embedding, np.zeros((1, dim), np.float32)):
      judged = unknowns.judge(seen, embedding)
      assert np.isfinite(judged.distance).all()
      assert set(judged.label) <= set(rows.label)
  near = unknowns.judge(seen, rows.embedding[:1]).distance
  assert near <= unknowns.judge(seen, -rows.embedding[:1]).distance
  empty = unknowns.judge(seen, new[:0])
  assert empty.label.shape == empty.distance.shape == (0,)


def test_duplicates_do_not_make_their_surroundings_infinitely_far():
  rows = blobs([12, 12], seed=1)
  rows.embedding[rows.label == 0] = rows.embedding[rows.label == 0][0]
  seen = fit(rows)
  close = rows.embedding[rows.label == 0][:1] + np.float32(1e-4)
  found = unknowns.distances(seen, close)
  assert found.density < 2 / unknowns.APART and np.isfinite(found.density)


def test_nearest_mean_allows_for_how_few_examples_it_has():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(401, 30))
  x[400] += 4.0 / math.sqrt(30) * np.ones(30)
  label = np.repeat([0, 1], [400, 1])
  space = whitened.fit(x, label)
  new = rng.normal(size=(400, 30)) + 4.0 / math.sqrt(30)
  squared = whitened.squared(space, whitened.whiten(space, new))
  assert np.mean(squared.argmin(axis=1) == 1) > 0.5
  plain = squared * (1 + 1 / space.counts)
  assert np.mean(plain.argmin(axis=1) == 1) < 0.2


def test_dissimilarity_matches_counts():
  rng = np.random.default_rng(0)
  true, predicted = rng.integers(0, 5, 40), rng.integers(0, 6, (3, 40))
  found = openset.dissimilarity(true, predicted, 6)
  for one, value in zip(predicted, found, strict=True):
    want = [np.sum(true == c) for c in range(6)]
    have = [np.sum(one == c) for c in range(6)]
    gap = sum(abs(a - b) for a, b in zip(want, have, strict=True))
    assert value == pytest.approx(gap / (sum(want) + sum(have)))
  # Mistakes that cancel cost nothing.
  assert openset.dissimilarity(np.array([0, 1]), np.array([1, 0]), 2) == 0.0


def test_best_acceptance_is_that_of_the_smallest_dissimilarity(monkeypatch):
  rng = np.random.default_rng(1)
  val = rng.normal(size=60)
  true = np.repeat([0, 1, 2], [40, 30, 25])
  nearest = np.where(true == 2, rng.integers(0, 2, 95), true)
  distance = rng.normal(size=95) + 1.5 * (true == 2)
  shares = (0.5, 0.7, 0.9, 0.95, 0.99)  # 60 images have no threshold at 0.99
  monkeypatch.setattr(openset, 'SHARES', shares)
  found = openset.best_acceptance(true, nearest, distance, val, unknown=2)

  def measure(share, rows):
    limit = threshold(val, share)
    named = np.where(distance <= limit, nearest, 2)[rows]
    return float(openset.dissimilarity(true[rows], named, 3))

  every = {share: measure(share, slice(None)) for share in shares[:-1]}
  assert found.acceptance == min(every, key=every.get)
  apart = []
  for start in (0, 1):
    chosen = min(
      reversed(shares[:-1]),
      key=lambda share: measure(share, slice(1 - start, None, 2)),
    )
    apart.append(measure(chosen, slice(start, None, 2)))
  assert found.dissimilarity == pytest.approx(np.mean(apart))
  monkeypatch.setattr(openset, 'SHARES', (0.9,))
  few = openset.best_acceptance(true, nearest, distance, val[:1], unknown=2)
  assert few is None
