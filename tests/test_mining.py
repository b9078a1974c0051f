import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from plankton_jax import distances, mining, objectives

POLICIES = [(p, n) for p in mining.POSITIVES for n in mining.NEGATIVES]


def _unit(rng, rows, dim=4):
  x = rng.normal(size=(rows, dim))
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def _batches():
  rng = np.random.default_rng(0)
  rows = 17
  everything = np.ones(rows, bool)
  labels = rng.integers(0, 4, rows)
  x = _unit(rng, rows)
  random = np.array(distances.squared(x))
  # A grid of few values ties positives with negatives and with d_ap + margin.
  tied = rng.integers(0, 4, (rows, rows)).astype(np.float32) / 4
  tied = np.maximum(tied, tied.T)
  duplicated = np.array(distances.squared(x[rng.integers(0, 5, rows)]))
  valid = rng.random(rows) < 0.6
  padded = random.copy()
  padded[~valid] = padded[:, ~valid] = np.nan  # whatever a padded row holds
  return {
    'random': (random, labels, everything),
    'tied': (tied, labels, everything),
    'duplicated': (duplicated, labels, everything),
    'one class': (random, np.zeros(rows, int), everything),
    'all distinct': (random, np.arange(rows), everything),
    'one singleton': (random, np.minimum(np.arange(rows), 1), everything),
    'padded': (padded, labels, valid),
    'all padded': (random, labels, ~everything),
    'one row': (random[:1, :1], labels[:1], everything[:1]),
  }


BATCHES = _batches()


# Traced once for each policy and shape, whatever the batch.
_mine = jax.jit(
  mining.mine_triplets,
  static_argnames=('positive', 'negative', 'margin', 'select'),
)


@pytest.mark.parametrize(
  'mine', [_mine, mining.mine_triplets], ids=['jit', 'eager']
)
@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
@pytest.mark.parametrize('name', BATCHES)
def test_equals_loops(name, policy, mine):
  dists, labels, valid = BATCHES[name]
  options = {'positive': policy[0], 'negative': policy[1], 'margin': 0.25}
  mine = functools.partial(mine, **options)
  mined = mine(jnp.asarray(dists), jnp.asarray(labels), jnp.asarray(valid))
  expected = reference.mine_loop(dists, labels, valid, **options)
  chex.assert_trees_all_equal(mined._asdict(), _fields(mined, expected))
  chex.assert_shape(mined, (len(labels),))
  chex.assert_type((mined.positive, mined.negative), jnp.int32)


def _fields(mined, expected):
  return {
    name: np.asarray(want, got.dtype)
    for name, got, want in zip(mined._fields, mined, expected, strict=True)
  }


@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
def test_a_policy_is_traced_once_whatever_the_batch_holds(policy):
  chex.clear_trace_counter()
  options = {'positive': policy[0], 'negative': policy[1], 'margin': 0.25}
  once = chex.assert_max_traces(
    lambda *args: mining.mine_triplets(*args, **options), n=1
  )
  mine = jax.jit(once)
  for name in ('random', 'tied', 'one class', 'padded', 'all padded'):
    mine(*map(jnp.asarray, BATCHES[name]))


def test_batches_reach_every_branch():
  reached = set()
  for dists, labels, valid in BATCHES.values():
    for positive, negative in POLICIES:
      *_, anchor, fallback = reference.mine_loop(
        dists, labels, valid, positive=positive, negative=negative, margin=0.25
      )
      reached |= {
        (negative, bool(a), bool(f))
        for a, f in zip(anchor, fallback, strict=True)
      }
  assert reached == {
    (negative, *flags)
    for negative in mining.NEGATIVES
    for flags in [(True, True), (True, False), (False, False)]
  }


