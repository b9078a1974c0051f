"""Every objective on any batch: order, copies, padding, types, gradients."""

import contextlib
import functools

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import properties
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from objective_batches import unit

from plankton_jax import objectives

CLASSES = 4
MAKE = {
  'triplet nearest': lambda **_: objectives.triplet(
    margin=0.4, stages=(('easy', 'semihard'),)
  ),
  'triplet hard': lambda **_: objectives.triplet(
    margin=0.4, stages=(('hard', 'hard'),), distance='euclidean'
  ),
  'triplet all': lambda **_: objectives.triplet(
    margin=0.4, stages=(('hard', 'semihard'),), select='all', fallback='none'
  ),
  'triplet random': lambda **_: objectives.triplet(
    margin=0.4, stages=(('hard', 'hard'),), select='random'
  ),
  'arcface': objectives.arcface,
  'subcenter_arcface': objectives.subcenter_arcface,
  'cosface': objectives.cosface,
  'softmax': objectives.softmax,
  'proxy_anchor': objectives.proxy_anchor,
  'supcon': lambda **_: objectives.supcon(),
  'multi_similarity': lambda **_: objectives.multi_similarity(),
}
# Two images of one distance tie, and the first of the batch is chosen.
SETTLED = [name for name in MAKE if name != 'triplet random']
PAIRED = [n for n in MAKE if n.startswith(('triplet', 'supcon', 'multi'))]


def _bound(name, dim, classes=CLASSES):
  """Jitted `value_and_grad(params, x, batch)`, and parameters."""
  objective = MAKE[name](num_classes=classes, embedding_dim=dim)

  def loss(params, x, batch):
    return objective.loss(params, x, batch, stage=0, key=jax.random.key(7))

  value = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  return value, objective.init(jax.random.key(0))


# Traced once for each objective and shape, whatever the examples.
BOUND = {name: _bound(name, 4) for name in MAKE}


def batches():
  return properties.unit_batches(dims=(4,), most_classes=CLASSES)


def evaluate(name, x, label, valid):
  """(loss, metrics), (gradients of parameters, of embeddings)."""
  value, params = BOUND[name]
  return value(params, x, properties.batch_of(label, valid))


@pytest.mark.parametrize('name', MAKE)
@given(batches())
def test_loss_and_gradients_are_finite(name, batch):
  x, _, valid = batch
  found = evaluate(name, *batch)
  chex.assert_tree_all_finite(found)
  (loss, metrics), (grads, grad) = found
  chex.assert_shape(loss, ())
  chex.assert_equal_shape([grad, x])
  assert loss >= 0 and 0 <= metrics['count'] <= valid.sum()
  if metrics['count'] == 0:
    assert not np.any(grad)
    if name != 'proxy_anchor':
      assert loss == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize('name', SETTLED)
@given(properties.seeds(), properties.permutations())
def test_the_order_of_the_batch_is_no_matter(name, seed, order):
  rng = np.random.default_rng(seed)
  x = unit(rng.normal(size=(properties.ROWS, 4)))
  label = rng.integers(0, CLASSES, properties.ROWS)
  valid = rng.random(properties.ROWS) < 0.8
  result, (grads, grad) = evaluate(name, x, label, valid)
  moved_result, (moved_grads, moved_grad) = evaluate(
    name, x[order], label[order], valid[order]
  )
  # A logit of size 64 keeps 4e-6, so that a gradient keeps 1e-4.
  close = {'rtol': 1e-4, 'atol': 1e-4}
  chex.assert_trees_all_close(moved_result, result, **close)
  chex.assert_trees_all_close(moved_grads, grads, **close)
  np.testing.assert_allclose(moved_grad, np.asarray(grad)[order], **close)


