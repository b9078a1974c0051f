import os
from concurrent import futures

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import distance

from plankton_jax import distances
from plankton_jax.errors import InputError

PAIRWISE = {
  distances.squared: 'sqeuclidean',
  distances.euclidean: 'euclidean',
  distances.cosine: 'cosine',
}
WRAPS = pytest.mark.parametrize('wrap', [jax.jit, lambda f: f])


def unit_rows(*shape, seed=0):
  x = np.random.default_rng(seed).normal(size=shape)
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@WRAPS
@pytest.mark.parametrize('dist', PAIRWISE)
def test_two_sets_match_scipy(dist, wrap):
  x, y = unit_rows(13, 7), 2.0 * unit_rows(9, 7, seed=1)
  want = distance.cdist(x.astype(float), y.astype(float), PAIRWISE[dist])
  got = wrap(dist)(x, y)
  chex.assert_shape(got, (13, 9))
  chex.assert_type(got, jnp.float32)
  np.testing.assert_allclose(got, want, atol=2e-6)


@WRAPS
@pytest.mark.parametrize('dist', PAIRWISE)
def test_one_set_is_symmetric_with_zero_diagonal(dist, wrap):
  x = np.concatenate([unit_rows(70, 33), np.zeros((2, 33), np.float32)])
  x[3] = x[50] = x[0]
  got = np.asarray(wrap(dist)(x))
  np.testing.assert_array_equal(got, got.T)
  np.testing.assert_array_equal(np.diagonal(got), 0.0)
  assert got.min() == 0.0  # Never below.
  np.testing.assert_array_equal(got[:, 3], got[:, 0])
  np.testing.assert_array_equal(got[:, 50], got[:, 0])
  want = distance.cdist(x[:70].astype(float), x[:70].astype(float))
  if dist is distances.cosine:
    want = want**2 / 2
    np.testing.assert_array_equal(got[71, :71], 1.0)
  elif dist is distances.squared:
    want = want**2
    assert got[0, 3] == got[0, 50] == got[70, 71] == 0.0
  np.testing.assert_allclose(got[:70, :70], want, atol=2e-6)


def test_cosine_stays_in_range():
  x = unit_rows(300, 33)
  got = np.asarray(distances.cosine(x, np.concatenate([3.0 * x, -0.7 * x])))
  assert got.min() == 0.0 and got.max() == 2.0


@pytest.mark.parametrize(('rows', 'columns'), [(200, 128), (500, 512)])
def test_error_near_zero_is_as_documented(rows, columns):
  x = unit_rows(rows, columns)
  near = x + 1e-4 * unit_rows(rows, columns, seed=1)
  want = distance.cdist(x, near, 'sqeuclidean')  # in float64
  scale = 2.0
  np.testing.assert_allclose(
    distances.squared(x, near), want, atol=3e-7 * scale
  )
  got = np.asarray(distances.euclidean(x, near))
  np.testing.assert_allclose(got, np.sqrt(want), atol=8e-4)
  assert got.min() >= 0.0


@pytest.mark.parametrize('dist', PAIRWISE)
@pytest.mark.parametrize('both', [False, True])
def test_gradients_are_finite_everywhere(dist, both):
  x = np.zeros((8, 5), np.float32)
  x[:4] = unit_rows(4, 5)
  x[3] = x[0]  # A duplicate; rows 4 and on are zero,
  x[6, 0], x[7, 1] = 1e-7, 1e-30  # or as good as.
  weights = np.random.default_rng(2).normal(size=(8, 8)).astype(np.float32)

  def total(x):
    return jnp.sum(weights * (dist(x, x) if both else dist(x)))

  chex.assert_tree_all_finite(jax.jit(jax.grad(total))(x))


@pytest.mark.parametrize('dist', PAIRWISE)
def test_gradients_match_finite_differences(dist):
  x, y = unit_rows(5, 4), 1.5 * unit_rows(6, 4, seed=1)
  weights = np.random.default_rng(2).normal(size=(5, 6))
  got = jax.grad(lambda x: jnp.sum(weights * dist(x, y)))(x)

  def total(x):
    return (weights * distance.cdist(x, y, PAIRWISE[dist])).sum()

  want, step = np.zeros(x.shape), 1e-6
  for i in np.ndindex(x.shape):
    shift = np.zeros(x.shape)
    shift[i] = step
    want[i] = (total(x + shift) - total(x - shift)) / (2 * step)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dist', PAIRWISE)
def test_wrong_rank_or_type_is_refused(dist):
  with pytest.raises(AssertionError):
    dist(jnp.zeros(3))
  with pytest.raises(AssertionError):
    dist(jnp.zeros((3, 2), int))
  with pytest.raises(AssertionError):
    dist(jnp.zeros((3, 2)), jnp.zeros((3, 2), jnp.bfloat16))


def class_means_loop(x, labels, num_classes, metric, include_self):
  """Means over scipy's full matrix, pair by pair."""
  name = {'squared': 'sqeuclidean', 'angular': 'cosine'}.get(metric, metric)
  dists = distance.cdist(x.astype(float), x.astype(float), name)
  if metric == 'angular':
    dists = np.arccos(np.clip(1.0 - dists, -1.0, 1.0))
  means = np.full((num_classes, num_classes), np.nan)
  for a in range(num_classes):
    for b in range(num_classes):
      pairs = [
        0.0 if i == j else dists[i, j]
        for i in np.flatnonzero(labels == a)
        for j in np.flatnonzero(labels == b)
        if i != j or include_self
      ]
      if pairs:
        means[a, b] = np.mean(pairs)
  return means


