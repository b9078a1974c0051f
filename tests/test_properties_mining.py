"""Distances and mined triplets of any batch."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from plankton_jax import distances, mining
from plankton_jax.errors import InputError

POLICIES = [(p, n) for p in mining.POSITIVES for n in mining.NEGATIVES]
MARGIN = 2.0  # of squared distances of whole numbers: ties at both ends

squared = jax.jit(distances.squared)
euclidean = jax.jit(distances.euclidean)
cosine = jax.jit(distances.cosine)


@functools.partial(jax.jit, static_argnames=('policy', 'select'))
def mine(dists, label, valid, key=None, *, policy, select='nearest'):
  positive, negative = policy
  return mining.mine_triplets(
    dists,
    label,
    valid,
    positive=positive,
    negative=negative,
    margin=MARGIN,
    select=select,
    key=key,
  )


@functools.partial(jax.jit, static_argnames=('policy', 'select'))
def mine_embeddings(x, label, valid, key=None, *, policy, select='nearest'):
  positive, negative = policy
  return mining.mine_embeddings(
    x,
    label,
    valid,
    metric=distances.squared,
    positive=positive,
    negative=negative,
    margin=MARGIN,
    select=select,
    key=key,
  )


def assert_same(mined, expected):
  for field, got, want in zip(mined._fields, mined, expected, strict=True):
    np.testing.assert_array_equal(got, want, err_msg=field)


@given(properties.batches(), properties.permutations())
def test_distances_equal_loops_in_any_order(batch, order):
  x, _, _ = batch
  exact = reference.squared_loop(x, x)
  # Sums of small whole numbers are exact in float32.
  np.testing.assert_array_equal(squared(x), exact)
  np.testing.assert_array_equal(squared(x[order]), exact[np.ix_(order, order)])
  np.testing.assert_array_equal(squared(x, x[order]), exact[:, order])
  np.testing.assert_allclose(euclidean(x), np.sqrt(exact), rtol=1e-6)


@given(properties.batches(), st.integers(-20, 20))
def test_distances_are_a_metrics(batch, power):
  x, _, _ = batch
  dists = np.asarray(euclidean(x), np.float64)
  np.testing.assert_array_equal(dists, dists.T)
  np.testing.assert_array_equal(dists == 0, (x[:, None] == x).all(axis=2))
  through = (dists[:, :, None] + dists[None]).min(axis=1)
  assert (dists <= through * (1 + 1e-6)).all()
  # A power of two changes no digit.
  scale = np.float32(2.0**power)
  np.testing.assert_array_equal(squared(x * scale), squared(x) * scale**2)


@given(properties.batches(), st.integers(-10, 10))
def test_cosine_distance_sees_directions_alone(batch, power):
  x, _, _ = batch
  dists = np.asarray(cosine(x))
  norms = np.linalg.norm(x.astype(np.float64), axis=1)
  directions = x / np.where(norms == 0, np.inf, norms)[:, None]
  expected = 1.0 - directions @ directions.T
  np.fill_diagonal(expected, 0.0)
  np.testing.assert_allclose(dists, expected, atol=3e-7)
  assert (dists >= 0).all() and (dists <= 2).all()
  np.testing.assert_allclose(
    cosine(x * np.float32(2.0**power)), dists, atol=3e-7
  )
  np.testing.assert_allclose(cosine(x, -x)[norms > 0], 2.0 - _whole(dists, x))


def _whole(dists, x):
  """Cosine distances with the rounding of each row to itself."""
  return np.asarray(cosine(x, x))[np.linalg.norm(x, axis=1) > 0]


@functools.partial(jax.jit, static_argnames='function')
def gradient(x, *other, function):
  return jax.grad(lambda x: jnp.sum(function(x, *other)))(x)


@pytest.mark.parametrize('function', [squared, euclidean, cosine])
@given(properties.batches(), st.booleans())
def test_gradients_of_distances_are_finite(function, batch, both):
  x, _, _ = batch
  other = (x[::-1],) if both else ()
  chex.assert_tree_all_finite(gradient(x, *other, function=function))


@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
@given(properties.batches())
def test_triplets_equal_loops(policy, batch):
  x, label, valid = batch
  dists = reference.squared_loop(x, x).astype(np.float32)
  expected = reference.mine_loop(
    dists, label, valid, positive=policy[0], negative=policy[1], margin=MARGIN
  )
  assert_same(mine(dists, label, valid, policy=policy), expected)
  assert_same(mine_embeddings(x, label, valid, policy=policy), expected)


@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
@given(properties.batches(), properties.permutations())
def test_the_order_of_the_batch_changes_no_distance_mined(policy, batch, order):
  # Ties go to the lowest index, so that indices may change, distances not.
  x, label, valid = batch
  dists = reference.squared_loop(x, x).astype(np.float32)
  straight = mine(dists, label, valid, policy=policy)
  moved = mine(
    dists[np.ix_(order, order)], label[order], valid[order], policy=policy
  )
  rows = np.arange(len(x))
  for field in ('valid', 'fallback'):
    np.testing.assert_array_equal(
      getattr(moved, field), np.asarray(getattr(straight, field))[order]
    )
  for field in ('positive', 'negative'):
    there, here = getattr(moved, field), getattr(straight, field)
    np.testing.assert_array_equal(
      dists[order, order[there]][moved.valid],
      dists[rows, here][order][moved.valid],
    )


@pytest.mark.parametrize('filling', [np.nan, np.inf, -np.inf])
@given(properties.batches())
def test_whatever_padded_rows_hold_changes_no_triplet(filling, batch):
  x, label, valid = batch
  policy = ('hard', 'semihard')
  clean = mine_embeddings(x, label, valid, policy=policy)
  x, label = x.copy(), label.copy()
  x[~valid], label[~valid] = filling, -1
  assert_same(mine_embeddings(x, label, valid, policy=policy), clean)
  dists = np.array(squared(np.where(valid[:, None], x, 0)))
  dists[~valid], dists[:, ~valid] = filling, filling
  assert_same(mine(dists, label, valid, policy=policy), clean)


@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
@given(properties.batches(), properties.keys())
def test_a_random_triplet_meets_the_policy(policy, batch, key):
  x, label, valid = batch
  dists = reference.squared_loop(x, x).astype(np.float32)
  nearest = mine(dists, label, valid, policy=policy)
  drawn = mine(dists, label, valid, key, policy=policy, select='random')
  tiled = mine_embeddings(x, label, valid, key, policy=policy, select='random')
  assert_same(tiled, drawn)
  assert_same(
    drawn._replace(negative=nearest.negative), nearest
  )  # but for the negative
  rows = np.arange(len(x))
  gaps = dists[rows, drawn.negative] - dists[rows, drawn.positive]
  met = np.asarray(drawn.valid & ~drawn.fallback)
  within = (gaps > 0) & (gaps < MARGIN) if policy[1] == 'semihard' else gaps < 0
  assert within[met].all()
  assert valid[drawn.negative][met].all()
  assert (label[drawn.negative] != label)[met].all()


@pytest.mark.parametrize('wrap', [jax.jit, lambda f: f], ids=['jit', 'eager'])
def test_half_precision_distances_mine_as_the_same_values(wrap):
  # From 512 on bfloat16 counts by 4s, and a margin of 5 would be 4.
  half = jnp.full((4, 4), 1000, jnp.bfloat16).at[0, 2:].set(1004)
  label, valid = np.array([0, 0, 1, 1]), np.ones(4, bool)
  mine = wrap(
    lambda dists: mining.mine_triplets(
      dists, label, valid, positive='easy', negative='semihard', margin=5.0
    )
  )
  assert_same(mine(half), mine(half.astype(jnp.float32)))
  assert not mine(half).fallback[0]


@given(properties.batches())
def test_half_precision_embeddings_are_refused(batch):
  # Their squares keep two digits: nothing in the loss is to be computed so.
  x, label, valid = batch
  half = jnp.asarray(x, jnp.bfloat16)
  for function in (distances.squared, distances.euclidean, distances.cosine):
    with pytest.raises(AssertionError, match='type'):
      function(half)
  with pytest.raises(AssertionError, match='type'):
    mine_embeddings(half, label, valid, policy=POLICIES[0])


@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
@pytest.mark.parametrize('dim', [1, 4])
def test_one_row_mines_nothing(policy, dim):
  x, label, valid = np.ones((1, dim), np.float32), np.zeros(1, int), [True]
  nothing = ([0], [0], [False], [False])
  valid = np.array(valid)
  assert_same(mine_embeddings(x, label, valid, policy=policy), nothing)
  assert_same(mine(squared(x), label, valid, policy=policy), nothing)


@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
def test_ten_thousand_classes(policy):
  # Two images of one class only: labels are names, their size is no matter.
  label = np.linspace(0, 9_999, properties.ROWS).astype(np.int32)
  label[5] = label[-1]
  x = np.arange(properties.ROWS, dtype=np.float32)[:, None]
  valid = np.ones(len(x), bool)
  mined = mine_embeddings(x, label, valid, policy=policy)
  np.testing.assert_array_equal(np.flatnonzero(mined.valid), [5, 11])
  np.testing.assert_array_equal(np.asarray(mined.positive)[[5, 11]], [11, 5])


@given(properties.batches(rows=30), st.sampled_from(distances.METRICS))
def test_class_means_equal_loops_in_any_order(batch, metric):
  x, label, _ = batch
  classes = int(label.max()) + 2  # the last has no row
  order = np.random.default_rng(0).permutation(len(x))
  means = distances.class_means(x, label, classes, metric=metric)
  pairs = _pair_distances(x.astype(np.float64), metric)
  expected = np.full((classes, classes), np.nan)
  for a in range(classes):
    for b in range(classes):
      chosen = np.outer(label == a, label == b)
      np.fill_diagonal(chosen, False)
      if chosen.any():
        expected[a, b] = pairs[chosen].mean()
  np.testing.assert_allclose(means, expected, atol=2e-7)
  np.testing.assert_allclose(means, means.T, atol=1e-12)
  again = distances.class_means(x[order], label[order], classes, metric=metric)
  np.testing.assert_allclose(again, means, atol=2e-7)


def _pair_distances(x, metric):
  if metric in ('squared', 'euclidean'):
    dists = reference.squared_loop(x, x)
    return dists if metric == 'squared' else np.sqrt(dists)
  norms = np.linalg.norm(x, axis=1)
  directions = x / np.where(norms == 0, np.inf, norms)[:, None]
  cos = np.clip(directions @ directions.T, -1.0, 1.0)
  return 1.0 - cos if metric == 'cosine' else np.arccos(cos)


@given(properties.batches(rows=30))
def test_class_means_of_half_precision_are_those_of_its_values(batch):
  x, label, _ = batch
  half = jnp.asarray(x, jnp.bfloat16)
  for metric in distances.METRICS:
    means = functools.partial(distances.class_means, metric=metric)
    np.testing.assert_array_equal(
      means(half, label, 30), means(x, label, 30), err_msg=metric
    )


@given(properties.batches(), st.data())
def test_class_means_refuse_what_they_cannot_use(batch, data):
  x, label, _ = batch
  row = data.draw(st.integers(0, len(x) - 1))
  broken = x.copy()
  broken[row, 0] = data.draw(st.sampled_from([np.nan, np.inf]))
  with pytest.raises(InputError, match=f'row {row} is not finite'):
    distances.class_means(broken, label, 30, metric='cosine')
  with pytest.raises(InputError, match='not in 0'):
    distances.class_means(x, label, int(label.max()), metric='squared')
