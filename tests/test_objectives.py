import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from objective_batches import CASES, unit
from test_mining import POLICIES

from plankton_jax import distances, mining, objectives
from plankton_jax.errors import InputError


def _triplet_loss(policy, margin, case, **fields):
  embeddings, labels, valid = case
  batch = {'label': jnp.asarray(labels), 'valid': jnp.asarray(valid)}
  compiled = _compiled(policy, margin, mining.TILE, **fields)
  return compiled(embeddings, batch)


@functools.cache
def _compiled(policy, margin, tile, **fields):
  """The loss with its gradient, traced once for all batches of a shape."""
  del tile  # tells apart what is traced with another `mining.TILE`
  objective = objectives.triplet(margin=margin, stages=(policy,), **fields)

  def loss(x, batch):
    return objective.loss(objective.init(None), x, batch, stage=0)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def _loss(objective, params, x, batch, *, stage=0):
  """The loss and its metrics, compiled as one program."""
  loss = jax.jit(objective.loss, static_argnames='stage')
  return loss(params, x, batch, stage=stage)


@pytest.mark.parametrize('policy', POLICIES, ids='+'.join)
@pytest.mark.parametrize('name', CASES)
def test_triplet_equals_loops_with_gradient_of_finite_differences(name, policy):
  margin = 0.4
  embeddings, labels, valid = CASES[name]
  (loss, metrics), grad = _triplet_loss(policy, margin, CASES[name])
  mined = reference.mine_loop(
    distances.squared(embeddings),
    labels,
    valid,
    positive=policy[0],
    negative=policy[1],
    margin=margin,
  )
  expected = reference.triplet_loss_loop(embeddings, mined, margin)
  np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
  assert metrics['count'] == mined[2].sum()
  chex.assert_tree_all_finite((loss, metrics, grad))
  # The reference holds the mined triplets fixed, as the objective does.
  numeric = reference.gradient(
    lambda x: reference.triplet_loss_loop(x, mined, margin), embeddings
  )
  np.testing.assert_allclose(grad, numeric, atol=2e-5)


@pytest.mark.parametrize(
  'policy', [('easy', 'semihard'), ('hard', 'hard')], ids='+'.join
)
@pytest.mark.parametrize(
  'name', ['random', 'duplicated', 'identical', 'padded', 'zero rows']
)
@pytest.mark.parametrize(
  ('distance', 'fallback'),
  [('euclidean', 'nearest'), ('euclidean', 'none'), ('squared', 'none')],
)
def test_triplet_choices_equal_loops(name, policy, distance, fallback):
  margin = 0.3
  embeddings, labels, valid = CASES[name]
  choices = {'distance': distance, 'fallback': fallback}
  (loss, metrics), grad = _triplet_loss(policy, margin, CASES[name], **choices)
  dists = distances.squared(embeddings)
  if distance == 'euclidean':
    dists = np.sqrt(dists)
  mined = reference.mine_loop(
    dists,
    labels,
    valid,
    positive=policy[0],
    negative=policy[1],
    margin=margin,
  )
  expected = lambda x: reference.triplet_loss_loop(x, mined, margin, **choices)
  np.testing.assert_allclose(loss, expected(embeddings), rtol=1e-5, atol=1e-6)
  assert metrics['count'] == mined[2].sum()
  np.testing.assert_allclose(
    metrics['fallback_fraction'] * mined[2].sum(), mined[3].sum(), rtol=1e-6
  )
  # A root has no derivative at 0: there the gradient is 0, not infinite.
  chex.assert_tree_all_finite((loss, metrics, grad))
  if name in ('random', 'padded', 'zero rows'):
    numeric = reference.gradient(expected, embeddings)
    np.testing.assert_allclose(grad, numeric, atol=2e-5)