@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
def test_permuting_the_batch_permutes_the_triplets(policy):
  dists, labels, valid = BATCHES['random']
  options = {'positive': policy[0], 'negative': policy[1], 'margin': 0.25}
  order = np.random.default_rng(1).permutation(len(labels))
  straight = _mine(dists, labels, valid, **options)
  permuted = _mine(
    dists[np.ix_(order, order)], labels[order], valid[order], **options
  )
  np.testing.assert_array_equal(
    order[permuted.negative], np.asarray(straight.negative)[order]
  )
  np.testing.assert_array_equal(
    order[permuted.positive], np.asarray(straight.positive)[order]
  )


@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
def test_vmap_over_batches(policy):
  options = {'positive': policy[0], 'negative': policy[1], 'margin': 0.25}
  names = ['random', 'tied', 'duplicated', 'padded']
  stacked = [
    jnp.stack(x) for x in zip(*(BATCHES[n] for n in names), strict=True)
  ]
  mined = jax.vmap(lambda *a: _mine(*a, **options))(*stacked)
  for i, name in enumerate(names):
    alone = _mine(*BATCHES[name], **options)
    for got, want in zip(mined, alone, strict=True):
      np.testing.assert_array_equal(got[i], want)


def test_random_draws_uniformly_among_those_that_qualify():
  # Anchors 0 and 1, 0.5 apart; rows 2 to 5 are semi-hard, 6 and 7 are at the
  # ends of the open interval.
  d_an = [0.55, 0.6, 0.65, 0.7, 0.75, 0.5]
  dists = jnp.ones((8, 8)).at[0].set(jnp.array([0.0, 0.5, *d_an]))
  dists = dists.at[1].set(jnp.array([0.5, 0.0, *d_an]))
  labels = jnp.array([0, 0, 1, 1, 2, 2, 3, 3])
  draw = jax.vmap(
    lambda key: _mine(
      dists,
      labels,
      jnp.ones(8, bool),
      positive='hard',
      negative='semihard',
      margin=0.25,
      select='random',
      key=key,
    ).negative[:2]
  )
  drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
  counts = np.bincount(drawn[:, 0], minlength=8)
  assert counts[[0, 1, 6, 7]].sum() == 0
  # 1000 expected of each, standard deviation 27; so often both draw one row.
  np.testing.assert_allclose(counts[2:6], 1000, atol=110)
  np.testing.assert_allclose(np.sum(drawn[:, 0] == drawn[:, 1]), 1000, atol=110)


@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
@pytest.mark.parametrize('name', BATCHES)
def test_random_falls_back_to_the_nearest(name, policy):
  dists, labels, valid = BATCHES[name]
  options = {'positive': policy[0], 'negative': policy[1], 'margin': 0.25}
  nearest = _mine(dists, labels, valid, **options)
  drawn = _mine(
    *(dists, labels, valid),
    **options,
    select='random',
    key=jax.random.key(1),
  )
  drawn = jax.device_get(drawn)
  for field in ('positive', 'valid', 'fallback'):
    np.testing.assert_array_equal(
      getattr(drawn, field), getattr(nearest, field)
    )
  for a in range(len(labels)):
    n = int(drawn.negative[a])
    if not drawn.valid[a] or drawn.fallback[a]:
      assert n == nearest.negative[a]
      continue
    gap = dists[a, n] - dists[a, drawn.positive[a]]
    assert 0 < gap < 0.25 if policy[1] == 'semihard' else gap < 0
    assert valid[n] and labels[n] != labels[a]


def _embeddings():
  """Whole numbers, so that products are exact and ties are ties."""
  rng = np.random.default_rng(3)
  rows = 17
  everything = np.ones(rows, bool)
  labels = rng.integers(0, 4, rows)
  x = rng.integers(-2, 3, (rows, 3)).astype(np.float32)
  valid = rng.random(rows) < 0.6
  padded = np.where(valid[:, None], x, np.nan).astype(np.float32)
  return {
    'grid': (x, labels, everything),
    'identical': (np.ones_like(x), labels, everything),
    'one class': (x, np.zeros(rows, int), everything),
    'all distinct': (x, np.arange(rows), everything),
    'padded': (padded, labels, valid),
    'all padded': (x, labels, ~everything),
    'one row': (x[:1], labels[:1], everything[:1]),
  }