@pytest.mark.parametrize('filling', [1e30, np.nan, np.inf])
@pytest.mark.parametrize('name', MAKE)
@given(batches(), st.sampled_from([-1, CLASSES, 9_999]))
def test_padding_changes_nothing_whatever_it_holds(name, filling, batch, stray):
  x, label, valid = batch
  clean = evaluate(name, x, label, valid)
  x, label = x.copy(), label.copy()
  x[~valid], label[~valid] = filling, stray
  found = evaluate(name, x, label, valid)
  chex.assert_tree_all_finite(found)
  _, (_, grad) = found
  assert not np.any(np.asarray(grad)[~valid])
  chex.assert_trees_all_close(found, clean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', SETTLED)
@given(properties.seeds())
def test_duplicated_rows_are_pulled_alike(name, seed):
  rng = np.random.default_rng(seed)
  x = unit(rng.normal(size=(properties.ROWS // 2, 4)))
  x = np.concatenate([x, x])
  label = np.tile(rng.integers(0, CLASSES, properties.ROWS // 2), 2)
  found = evaluate(name, x, label, np.ones(len(x), bool))
  chex.assert_tree_all_finite(found)
  if name.startswith('triplet'):  # which takes the first of two as negative
    return
  _, (_, grad) = found
  first, second = np.split(np.asarray(grad), 2)
  np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', MAKE)
def test_one_row_of_one_number(name):
  value, params = _bound(name, 1)
  x = np.ones((1, 1), np.float32)
  found = value(params, x, properties.batch_of([1], [True]))
  chex.assert_tree_all_finite(found)
  (loss, _), (_, grad) = found
  if name in PAIRED:
    assert loss == 0 and not np.any(grad)


@pytest.mark.parametrize('name', PAIRED)
@given(batches())
def test_one_class_has_no_negatives(name, batch):
  x, _, valid = batch
  found = evaluate(name, x, np.full(len(x), 3), valid)
  chex.assert_tree_all_finite(found)
  (loss, metrics), (_, grad) = found
  if name != 'supcon':  # which has positives to tell apart
    assert loss == 0 and metrics['count'] == 0 and not np.any(grad)


@pytest.mark.parametrize('name', MAKE)
def test_ten_thousand_classes(name):
  # To pairs a label is a name alone, which compiles nothing new.
  value, params = BOUND[name] if name in PAIRED else _bound(name, 4, 10_000)
  rng = np.random.default_rng(0)
  x = unit(rng.normal(size=(properties.ROWS, 4)))
  label = np.repeat(rng.integers(0, 10_000, properties.ROWS // 2), 2)
  label[0] = 9_999
  batch = properties.batch_of(label, np.ones(len(x), bool))
  found = value(params, x, batch)
  chex.assert_tree_all_finite(found)
  (loss, _), (grads, _) = found
  if name in PAIRED:
    renamed = np.unique(label, return_inverse=True)[1]
    again = value(params, x, properties.batch_of(renamed, batch['valid']))
    chex.assert_trees_all_equal(found, again)
  elif name in ('softmax', 'cosface', 'arcface'):
    expected = reference.prototype_loss(
      params['prototypes'],
      x,
      label,
      batch['valid'],
      scale={'softmax': 20.0}.get(name, 64.0),
      angular=0.5 if name == 'arcface' else 0.0,
      additive=0.35 if name == 'cosface' else 0.0,
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
  for leaf in jax.tree.leaves(grads):
    assert np.any(leaf[9_999])


@pytest.mark.parametrize('name', MAKE)
def test_half_precision_embeddings_are_refused(name):
  # A scale of 64 leaves bfloat16 no digit of a logit behind the point.
  value, params = BOUND[name]
  x = jnp.eye(properties.ROWS, 4, dtype=jnp.bfloat16)
  batch = properties.batch_of(np.zeros(len(x), int), np.ones(len(x), bool))
  with pytest.raises(AssertionError, match='type'):
    value(params, x, batch)


@contextlib.contextmanager
def _float64():
  """Doubles in JAX; objectives insist on float32 unless asserts are off."""
  with jax.enable_x64(True):
    chex.disable_asserts()
    try:
      yield
    finally:
      chex.enable_asserts()


@functools.cache
def _slopes(name, dim=3, step=1e-6):
  """`params` shaped for init, and `(flat, batch) -> exact, numeric` slopes."""
  objective = MAKE[name](num_classes=CLASSES, embedding_dim=dim)
  params = objective.init(jax.random.key(0))

  @jax.jit
  def slopes(params, x, batch):
    # Objectives have gradients along the sphere: leave it, and they differ.
    flat, unflatten = jax.flatten_util.ravel_pytree((params, x))

    def loss(flat):
      params, x = unflatten(flat)
      x /= jnp.linalg.norm(x, axis=1, keepdims=True)
      key = jax.random.key(7)
      return objective.loss(params, x, batch, stage=0, key=key)[0]

    moves = step * jnp.eye(flat.size)
    losses = jax.lax.map(
      loss, flat + jnp.stack([moves, -moves]).reshape(-1, flat.size)
    )
    upper, lower = losses.reshape(2, -1)
    return jax.grad(loss)(flat), (upper - lower) / (2 * step)

  return params, slopes


@pytest.mark.parametrize('name', SETTLED)
@given(properties.seeds())
def test_gradients_equal_finite_differences_in_float64(name, seed):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(9, 3))
  label = rng.integers(0, CLASSES, len(x))
  valid = rng.random(len(x)) < 0.9
  with _float64():
    params, slopes = _slopes(name)
    params = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
    exact, numeric = slopes(params, x, properties.batch_of(label, valid))
  assert exact.dtype == numeric.dtype == np.float64
  np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-6)