@pytest.mark.parametrize(
  'name', ['random', 'duplicated', 'padded', 'zero rows']
)
@pytest.mark.parametrize(
  ('distance', 'fallback', 'policy', 'tile'),
  [
    ('squared', 'nearest', ('easy', 'semihard'), 1000),
    ('squared', 'none', ('hard', 'hard'), 1),
    ('euclidean', 'nearest', ('hard', 'semihard'), 5),
  ],
)
def test_all_negatives_equal_loops(
  name, policy, distance, fallback, tile, monkeypatch
):
  embeddings, labels, valid = CASES[name]
  monkeypatch.setattr(mining, 'TILE', 4 * len(labels) * tile)
  choices = {'distance': distance, 'fallback': fallback}
  (loss, metrics), grad = _triplet_loss(
    policy, 0.6, CASES[name], select='all', **choices
  )
  dists = distances.squared(embeddings)
  if distance == 'euclidean':
    dists = np.sqrt(dists)
  mined = reference.mine_loop(
    dists, labels, valid, positive=policy[0], negative=policy[1], margin=0.6
  )
  mined = reference.with_all_negatives(
    mined, dists, labels, valid, negative=policy[1], margin=0.6
  )
  expected = lambda x: reference.triplet_loss_loop(x, mined, 0.6, **choices)
  # Roots cannot tell duplicates nearer than 5e-4, see `distances.squared`.
  alike = distance == 'euclidean' and name == 'duplicated'
  atol = 5e-4 if alike else 1e-6
  np.testing.assert_allclose(loss, expected(embeddings), rtol=1e-5, atol=atol)
  assert metrics['count'] == mined[2].sum()
  np.testing.assert_allclose(
    metrics['fallback_fraction'] * mined[2].sum(), mined[3].sum(), rtol=1e-6
  )
  chex.assert_tree_all_finite((loss, metrics, grad))
  if name != 'duplicated':
    assert max(len(negatives) for negatives in mined[1]) > 1
    numeric = reference.gradient(expected, embeddings)
    np.testing.assert_allclose(grad, numeric, atol=2e-5)


@pytest.mark.parametrize(
  ('distance', 'loss'),
  [('squared', (0.29 + 0.06) / 2 / 2), ('euclidean', (0.4 + 0.3) / 2 / 2)],
)
def test_all_negatives_in_the_metrics(distance, loss):
  # Anchor 0 at 1 from its own, at 1.1 and 1.2 from others; 3 is too far.
  x = jnp.array([[0.0], [1.0], [-1.1], [-1.2], [-3.0]])
  batch = {'label': jnp.array([0, 0, 1, 2, 3]), 'valid': jnp.ones(5, bool)}
  objective = objectives.triplet(
    margin=0.5, stages=(('easy', 'semihard'),), select='all', distance=distance
  )
  found, metrics = _loss(objective, {}, x, batch)
  # Anchor 1 has none: 2.1 is the nearest and beyond the margin.
  np.testing.assert_allclose(found, loss, rtol=1e-5)
  np.testing.assert_allclose(
    metrics['d_an'], ((1.21 + 1.44) / 2 + 4.41) / 2, rtol=1e-6
  )
  assert metrics['active_fraction'] == metrics['fallback_fraction'] == 0.5


def test_padded_rows_reach_no_gradient():
  embeddings, labels, valid = CASES['padded']
  broken = np.where(valid[:, None], embeddings, np.nan).astype(np.float32)
  for select in ('nearest', 'all'):
    options = {'policy': ('easy', 'semihard'), 'margin': 0.6, 'select': select}
    (loss, _), grad = _triplet_loss(case=(broken, labels, valid), **options)
    (want, _), expected = _triplet_loss(case=CASES['padded'], **options)
    assert loss == want
    np.testing.assert_array_equal(grad, expected)


def test_margin_and_semihard_are_on_the_scale_of_the_distance():
  # d_ap = 0.5, d_an = 0.9 plain: semi-hard by 0.5; squared 0.25 and 0.81: not.
  x = jnp.array([[0.0], [0.5], [-0.9]])
  batch = {'label': jnp.array([0, 0, 1]), 'valid': jnp.array([True] * 3)}
  for distance, fallbacks, loss in (
    ('euclidean', 0.5, (0.1 + 0.0) / 2),  # row 1: 0.5 and 1.4
    ('squared', 1.0, (0.0 + 0.0) / 2),
  ):
    objective = objectives.triplet(
      margin=0.5, stages=(('easy', 'semihard'),), distance=distance
    )
    found, metrics = _loss(objective, {}, x, batch)
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    assert metrics['fallback_fraction'] == fallbacks
    # Logged squared either way, so that runs can be compared.
    np.testing.assert_allclose(metrics['d_ap'], 0.25)