EMBEDDINGS = _embeddings()
TILES = pytest.mark.parametrize('rows', [0, 4, 1000])  # at least one fits


def _set_tile(monkeypatch, rows, batch):
  for name in ('CPU_TILE', 'TILE'):
    monkeypatch.setattr(mining, name, 4 * batch * rows)


@functools.cache
def _tiled(rows, **options):
  """Mining by tiles of so many rows, traced once for each shape."""
  del rows  # tells apart what is traced after another `_set_tile`
  return jax.jit(functools.partial(mining.mine_embeddings, **options))


@TILES
@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
@pytest.mark.parametrize('name', EMBEDDINGS)
def test_tiles_equal_loops(name, policy, rows, monkeypatch):
  x, labels, valid = EMBEDDINGS[name]
  _set_tile(monkeypatch, rows, len(x))
  options = {'positive': policy[0], 'negative': policy[1], 'margin': 2.0}
  mine = _tiled(rows, metric=distances.squared, **options, select='nearest')
  mined = mine(x, labels, valid, key=None)
  expected = reference.mine_loop(
    reference.squared_loop(x, x), labels, valid, **options
  )
  for field, got, want in zip(mined._fields, mined, expected, strict=True):
    np.testing.assert_array_equal(got, want, err_msg=field)


@TILES
@pytest.mark.parametrize('select', mining.SELECTS)
@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
@pytest.mark.parametrize('metric', [distances.squared, distances.euclidean])
def test_tiles_equal_the_whole(metric, policy, select, rows, monkeypatch):
  x = _unit(np.random.default_rng(4), 50, 8)
  labels = np.arange(50) % 6
  _set_tile(monkeypatch, rows, len(x))
  options = {
    'positive': policy[0],
    'negative': policy[1],
    'margin': 0.25,
    'select': select,
  }
  key, valid = jax.random.key(2), np.arange(50) < 45
  whole = _mine(metric(x), labels, valid, **options, key=key)
  tiled = mining.mine_embeddings(
    x, labels, valid, metric=metric, **options, key=key
  )
  for got, want in zip(tiled, whole, strict=True):
    np.testing.assert_array_equal(got, want)


def test_vmap_over_embeddings(monkeypatch):
  _set_tile(monkeypatch, 4, 17)
  mine = lambda *args: mining.mine_embeddings(
    *args,
    metric=distances.squared,
    positive='hard',
    negative='semihard',
    margin=2.0,
    select='nearest',
    key=None,
  )
  names = ['grid', 'identical', 'padded', 'one class']
  stacked = [
    jnp.stack(x) for x in zip(*(EMBEDDINGS[n] for n in names), strict=True)
  ]
  mined, mine = jax.jit(jax.vmap(mine))(*stacked), jax.jit(mine)
  for i, name in enumerate(names):
    for got, want in zip(mined, mine(*EMBEDDINGS[name]), strict=True):
      np.testing.assert_array_equal(got[i], want)


@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
def test_a_row_that_is_not_finite_shows_in_the_loss(policy):
  x, labels, valid = EMBEDDINGS['grid']
  batch = {'label': jnp.asarray(labels), 'valid': jnp.asarray(valid)}
  objective = objectives.triplet(margin=0.2, stages=(policy,))
  measure = jax.jit(functools.partial(objective.loss, stage=0))
  for row in range(len(x)):
    broken = jnp.asarray(x).at[row].set(jnp.nan)
    loss, metrics = measure({}, broken, batch)
    assert np.isnan(loss) and metrics['count'] == len(x)


