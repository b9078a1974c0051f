import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from objective_batches import CASES, unit

from plankton_jax import mining, objectives
from plankton_jax.objectives import pairs

MS = {'alpha': 2.0, 'beta': 50.0, 'base': 0.5, 'epsilon': 0.1}


def _value_and_grad(objective, case):
  x, label, valid = case
  batch = {'label': jnp.asarray(label), 'valid': jnp.asarray(valid)}
  return _compiled(objective)(jnp.asarray(x), batch)


@functools.cache
def _compiled(objective):
  """The loss with its gradient, traced once for all batches of a shape."""

  def loss(x, batch):
    return objective.loss(objective.init(None), x, batch, stage=0)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


supcon = functools.cache(objectives.supcon)
multi_similarity = functools.cache(objectives.multi_similarity)


def _close(grad, numeric):
  chex.assert_tree_all_finite(grad)
  atol = max(1e-4 * np.abs(numeric).max(), 2e-6)  # 0 by cancellation
  np.testing.assert_allclose(grad, numeric, atol=atol)


def _check_distances(metrics, case, anchors):
  x, labels, valid = case
  dists = reference.squared_loop(x, x)
  usable = valid[:, None] & valid & ~np.eye(len(x), dtype=bool)
  same = labels[:, None] == labels
  for name, mask in (('d_ap', usable & same), ('d_an', usable & ~same)):
    means = [dists[i, mask[i]].mean() if mask[i].any() else 0 for i in anchors]
    np.testing.assert_allclose(metrics[name], np.mean(means or [0]), atol=1e-6)


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('temperature', [0.1, 0.5])
def test_supcon_equals_loops_and_finite_differences(name, temperature):
  case = CASES[name]
  x, labels, valid = case
  objective = supcon(temperature=temperature)
  (loss, metrics), grad = _value_and_grad(objective, case)
  expected = lambda x: reference.supcon_loss(
    x, labels, valid, temperature=temperature
  )
  np.testing.assert_allclose(loss, expected(x), rtol=1e-5, atol=1e-6)
  _close(grad, reference.gradient(expected, x))
  usable = valid[:, None] & valid & ~np.eye(14, dtype=bool)
  anchors = np.flatnonzero((usable & (labels[:, None] == labels)).any(axis=1))
  assert metrics['count'] == len(anchors)
  if name != 'zero rows':  # 2 - 2 cos is of unit vectors
    _check_distances(metrics, case, anchors)


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('epsilon', [0.1, -0.2])
def test_multi_similarity_equals_loops_and_finite_differences(name, epsilon):
  case = CASES[name]
  x, labels, valid = case
  fields = MS | {'epsilon': epsilon}
  (loss, metrics), grad = _value_and_grad(multi_similarity(**fields), case)
  expected, mined = reference.multi_similarity_loss(x, labels, valid, **fields)
  np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
  # The pairs are mined without gradient, and held fixed here.
  fixed = lambda x: reference.multi_similarity_loss(
    x, labels, valid, **fields, mined=mined
  )[0]
  _close(grad, reference.gradient(fixed, x))
  assert metrics['count'] == len(mined)
  if mined:
    active = np.mean([bool(negatives) for _, negatives in mined.values()])
    np.testing.assert_allclose(metrics['active_fraction'], active, rtol=1e-6)
  if name != 'zero rows':
    _check_distances(metrics, case, list(mined))


def test_a_negative_epsilon_leaves_pairs_out():
  # Else the cases above would not tell mining from none.
  x, labels, valid = CASES['random']
  count = lambda mined: sum(len(p) + len(n) for p, n in mined.values())
  counts = [
    count(
      reference.multi_similarity_loss(
        x, labels, valid, **(MS | {'epsilon': epsilon})
      )[1]
    )
    for epsilon in (-0.2, 0.1, 9.0)
  ]
  assert 0 < counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize('name', ['all distinct', 'nothing'])
@pytest.mark.parametrize('kind', ['supcon', 'multi_similarity'])
def test_no_anchors_give_exactly_zero_and_zero_gradient(kind, name):
  (loss, metrics), grad = _value_and_grad(
    getattr(objectives, kind)(), CASES[name]
  )
  assert loss == 0.0 and metrics['count'] == 0
  np.testing.assert_array_equal(grad, 0.0)


def test_supcon_by_hand():
  # Two of a class at a right angle, one of another opposite to the first.
  x = unit([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
  case = (x, np.array([0, 0, 1]), np.ones(3, bool))
  (loss, metrics), _ = _value_and_grad(objectives.supcon(temperature=1.0), case)
  first = -np.log(1 / (1 + np.exp(-1.0)))
  second = -np.log(1 / 2)
  np.testing.assert_allclose(loss, (first + second) / 2, rtol=1e-6)
  assert metrics['count'] == 2
  np.testing.assert_allclose(metrics['d_ap'], 2.0)
  np.testing.assert_allclose(metrics['d_an'], (4.0 + 2.0) / 2)


@pytest.mark.parametrize(('epsilon', 'kept'), [(0.25, False), (0.5, True)])
def test_pairs_at_the_bound_of_the_mining_are_left_out(epsilon, kept):
  # An anchor, its positive and its negative, their cosines 0.25 apart.
  masks = mining.PairMasks(
    positive=jnp.array([[False, True, False]]),
    negative=jnp.array([[False, False, True]]),
  )
  found = pairs._mined_pairs(masks, jnp.array([[1.0, 0.5, 0.25]]), epsilon)
  assert found.positive.tolist() == [[False, kept, False]]
  assert found.negative.tolist() == [[False, False, kept]]


@pytest.mark.parametrize(
  ('name', 'defaults'),
  [('supcon', {'temperature': 0.1}), ('multi_similarity', MS)],
)
def test_defaults_are_the_published_ones(name, defaults):
  parameters = inspect.signature(getattr(objectives, name)).parameters
  assert {n: p.default for n, p in parameters.items()} == defaults