@pytest.mark.parametrize('metric', distances.METRICS)
@pytest.mark.parametrize('include_self', [False, True])
@pytest.mark.parametrize('tile', [1, 7, 10_000])
def test_class_means_match_scipy(metric, include_self, tile, monkeypatch):
  monkeypatch.setattr(distances, 'TILE', tile)
  rng = np.random.default_rng(0)
  labels = rng.choice([0, 1, 3, 4], size=60, p=[0.5, 0.3, 0.15, 0.05])
  labels[7] = 5  # A single row; class 2 has none.
  x = unit_rows(60, 6) + labels[:, None].astype(np.float32)
  x[4] = x[9] = x[20]
  got = distances.class_means(
    x, labels, 7, metric=metric, include_self=include_self
  )
  want = class_means_loop(x, labels, 7, metric, include_self)
  np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-7)
  assert np.isnan(got[2]).all() and np.isnan(got[6]).all()
  assert np.isnan(got[5, 5]) != include_self


def test_few_tiles_wait_to_be_added(monkeypatch):
  """However many there are, and however slowly they are added."""
  waiting, most = 0, 0

  class Pool(futures.ThreadPoolExecutor):
    def submit(self, *args):
      nonlocal waiting, most
      future = super().submit(*args)
      waiting += 1
      most = max(most, waiting)

      def result(*timeout):
        nonlocal waiting
        waiting -= 1
        return futures.Future.result(future, *timeout)

      future.result = result
      return future

  monkeypatch.setattr(distances, 'ThreadPoolExecutor', Pool)
  monkeypatch.setattr(distances, 'TILE', 1)
  labels = np.arange(30) % 3
  distances.class_means(unit_rows(30, 4), labels, 3, metric='euclidean')
  assert waiting == 0 and 1 < most <= 2 * os.cpu_count()  # of 465 tiles


@pytest.mark.parametrize('metric', ['euclidean', 'squared'])
def test_class_means_far_from_the_origin(metric):
  x = unit_rows(30, 5).astype(float)
  labels = np.arange(30) % 3
  want = class_means_loop(x, labels, 3, metric, False)
  got = distances.class_means(x + 1e6, labels, 3, metric=metric)
  np.testing.assert_allclose(got, want, rtol=1e-8)


@pytest.mark.parametrize('metric', distances.METRICS)
def test_class_means_of_a_collapsed_space(metric):
  """Nearly equal rows, and rows nearly opposite, keep their accuracy."""
  rng = np.random.default_rng(0)
  centre = unit_rows(1, 16).astype(float)
  x = centre + 1e-5 * rng.normal(size=(40, 16))
  labels = np.arange(40) % 4
  x[labels == 3] *= -1.0
  got = distances.class_means(x, labels, 4, metric=metric)
  u = x / np.linalg.norm(x, axis=1, keepdims=True)
  gap = np.linalg.norm(u[:, None] - u, axis=2)
  total = np.linalg.norm(u[:, None] + u, axis=2)
  dists = {
    'euclidean': distance.cdist(x, x),
    'squared': distance.cdist(x, x) ** 2,
    'cosine': gap**2 / 2,
    'angular': 2.0 * np.arctan2(gap, total),
  }[metric]
  for a in range(4):
    for b in range(4):
      block = dists[labels == a][:, labels == b]
      want = block.sum() / (90 if a == b else 100)
      np.testing.assert_allclose(got[a, b], want, rtol=1e-4)


def test_class_means_of_zero_rows():
  x = np.array([[0, 0], [0, 0], [1, 0], [2, 0]], np.float32)
  labels = np.array([0, 0, 1, 1])
  got = distances.class_means(x, labels, 2, metric='angular')
  np.testing.assert_allclose(got, np.pi / 2 * np.array([[1, 1], [1, 0]]))
  got = distances.class_means(x, labels, 2, metric='cosine')
  np.testing.assert_allclose(got, [[1, 1], [1, 0]])


def test_class_means_refuses_bad_input():
  x, labels = unit_rows(6, 3), np.arange(6) % 2
  with pytest.raises(InputError, match=r'manhattan.*euclidean'):
    distances.class_means(x, labels, 2, metric='manhattan')
  with pytest.raises(InputError, match=r'label 1 of row 1 .* 0 … 0'):
    distances.class_means(x, labels, 1, metric='cosine')
  with pytest.raises(InputError, match='label -1 of row 0'):
    distances.class_means(x, labels - 1, 2, metric='cosine')
  with pytest.raises(InputError, match=r'labels of shape \(5,\) for 6'):
    distances.class_means(x, labels[:5], 2, metric='cosine')
  with pytest.raises(InputError, match=r'shape \(6,\)'):
    distances.class_means(x[:, 0], labels, 2, metric='cosine')
  with pytest.raises(InputError, match='empty'):
    distances.class_means(x[:0], labels[:0], 2, metric='cosine')
  x[4, 1], x[5, 0] = np.nan, np.inf
  with pytest.raises(InputError, match=r'row 4 is not finite .* 2\)'):
    distances.class_means(x, labels, 2, metric='cosine')
