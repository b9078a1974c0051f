import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from test_mining import POLICIES

from plankton_jax import distances, objectives
from plankton_jax.errors import InputError


def _unit(x):
  x = np.asarray(x, np.float64)
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def _random(rows=14, dim=5, seed=0):
  return _unit(np.random.default_rng(seed).normal(size=(rows, dim)))


def _cases():
  rng = np.random.default_rng(1)
  x, everything = _random(), np.ones(14, bool)
  labels = rng.integers(0, 3, 14)
  return {
    'random': (x, labels, everything),
    'duplicated': (x[rng.integers(0, 4, 14)], labels, everything),
    'identical': (np.tile(x[:1], (14, 1)), labels, everything),
    'one class': (x, np.zeros(14, int), everything),
    'all distinct': (x, np.arange(14), everything),
    'padded': (x, labels, rng.random(14) < 0.5),
    'zero rows': (x * (labels > 0)[:, None], labels, everything),
  }


CASES = _cases()


def _triplet_loss(policy, margin, case, **fields):
  embeddings, labels, valid = case
  objective = objectives.triplet(margin=margin, stages=(policy,), **fields)
  batch = {'label': jnp.asarray(labels), 'valid': jnp.asarray(valid)}

  def loss(x):
    return objective.loss(objective.init(None), x, batch, stage=0)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(embeddings)


def _numeric(function, x, h=1e-6):
  """The gradient by central differences, float64."""
  x = np.asarray(x, np.float64)
  grad = np.zeros(x.shape)
  for index in np.ndindex(*x.shape):
    moved = [x.copy(), x.copy()]
    moved[0][index] += h
    moved[1][index] -= h
    grad[index] = (function(moved[0]) - function(moved[1])) / (2 * h)
  return grad


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
  assert np.isfinite(grad).all()
  # The reference holds the mined triplets fixed, as the objective does.
  numeric = _numeric(
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
  assert np.isfinite(grad).all()
  if name in ('random', 'padded', 'zero rows'):
    numeric = _numeric(expected, embeddings)
    np.testing.assert_allclose(grad, numeric, atol=2e-5)


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
    found, metrics = objective.loss({}, x, batch, stage=0)
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
  loss, metrics = objective.loss({}, x, batch, stage=0)
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
    },
  )


def test_stage_picks_the_policy():
  case = CASES['random']
  stages = tuple(POLICIES)
  objective = objectives.triplet(margin=0.5, stages=stages)
  batch = {'label': case[1], 'valid': case[2]}
  for stage, policy in enumerate(stages):
    loss, _ = objective.loss({}, jnp.asarray(case[0]), batch, stage=stage)
    (expected, _), _ = _triplet_loss(policy, 0.5, case)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


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
  objective = objectives.arcface(
    num_classes=len(prototypes),
    embedding_dim=prototypes.shape[1],
    margin=margin,
    scale=scale,
  )
  batch = {
    'label': jnp.asarray(labels),
    'valid': jnp.ones(len(labels), bool),
  }

  def loss(prototypes, x):
    return objective.loss({'prototypes': prototypes}, x, batch, stage=0)

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
    jnp.asarray(prototypes), jnp.asarray(embeddings)
  )


@pytest.mark.parametrize('angle', ANGLES)
def test_arcface_equals_float64_at_every_angle(angle):
  prototypes = np.vstack([3 * np.eye(6)[0], _random(4, 6)]).astype(np.float32)
  x = _at_angles([angle])
  (loss, _), grads = _arcface(x, [0], prototypes)
  expected = reference.arcface_loss(
    prototypes, x, [0], [True], margin=0.5, scale=64.0
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
  assert all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize('margin', [0.5, 0.0, 1.2])
def test_arcface_gradient_equals_finite_differences(margin):
  prototypes = np.vstack([3 * np.eye(6)[0], _random(4, 6)]).astype(np.float32)
  x = _at_angles([a for a in ANGLES if abs(np.cos(a)) < 1 - 1e-4])
  labels = np.zeros(len(x), int)
  _, grads = _arcface(x, labels, prototypes, margin=margin)
  for which, grad in enumerate(grads):
    numeric = np.zeros(grad.shape)
    for index in np.ndindex(*grad.shape):
      shifted = []
      for h in (1e-7, -1e-7):
        moved = [prototypes.astype(np.float64), x.astype(np.float64)]
        moved[which][index] += h
        shifted.append(
          reference.arcface_loss(
            *moved, labels, labels == 0, margin=margin, scale=64.0
          )
        )
      numeric[index] = (shifted[0] - shifted[1]) / 2e-7
    scale = np.abs(numeric).max()
    np.testing.assert_allclose(grad, numeric, atol=1e-4 * scale)


def test_arcface_ignores_padding_and_counts_accuracy_without_margin():
  prototypes = np.eye(3, dtype=np.float32)
  # Row 0 is nearest to its own class, but not by the margin; row 1 is wrong;
  # row 2 is padding with a label that does not exist.
  x = _unit([[1.0, 0.9, 0.0], [1.0, 0.0, 0.5], [0.0, 0.0, 1.0]])
  labels, valid = np.array([0, 2, -1]), np.array([True, True, False])
  objective = objectives.arcface(num_classes=3, embedding_dim=3)
  batch = {'label': jnp.asarray(labels), 'valid': jnp.asarray(valid)}
  loss, metrics = objective.loss(
    {'prototypes': prototypes}, jnp.asarray(x), batch, stage=0
  )
  expected = reference.arcface_loss(
    prototypes, x, labels, valid, margin=0.5, scale=64.0
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert metrics['accuracy'] == 0.5
  assert metrics['count'] == 2


def test_softmax_is_arcface_without_a_margin():
  prototypes, x = _random(4, 5, seed=3), _random(9, 5, seed=4)
  labels = np.arange(9) % 4
  batch = {'label': jnp.asarray(labels), 'valid': jnp.ones(9, bool)}
  objective = objectives.softmax(num_classes=4, embedding_dim=5, scale=20.0)
  loss, _ = objective.loss(
    {'prototypes': 5 * prototypes}, jnp.asarray(x), batch, stage=0
  )
  logits = 20.0 * x.astype(np.float64) @ prototypes.T.astype(np.float64)
  logits -= logits.max(axis=1, keepdims=True)
  each = np.log(np.exp(logits).sum(1)) - logits[np.arange(9), labels]
  np.testing.assert_allclose(loss, each.mean(), rtol=1e-5)


def test_init_gives_unit_prototypes_that_differ():
  params = objectives.arcface(num_classes=7, embedding_dim=16).init(
    jax.random.key(0)
  )
  prototypes = np.asarray(params['prototypes'])
  np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, rtol=1e-6)
  assert np.linalg.matrix_rank(prototypes) == 7


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
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
  shared = {'stages': (('easy', 'hard'),), 'num_classes': 3, 'embedding_dim': 4}
  with pytest.raises(InputError, match=message):
    objectives.make(**(shared | fields))


def test_a_stray_field_is_a_type_error():
  with pytest.raises(TypeError, match='margni'):
    objectives.make(
      name='arcface', stages=((),), num_classes=3, embedding_dim=4, margni=1.0
    )
