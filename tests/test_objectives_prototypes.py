import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from objective_batches import CASES, random, unit

from plankton_jax import objectives
from plankton_jax.objectives import CLASS_WEIGHTS, class_weights
from plankton_jax.objectives import prototypes as heads

# Each objective, with what the reference calls its hyperparameters.
KINDS = {
  'softmax': ({'scale': 20.0}, {}),
  'arcface': ({'scale': 32.0, 'margin': 0.4}, {'angular': 0.4}),
  'cosface': ({'scale': 32.0, 'margin': 0.3}, {'additive': 0.3}),
  'subcenter_arcface': (
    {'scale': 32.0, 'margin': 0.4, 'centers': 3},
    {'angular': 0.4},
  ),
}


@functools.cache
def _objective(kind, classes=14, dim=5, **fields):
  make = getattr(objectives, kind)
  return make(num_classes=classes, embedding_dim=dim, **fields)


def _value_and_grads(objective, prototypes, case):
  x, label, valid = case
  batch = {'label': jnp.asarray(label), 'valid': jnp.asarray(valid)}
  return _compiled(objective)(jnp.asarray(prototypes), jnp.asarray(x), batch)


@functools.cache
def _compiled(objective):
  """The loss with its gradients, traced once for all batches of a shape."""

  def loss(prototypes, x, batch):
    return objective.loss({'prototypes': prototypes}, x, batch, stage=0)

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def _check_gradients(grads, expected, prototypes, x):
  """Compares gradients with finite differences of a loop."""
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


@pytest.mark.parametrize('dim', [8, 128, 512])
def test_a_step_of_adam_turns_a_prototype_by_its_rate_at_any_length(dim):
  objective = objectives.arcface(num_classes=24, embedding_dim=dim)
  params = objective.init(jax.random.key(0))
  gradient = jax.tree.map(
    lambda p: jax.random.normal(jax.random.key(1), p.shape), params
  )
  tx = optax.adam(1e-3)
  updates, _ = tx.update(gradient, tx.init(params), params)
  moved = optax.apply_updates(params, updates)
  before, after = (
    np.asarray(p['prototypes'], np.float64) for p in (params, moved)
  )
  before /= np.linalg.norm(before, axis=1, keepdims=True)
  after /= np.linalg.norm(after, axis=1, keepdims=True)
  angle = np.linalg.norm(after - before, axis=1)
  assert 0.5e-3 < np.median(angle) < 2e-3


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('kind', KINDS)
def test_losses_equal_loops_with_gradients_of_finite_differences(kind, name):
  fields, given = KINDS[kind]
  objective = _objective(kind, **fields)
  prototypes = 2.0 * objective.init(jax.random.key(3))['prototypes']
  x, labels, valid = CASES[name]
  (loss, metrics), grads = _value_and_grads(objective, prototypes, CASES[name])

  def expected(prototypes, x):
    return reference.prototype_loss(
      prototypes, x, labels, valid, scale=fields['scale'], **given
    )

  if name != 'zero rows' or 'angular' not in given:  # they have no angle
    np.testing.assert_allclose(loss, expected(prototypes, x), rtol=1e-5)
  assert metrics['count'] == valid.sum()
  chex.assert_tree_all_finite((loss, metrics, grads))
  if name in ('random', 'padded', 'nothing'):
    _check_gradients(grads, expected, prototypes, x)


@pytest.mark.parametrize('kind', ['arcface', 'subcenter_arcface'])
def test_a_sampled_loss_is_that_of_its_classes_alone(kind):
  fields, given = KINDS[kind]
  weights = np.linspace(0.5, 2.0, 16)
  objective = getattr(objectives, kind)(
    num_classes=16,
    embedding_dim=5,
    class_weights=weights,
    sample_prototypes=0.45,  # 7.2 classes are 8
    **fields,
  )
  prototypes = np.asarray(objective.init(jax.random.key(3))['prototypes'])
  x, labels, valid = random(6), np.array([14, 5, 5, 99, 9, 2]), np.ones(6, bool)
  valid[3] = False
  batch = {'label': jnp.asarray(labels), 'valid': jnp.asarray(valid)}
  key = jax.random.key(7)

  def value(prototypes, x):
    given = {'prototypes': prototypes}, x, batch
    loss, _ = objective.loss(*given, stage=0, key=key)
    whole, _ = objective.validation_loss(*given, stage=0)
    return loss, (
      whole,
      heads.sample_classes(
        key, labels.clip(0, 15), batch['valid'], num_classes=16, count=8
      ),
    )

  both = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))
  (loss, (whole, classes)), (grad, grad_x) = both(prototypes, x)
  classes = np.asarray(classes)
  assert len(classes) == 8 and 15 not in classes  # to which padding is clipped

  def expected(own, x, classes=classes):
    rows = [
      weights[labels[row]]
      * reference.prototype_loss(
        own,
        x[row : row + 1],
        [classes.tolist().index(labels[row])],
        [True],
        scale=fields['scale'],
        **given,
      )
      for row in np.flatnonzero(valid)
    ]
    return np.mean(rows)

  np.testing.assert_allclose(loss, expected(prototypes[classes], x), rtol=1e-5)
  _check_gradients((grad[classes], grad_x), expected, prototypes[classes], x)
  others = np.setdiff1d(np.arange(16), classes)
  np.testing.assert_array_equal(grad[others], 0.0)
  np.testing.assert_allclose(
    whole, expected(prototypes, x, np.arange(16)), rtol=1e-5
  )