@pytest.mark.parametrize('name', ['one class', 'all distinct'])
def test_no_anchors_give_exactly_zero_and_zero_gradient(name):
  (loss, metrics), grad = _triplet_loss(('hard', 'hard'), 0.5, CASES[name])
  assert loss == 0.0
  assert metrics['count'] == 0
  np.testing.assert_array_equal(grad, 0.0)


def test_triplet_metrics_by_hand():
  # On a line, but for the norm: anchors 0 and 1 are a class, row 2 another.
  x = jnp.array([[0.0], [1.0], [1.5]])
  batch = {'label': jnp.array([0, 0, 1]), 'valid': jnp.ones(3, bool)}
  objective = objectives.triplet(margin=0.5, stages=(('hard', 'semihard'),))
  assert objective.collapsed_loss == 0.5
  loss, metrics = _loss(objective, {}, x, batch)
  # d_ap = 1, 1; d_an = 2.25, 0.25; neither is semi-hard: fallback twice.
  np.testing.assert_allclose(loss, (0.0 + 1.25) / 2)
  chex.assert_trees_all_close(
    metrics,
    {
      'd_ap': 1.0,
      'd_an': 1.25,
      'active_fraction': 0.5,
      'fallback_fraction': 1.0,
      'count': 2,
      'loss_count': 2,
    },
  )


def test_stage_picks_the_policy():
  case = CASES['random']
  stages = tuple(POLICIES)
  objective = objectives.triplet(margin=0.5, stages=stages)
  batch = {'label': case[1], 'valid': case[2]}
  for stage, policy in enumerate(stages):
    loss, _ = _loss(objective, {}, case[0], batch, stage=stage)
    (expected, _), _ = _triplet_loss(policy, 0.5, case)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


SHAPE = {
  'num_classes': 3,
  'embedding_dim': 4,
  'class_counts': np.array([10, 30, 60]),
}


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'name': 'arcface', 'class_weights': 'log'}, 'class_weights'),
    ({'name': 'tripplet'}, 'tripplet'),
    ({'name': 'triplet', 'margin': 0.2, 'select': 'farthest'}, 'select'),
    ({'name': 'triplet', 'margin': 0.2, 'fallback': 'skip'}, 'fallback'),
    ({'name': 'triplet', 'margin': 0.2, 'distance': 'cosine'}, 'distance'),
    (
      {'name': 'triplet', 'margin': 0.2, 'select': 'nearest', 'stages': ((),)},
      'curriculum',
    ),
  ],
)
def test_make_names_what_is_wrong(fields, message):
  shared = {'stages': (('easy', 'hard'),), **SHAPE}
  with pytest.raises(InputError, match=message):
    objectives.make(**(shared | fields))


def test_a_stray_field_is_a_type_error():
  with pytest.raises(TypeError, match='margni'):
    objectives.make(name='arcface', stages=((),), **SHAPE, margni=1.0)


def test_class_weights_come_from_the_training_images():
  objective = objectives.make(
    name='softmax', stages=((),), **SHAPE, scale=2.0, class_weights='inverse'
  )
  params = objective.init(jax.random.key(0))
  x = jnp.asarray(unit([[1.0, 2, 3, 4], [0, -1, 0, 1], [1, 0, 0, 0]]))
  batch = {'label': jnp.arange(3), 'valid': jnp.ones(3, bool)}
  loss, _ = _loss(objective, params, x, batch)
  plain = objectives.softmax(num_classes=3, embedding_dim=4, scale=2.0)
  alone = jax.jit(functools.partial(plain.loss, stage=0))
  each = [
    alone(params, x, batch | {'valid': jnp.arange(3) == row})[0]
    for row in range(3)
  ]
  # 1/n, times 100 images in all over the 3 that Σ n/n comes to.
  weights = 100 / 3 / np.array([10, 30, 60])
  np.testing.assert_allclose(loss, np.dot(weights, each) / 3, rtol=1e-5)
