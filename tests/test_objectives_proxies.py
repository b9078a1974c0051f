import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from objective_batches import CASES, unit

from plankton_jax import objectives


def _value_and_grads(prototypes, case, **fields):
  x, label, valid = case
  objective = objectives.proxy_anchor(
    num_classes=len(prototypes), embedding_dim=x.shape[1], **fields
  )
  batch = {'label': jnp.asarray(label), 'valid': jnp.asarray(valid)}

  def loss(prototypes, x):
    return objective.loss({'prototypes': prototypes}, x, batch, stage=0)

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
    jnp.asarray(prototypes), jnp.asarray(x)
  )


@pytest.mark.parametrize('name', CASES)
def test_proxy_anchor_equals_loops_and_finite_differences(name):
  fields = {'margin': 0.2, 'scale': 16.0}
  x, labels, valid = CASES[name]
  prototypes = np.random.default_rng(5).normal(size=(14, 5)).astype(np.float32)
  (loss, metrics), grads = _value_and_grads(prototypes, CASES[name], **fields)

  def expected(prototypes, x):
    return reference.proxy_anchor_loss(prototypes, x, labels, valid, **fields)

  np.testing.assert_allclose(loss, expected(prototypes, x), rtol=1e-5)
  assert metrics['count'] == valid.sum()
  chex.assert_tree_all_finite((loss, metrics, grads))
  chex.assert_trees_all_equal_shapes(grads, (prototypes, x))
  for grad, numeric in zip(
    grads,
    (
      reference.gradient(lambda p: expected(p, x), prototypes),
      reference.gradient(lambda e: expected(prototypes, e), x),
    ),
    strict=True,
  ):
    atol = 1e-4 * max(np.abs(numeric).max(), 1e-6)
    np.testing.assert_allclose(grad, numeric, atol=atol)


def test_nothing_in_the_batch_gives_exactly_zero():
  prototypes = np.eye(14, 5, dtype=np.float32)  # most of them zero
  (loss, metrics), grads = _value_and_grads(prototypes, CASES['nothing'])
  assert loss == 0.0 and metrics['count'] == 0
  for grad in grads:
    np.testing.assert_array_equal(grad, 0.0)


def test_proxy_anchor_by_hand():
  # One class is in the batch: it alone pulls, and two classes push.
  x, scale, margin = unit([[1.0, 0.0]]), 2.0, 0.1
  prototypes = np.array([[0.0, 3.0], [3.0, 0.0]], np.float32)
  case = (x, np.array([0]), np.ones(1, bool))
  (loss, metrics), _ = _value_and_grads(
    prototypes, case, scale=scale, margin=margin
  )
  pull = np.log(1 + np.exp(-scale * (0.0 - margin)))
  push = np.log(1 + np.exp(scale * (1.0 + margin)))
  np.testing.assert_allclose(loss, pull + (0.0 + push) / 2, rtol=1e-6)
  assert metrics['accuracy'] == 0.0