def test_classes_are_those_of_the_batch_and_others_by_chance():
  label, valid = jnp.array([7, 3, 7, 19]), jnp.array([True, True, True, False])
  draw = jax.jit(heads.sample_classes, static_argnames=('num_classes', 'count'))
  keys = jax.random.split(jax.random.key(0), 2000)
  found = jax.vmap(
    lambda key: draw(key, label, valid, num_classes=20, count=6)
  )(keys)
  assert (np.diff(found, axis=1) > 0).all()  # sorted, none twice
  drawn = np.bincount(np.ravel(found), minlength=20) / len(keys)
  assert drawn[3] == drawn[7] == 1.0
  # Of the other 18, that of the padding among them, four are drawn.
  others = np.delete(drawn, [3, 7])
  np.testing.assert_allclose(others, 4 / 18, atol=5 * 0.42 / 2000**0.5)
  # A batch may be of as many classes as it has rows.
  raised = jax.eval_shape(
    lambda: draw(keys[0], label, valid, num_classes=20, count=1)
  )
  assert raised.shape == (4,)
  whole = draw(keys[0], label % 3, valid, num_classes=3, count=1)
  np.testing.assert_array_equal(whole, [0, 1, 2])


def test_of_several_centers_the_nearest_counts():
  centers = np.stack([[[1, 0], [0, 1]], [[-1, 0], [0, -1]]]).astype(np.float32)
  x = unit([[0.6, 0.8], [-0.8, 0.1], [0.3, -0.9]])
  params = {'prototypes': jnp.asarray(centers)}
  np.testing.assert_allclose(
    objectives.cosines(params, jnp.asarray(x)),
    np.maximum(x @ centers[:, 0].T, x @ centers[:, 1].T),
    rtol=1e-6,
  )
  objective = objectives.subcenter_arcface(
    num_classes=2, embedding_dim=2, centers=2, scale=2.0
  )
  case = (x, np.array([0, 1, 0]), np.ones(3, bool))
  (_, metrics), _ = _value_and_grads(objective, centers, case)
  np.testing.assert_allclose(metrics['accuracy'], 2 / 3, rtol=1e-6)
  # Row 0 moves the nearest center of each class, and no other.
  case = (x[:1], np.array([0]), np.ones(1, bool))
  _, (grad, _) = _value_and_grads(objective, centers, case)
  moved = np.abs(np.asarray(grad)).max(axis=-1) > 0
  np.testing.assert_array_equal(moved, [[False, True], [True, False]])


def _at_angles(angles, dim=6):
  """Rows at these angles from the prototype e_0, float32."""
  rng = np.random.default_rng(2)
  aside = rng.normal(size=(len(angles), dim))
  aside[:, 0] = 0.0
  aside = aside / np.linalg.norm(aside, axis=1, keepdims=True)
  angles = np.asarray(angles)[:, None]
  return (np.cos(angles) * np.eye(dim)[0] + np.sin(angles) * aside).astype(
    np.float32
  )


ANGLES = np.array(
  [0.0, 1e-4, 1e-3, 0.02, 0.5, 1.2, 2.0, 2.6, 2.65, 3.0, np.pi - 1e-3, np.pi]
)


def _arcface(embeddings, labels, prototypes, *, margin=0.5, scale=64.0):
  objective = _objective(
    'arcface', *prototypes.shape, margin=margin, scale=scale
  )
  case = (embeddings, labels, np.ones(len(labels), bool))
  return _value_and_grads(objective, prototypes, case)


