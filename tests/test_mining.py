import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from plankton_jax import distances, mining

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


@pytest.mark.parametrize('wrap', [jax.jit, lambda f: f], ids=['jit', 'eager'])
@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
@pytest.mark.parametrize('name', BATCHES)
def test_equals_loops(name, policy, wrap):
  dists, labels, valid = BATCHES[name]
  options = {'positive': policy[0], 'negative': policy[1], 'margin': 0.25}
  mine = wrap(lambda *args: mining.mine_triplets(*args, **options))
  mined = mine(jnp.asarray(dists), jnp.asarray(labels), jnp.asarray(valid))
  expected = reference.mine_loop(dists, labels, valid, **options)
  for field, got, want in zip(mined._fields, mined, expected, strict=True):
    np.testing.assert_array_equal(got, want, err_msg=field)
  assert mined.positive.dtype == mined.negative.dtype == jnp.int32


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
  straight = mining.mine_triplets(dists, labels, valid, **options)
  permuted = mining.mine_triplets(
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
  mined = jax.vmap(lambda *a: mining.mine_triplets(*a, **options))(*stacked)
  for i, name in enumerate(names):
    alone = mining.mine_triplets(*BATCHES[name], **options)
    for got, want in zip(mined, alone, strict=True):
      np.testing.assert_array_equal(got[i], want)


def test_random_draws_uniformly_among_those_that_qualify():
  # Anchor 0 with its positive at 0.5; rows 2 to 5 are semi-hard, 6 too far.
  d_an = [0.55, 0.6, 0.65, 0.7, 0.9]
  dists = jnp.ones((7, 7)).at[0].set(jnp.array([0.0, 0.5, *d_an]))
  labels = jnp.array([0, 0, 1, 1, 2, 2, 3])
  draw = jax.vmap(
    lambda key: mining.mine_triplets(
      dists,
      labels,
      jnp.ones(7, bool),
      positive='hard',
      negative='semihard',
      margin=0.25,
      select='random',
      key=key,
    ).negative[0]
  )
  drawn = draw(jax.random.split(jax.random.key(0), 4000))
  counts = np.bincount(np.asarray(drawn), minlength=7)
  assert counts[[0, 1, 6]].sum() == 0
  # 1000 expected of each, standard deviation 27.
  np.testing.assert_allclose(counts[2:6], 1000, atol=110)


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