def _temporary(batch, select):
  """Bytes that the loss and its gradient need beside their arguments."""
  objective = objectives.triplet(
    margin=0.2, stages=(('easy', 'semihard'),), select=select
  )
  key = jax.random.key(0)
  loss = lambda x, rows: objective.loss({}, x, rows, stage=0, key=key)[0]
  rows = {
    'label': jax.ShapeDtypeStruct((batch,), jnp.int32),
    'valid': jax.ShapeDtypeStruct((batch,), bool),
  }
  x = jax.ShapeDtypeStruct((batch, 128), jnp.float32)
  compiled = jax.jit(jax.grad(loss)).lower(x, rows).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_as_the_batch():
  # The tiles keep their size; all else is a few copies of the embeddings.
  large = _temporary(16384, 'nearest')
  assert large < 300e6
  assert large < 2.1 * _temporary(8192, 'nearest')
  assert _temporary(16384, 'random') < 300e6
  assert _temporary(16384, 'all') < 300e6


@pytest.mark.parametrize('metric', [distances.cosine, distances.euclidean])
def test_distances_computed_in_the_same_program_are_found_again(metric):
  x = _unit(np.random.default_rng(5), 40, 6)
  labels, valid = np.arange(40) % 5, np.ones(40, bool)
  options = {'positive': 'easy', 'negative': 'semihard', 'margin': 0.25}
  mine = lambda x: mining.mine_triplets(metric(x), labels, valid, **options)
  expected = reference.mine_loop(metric(x), labels, valid, **options)
  for got, want in zip(jax.jit(mine)(x), expected, strict=True):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('ulps', [-1, 1])
@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
def test_an_extremum_that_was_rounded_otherwise_is_still_found(
  policy, ulps, monkeypatch
):
  # As if a compiler had fused the distances into their minimum and into the
  # search for its place, and rounded them in two ways.
  least = mining._least

  def rounded_otherwise(dists, mask):
    toward = jnp.float32(ulps * jnp.inf)
    value = least(dists, mask)
    return jnp.where(jnp.isinf(value), value, jnp.nextafter(value, toward))

  dists, labels, valid = BATCHES['random']
  options = {'positive': policy[0], 'negative': policy[1], 'margin': 0.25}
  expected = mining.mine_triplets(dists, labels, valid, **options)
  assert min(map(np.count_nonzero, expected[:2])) > 12  # 0 is not the answer
  monkeypatch.setattr(mining, '_least', rounded_otherwise)
  mined = mining.mine_triplets(dists, labels, valid, **options)
  for got, want in zip(mined, expected, strict=True):
    np.testing.assert_array_equal(got, want)


def test_an_index_is_of_the_mask_whatever_the_distances():
  dists = jnp.asarray([0.5, jnp.nan, 2.0, 1.0, jnp.inf])
  first_at, drawn = jax.jit(mining._first_at), jax.jit(mining._drawn)
  for members in ([3], [1], [4], [1, 4], [2, 3]):
    mask = jnp.zeros(5, bool).at[jnp.asarray(members)].set(True)
    for value in (0.0, 1.0, -jnp.inf, jnp.inf, jnp.nan):
      assert int(first_at(value, dists, mask)) in members
    for meets in (mask, jnp.zeros(5, bool)):
      for draw in (0.0, 0.5, 1.0):  # 1 itself is never drawn
        assert int(drawn(meets, jnp.float32(draw), mask)) in members


def test_equal_distances_go_before_those_within_rounding_error():
  dists = jnp.asarray([3.0, 1.0 - 2.0**-23, 1.0, 1.0])
  everything = jnp.ones(4, bool)
  assert int(mining._first_at(1.0, dists, everything)) == 2
  assert int(mining._first_at(1.0 + 2.0**-22, dists, everything)) == 1
  assert int(mining._first_at(2.0, dists, everything)) == 0


@pytest.mark.parametrize(
  'wrong',
  [
    {'positive': 'soft'},
    {'negative': 'easy'},
    {'select': 'last'},
    {'select': 'random'},
  ],
)
def test_unknown_policy_raises(wrong):
  options = {'positive': 'easy', 'negative': 'hard', 'margin': 0.2} | wrong
  with pytest.raises(ValueError, match=r'policy|key'):
    mining.mine_triplets(*BATCHES['random'], **options)