@pytest.mark.parametrize('angle', ANGLES)
def test_arcface_equals_float64_at_every_angle(angle):
  prototypes = np.vstack([3 * np.eye(6)[0], random(4, 6)]).astype(np.float32)
  x = _at_angles([angle])
  (loss, _), grads = _arcface(x, [0], prototypes)
  expected = reference.prototype_loss(
    prototypes, x, [0], [True], angular=0.5, scale=64.0
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
  chex.assert_tree_all_finite((loss, grads))


@pytest.mark.parametrize('margin', [0.5, 0.0, 1.2])
def test_arcface_gradient_equals_finite_differences(margin):
  prototypes = np.vstack([3 * np.eye(6)[0], random(4, 6)]).astype(np.float32)
  x = _at_angles([a for a in ANGLES if abs(np.cos(a)) < 1 - 1e-4])
  labels = np.zeros(len(x), int)
  _, grads = _arcface(x, labels, prototypes, margin=margin)
  points = [prototypes, x]
  for which, grad in enumerate(grads):

    def moved(point, which=which):
      both = [point if i == which else points[i] for i in range(2)]
      return reference.prototype_loss(
        *both, labels, labels == 0, angular=margin, scale=64.0
      )

    numeric = reference.gradient(moved, points[which], h=1e-7)
    scale = np.abs(numeric).max()
    np.testing.assert_allclose(grad, numeric, atol=1e-4 * scale)


def test_arcface_ignores_padding_and_counts_accuracy_without_margin():
  prototypes = np.eye(3, dtype=np.float32)
  # Row 0 is nearest to its own class, but not by the margin; row 1 is wrong;
  # row 2 is padding with a label that does not exist.
  x = unit([[1.0, 0.9, 0.0], [1.0, 0.0, 0.5], [0.0, 0.0, 1.0]])
  labels, valid = np.array([0, 2, -1]), np.array([True, True, False])
  objective = objectives.arcface(num_classes=3, embedding_dim=3)
  (loss, metrics), _ = _value_and_grads(
    objective, prototypes, (x, labels, valid)
  )
  expected = reference.prototype_loss(
    prototypes, x, labels, valid, angular=0.5, scale=64.0
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert metrics['accuracy'] == 0.5
  assert metrics['count'] == 2


def test_softmax_is_arcface_without_a_margin():
  prototypes, x = random(4, 5, seed=3), random(9, 5, seed=4)
  labels = np.arange(9) % 4
  objective = objectives.softmax(num_classes=4, embedding_dim=5, scale=20.0)
  case = (x, labels, np.ones(9, bool))
  (loss, _), _ = _value_and_grads(objective, 5 * prototypes, case)
  logits = 20.0 * x.astype(np.float64) @ prototypes.T.astype(np.float64)
  logits -= logits.max(axis=1, keepdims=True)
  each = np.log(np.exp(logits).sum(1)) - logits[np.arange(9), labels]
  np.testing.assert_allclose(loss, each.mean(), rtol=1e-5)


def test_init_gives_prototypes_that_differ():
  params = objectives.arcface(num_classes=7, embedding_dim=16).init(
    jax.random.key(0)
  )
  prototypes = np.asarray(params['prototypes'])
  assert np.linalg.matrix_rank(prototypes) == 7


def test_the_slope_of_the_angular_margin_is_bounded_at_the_poles():
  slope = jax.grad(heads._add_margin)
  margin = jnp.float32(0.5)
  # The sine is taken as 0.001 at least, where the cotangent has no bound.
  for sin in (0.0, 0.0005, 0.001):
    found = slope(jnp.float32(1.0), jnp.float32(sin), margin)
    np.testing.assert_allclose(
      found, np.cos(0.5) + 1000 * np.sin(0.5), rtol=1e-5
    )
  found = slope(jnp.float32(1.0), jnp.float32(0.00125), margin)
  np.testing.assert_allclose(found, np.cos(0.5) + 800 * np.sin(0.5), rtol=1e-5)


def test_the_continuation_begins_where_the_angle_and_margin_are_pi():
  margin = jnp.float32(0.5)
  cos, sin = -jnp.cos(margin), jnp.sin(margin)
  value, slope = jax.value_and_grad(heads._add_margin)(cos, sin, margin)
  np.testing.assert_allclose(value, cos - 0.5 * np.sin(0.5), rtol=1e-6)
  assert slope == 1.0
  inside = jnp.nextafter(cos, jnp.float32(1.0))
  np.testing.assert_allclose(
    heads._add_margin(inside, sin, margin), -1.0, atol=1e-6
  )


@pytest.mark.parametrize(
  ('name', 'defaults'),
  [
    ('arcface', {'margin': 0.5, 'scale': 64.0}),
    ('subcenter_arcface', {'margin': 0.5, 'scale': 64.0, 'centers': 3}),
    ('cosface', {'margin': 0.35, 'scale': 64.0}),
    ('softmax', {'scale': 20.0}),
    ('proxy_anchor', {'margin': 0.1, 'scale': 32.0}),
  ],
)
def test_defaults_are_the_published_ones(name, defaults):
  parameters = inspect.signature(getattr(objectives, name)).parameters
  found = {n: p.default for n, p in parameters.items()}
  assert {n: found[n] for n in defaults} == defaults


@pytest.mark.parametrize('name', CASES)
def test_proxy_anchor_equals_loops_and_finite_differences(name):
  fields = {'margin': 0.2, 'scale': 16.0}
  x, labels, valid = CASES[name]
  prototypes = np.random.default_rng(5).normal(size=(14, 5)).astype(np.float32)
  objective = _objective('proxy_anchor', **fields)
  (loss, metrics), grads = _value_and_grads(objective, prototypes, CASES[name])

  def expected(prototypes, x):
    return reference.proxy_anchor_loss(prototypes, x, labels, valid, **fields)

  np.testing.assert_allclose(loss, expected(prototypes, x), rtol=1e-5)
  assert metrics['count'] == valid.sum()
  chex.assert_tree_all_finite((loss, metrics, grads))
  chex.assert_trees_all_equal_shapes(grads, (prototypes, x))
  _check_gradients(grads, expected, prototypes, x)


def test_proxy_anchor_of_nothing_is_exactly_zero():
  prototypes = np.eye(14, 5, dtype=np.float32)  # most of them zero
  (loss, metrics), grads = _value_and_grads(
    _objective('proxy_anchor'), prototypes, CASES['nothing']
  )
  assert loss == 0.0 and metrics['count'] == 0
  for grad in grads:
    np.testing.assert_array_equal(grad, 0.0)


def test_proxy_anchor_by_hand():
  # One class is in the batch: it alone pulls, and two classes push.
  x, scale, margin = unit([[1.0, 0.0]]), 2.0, 0.1
  prototypes = np.array([[0.0, 3.0], [3.0, 0.0]], np.float32)
  case = (x, np.array([0]), np.ones(1, bool))
  objective = _objective('proxy_anchor', 2, 2, scale=scale, margin=margin)
  (loss, metrics), _ = _value_and_grads(objective, prototypes, case)
  pull = np.log(1 + np.exp(-scale * (0.0 - margin)))
  push = np.log(1 + np.exp(scale * (1.0 + margin)))
  np.testing.assert_allclose(loss, pull + (0.0 + push) / 2, rtol=1e-6)
  assert metrics['accuracy'] == 0.0


COUNTS = np.array([5, 40, 900, 12_000])


@pytest.mark.parametrize('name', [n for n in CLASS_WEIGHTS if n != 'none'])
def test_the_mean_over_the_training_images_is_one(name):
  weights = class_weights(name, COUNTS)
  np.testing.assert_allclose(weights @ COUNTS / COUNTS.sum(), 1.0, rtol=1e-6)
  assert (np.diff(weights) < 0).all()


def test_ratios_between_classes():
  assert class_weights('none', COUNTS) is None
  ratio = lambda name: (
    class_weights(name, COUNTS) / class_weights(name, COUNTS)[0]
  )
  np.testing.assert_allclose(ratio('inverse'), 5 / COUNTS, rtol=1e-6)
  np.testing.assert_allclose(
    ratio('sqrt_inverse'), np.sqrt(5 / COUNTS), rtol=1e-6
  )
  # The effective number as the sum of a geometric series.
  numbers = [sum(0.999**i for i in range(n)) for n in COUNTS]
  np.testing.assert_allclose(
    ratio('effective'), numbers[0] / np.array(numbers), rtol=1e-5
  )


def test_a_class_of_one_image_weighs_twice_as_much_as_one_of_two():
  one, two = class_weights('inverse', np.array([1, 2]))
  np.testing.assert_allclose(one / two, 2.0, rtol=1e-6)


def test_a_class_without_images_is_finite():
  for name in CLASS_WEIGHTS[1:]:
    assert np.isfinite(class_weights(name, np.array([0, 7]))).all()
