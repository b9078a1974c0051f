import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plankton_jax import augment, objectives
from plankton_jax.nn import resnet
from plankton_jax.nn.conv.choice import conv_general_dilated
from plankton_jax.nn.embedding import Embedder
from plankton_jax.train import state, step

MODEL = Embedder(
  backbone=resnet.ResNet(
    stage_sizes=(1, 1),  # what is tested here does not depend on depth
    block=resnet.BasicBlock,
    width=4,
    stem='half',
    dtype=jnp.dtype('float32'),
    freeze=0,
    convolution=conv_general_dilated,
  ),
  embedding_dim=6,
  poses=1,
  centred=True,
)
STAGES = (('easy', 'semihard'), ('easy', 'hard'), ('hard', 'hard'))
OFF = dict.fromkeys(
  ('rotate', 'scale', 'translate', 'brightness', 'contrast', 'noise'), 0.0
)
AUGMENT = augment.make(flip=True, **OFF)
TX = optax.adam(1e-2)
TRIPLET = objectives.triplet(margin=0.5, stages=STAGES)


def _batch(rows=12, seed=0):
  rng = np.random.default_rng(seed)
  labels = np.arange(rows) % 3
  # Each class has a brightness of its own in the right half.
  right = np.arange(16)[:, None] > 7
  images = rng.integers(0, 60, (rows, 16, 16, 1))
  images += 60 * labels[:, None, None, None] * right
  return {
    'image': images.astype(np.uint8),
    'label': labels.astype(np.int32),
    'valid': np.ones(rows, bool),
  }


@functools.cache
def _fresh(objective):
  create = jax.jit(
    lambda key: state.create(
      key, encoder=MODEL, objective=objective, tx=TX, image_shape=(16, 16, 1)
    )
  )
  return create(jax.random.key(0, impl='rbg'))


def _train_step(objective, views=1):
  return step.make_train_step(
    apply_fn=MODEL.apply,
    backbone=MODEL.backbone,
    augment=AUGMENT,
    tx=TX,
    objective=objective,
    views=views,
    chunk=0,
  )


def _copy(tree):
  return jax.tree.map(jnp.copy, tree)


def test_three_stages_cost_three_traces_whatever_the_epochs():
  traced = []

  def loss(params, embeddings, batch, *, stage, key=None):
    traced.append(stage)
    return TRIPLET.loss(params, embeddings, batch, stage=stage, key=key)

  counted = objectives.Objective(TRIPLET.init, loss)
  train_step = _train_step(counted)
  current, key = _copy(_fresh(TRIPLET)), jax.random.key(1)
  for stage in (0, 0, 1, 1, 2, 2, 0, 2, 1):
    current, _ = train_step(current, _batch(), key, stage=stage)
  assert sorted(traced) == [0, 1, 2]
  assert int(current.step) == 9


def test_training_lowers_the_loss_and_moves_every_parameter():
  objective = objectives.arcface(
    num_classes=3, embedding_dim=6, margin=0.2, scale=8.0
  )
  train_step = _train_step(objective)
  start, key = _fresh(objective), jax.random.key(1)
  current, losses = _copy(start), []
  for _ in range(60):
    current, metrics = train_step(current, _batch(), key, stage=0)
    losses.append(float(metrics['loss']))
  assert losses[-1] < 0.5 * losses[0]
  assert metrics['accuracy'] > 0.9
  for before, after in zip(
    jax.tree.leaves((start.params, start.batch_stats)),
    jax.tree.leaves((current.params, current.batch_stats)),
    strict=True,
  ):
    assert not np.array_equal(before, after)
  chex.assert_tree_all_finite(current.params)


def test_the_key_and_the_step_draw_the_augmentation():
  train_step = _train_step(TRIPLET)

  def loss(key, at=0):
    current = _copy(_fresh(TRIPLET)).replace(step=jnp.int32(at))
    return float(train_step(current, _batch(), key, stage=2)[1]['loss'])

  assert loss(jax.random.key(1)) == loss(jax.random.key(1))
  assert loss(jax.random.key(1)) != loss(jax.random.key(2))
  assert loss(jax.random.key(1)) != loss(jax.random.key(1), at=5)


def test_a_step_s_keys_and_update_are_its_own():
  seen = []

  def augment_images(key, images):
    seen.append(key)
    return images

  def apply_fn(variables, images, measures, *, train, mutable, rngs):
    assert train and mutable == ['batch_stats']
    seen.append(rngs['measures'])
    return measures @ variables['params']['Dense_0']['kernel'], {}

  def loss(params, embeddings, rows, *, stage, key):
    keys = [jax.random.key_data(each) for each in (*seen, key)]
    return jnp.sum(embeddings), {'keys': jnp.stack(keys)}

  tx = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.5, momentum=0.9))
  train_step = step.make_train_step(
    apply_fn=apply_fn,
    backbone=MODEL.backbone,
    augment=augment_images,
    tx=tx,
    objective=objectives.Objective(lambda key: {}, loss),
    views=1,
    chunk=0,
  )
  weights = np.arange(6.0).reshape(2, 3)
  kernel = jnp.asarray(weights, jnp.float32)
  params = {'encoder': {'Dense_0': {'kernel': kernel}}, 'objective': {}}
  current = state.TrainState(jnp.int32(4), params, {}, tx.init(params))
  measures = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)
  batch = _batch(2) | {'measures': measures}
  gradient = np.repeat(measures.sum(axis=0)[:, None], 3, axis=1)
  moment, key = 0.0, jax.random.key(1)
  for number in (4, 5):
    current, metrics = train_step(current, batch, key, stage=0)
    own = jax.random.fold_in(key, number)
    first, second = jax.random.split(own)
    wanted = (first, jax.random.fold_in(own, 2), second)
    np.testing.assert_array_equal(
      metrics['keys'], [jax.random.key_data(each) for each in wanted]
    )
    moment = 0.9 * moment + gradient + 0.1 * weights
    weights = weights - 0.5 * moment
    norm = np.linalg.norm(gradient)  # of the loss, not of the update
    np.testing.assert_allclose(metrics['grad_norm'], norm, rtol=1e-6)
  found = current.params['encoder']['Dense_0']['kernel']
  np.testing.assert_allclose(found, weights, rtol=1e-5)


def test_two_views_are_the_rows_twice_each_augmented_by_itself():
  def loss(params, embeddings, batch, *, stage, key=None):
    found, metrics = TRIPLET.loss(
      params, embeddings, batch, stage=stage, key=key
    )
    apart = jnp.abs(embeddings[::2] - embeddings[1::2]).max(axis=1)
    same = jnp.all(batch['label'][::2] == batch['label'][1::2])
    return found, {**metrics, 'apart': jnp.median(apart), 'same': same}

  watched, batch = objectives.Objective(TRIPLET.init, loss), _batch()
  twice = {name: np.repeat(x, 2, axis=0) for name, x in batch.items()}
  key, fresh = jax.random.key(1), _fresh(TRIPLET)
  found, metrics = _train_step(watched, views=2)(
    _copy(fresh), batch, key, stage=2
  )
  want, expected = _train_step(watched)(_copy(fresh), twice, key, stage=2)
  chex.assert_trees_all_equal(metrics, expected)
  chex.assert_trees_all_equal(found.params, want.params)
  assert metrics['count'] == 24
  assert metrics['same']
  assert metrics['apart'] > 0.05


def test_evaluation_ignores_padding_and_changes_nothing():
  eval_step = step.make_eval_step(
    apply_fn=MODEL.apply, normalise=None, objective=TRIPLET, stage=2, chunk=0
  )
  batch = _batch()
  padded = {
    'image': np.concatenate([batch['image'], 255 - batch['image'][:5]]),
    'label': np.concatenate([batch['label'], [0, 7, -1, 2, 1]]),
    'valid': np.arange(17) < 12,
  }
  metrics, embeddings = eval_step(_fresh(TRIPLET), batch)
  with_padding, more = eval_step(_fresh(TRIPLET), padded)
  assert metrics['count'] == 12
  chex.assert_trees_all_close(metrics, with_padding, rtol=2e-5)
  np.testing.assert_allclose(more[:12], embeddings, atol=1e-5)


def test_evaluation_takes_a_loss_of_its_own_if_there_is_one():
  objective = objectives.Objective(
    init=lambda key: {},
    loss=lambda *_, **__: (jnp.float32(5.0), {'count': 1}),
    validation_loss=lambda *_, **__: (jnp.float32(3.0), {'count': 1}),
  )
  eval_step = step.make_eval_step(
    apply_fn=lambda variables, images, measures, train: images[:, 0, :2, 0],
    normalise=None,
    objective=objective,
    stage=0,
    chunk=0,
  )
  params = {'encoder': {}, 'objective': {}}
  empty = state.TrainState(step=0, params=params, batch_stats={}, opt_state=())
  metrics, _ = eval_step(empty, _batch())
  assert metrics['loss'] == 3.0


def test_embedding_is_what_evaluation_sees():
  fresh = _fresh(TRIPLET)
  embed_step = step.make_embed_step(apply_fn=MODEL.apply, normalise=None)
  eval_step = step.make_eval_step(
    apply_fn=MODEL.apply, normalise=None, objective=TRIPLET, stage=0, chunk=0
  )
  embeddings = embed_step(fresh.params, fresh.batch_stats, _batch()['image'])
  _, expected = eval_step(fresh, _batch())
  chex.assert_shape(embeddings, (12, 6))
  chex.assert_trees_all_close(embeddings, expected, atol=1e-6)


@pytest.mark.parametrize('padding', [0, 4])
def test_spread_against_numpy(padding):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(20, 5)).astype(np.float32) * [1, 2, 3, 0, 0.1]
  rows = np.concatenate([x, 9 * np.ones((padding, 5))]).astype(np.float32)
  found = step.spread(jnp.asarray(rows), jnp.arange(20 + padding) < 20)
  values = np.linalg.eigvalsh(np.cov(x.T, bias=True))
  np.testing.assert_allclose(found['spread'], x.std(axis=0).mean(), rtol=1e-5)
  expected = values.sum() ** 2 / (values**2).sum()
  np.testing.assert_allclose(found['effective_rank'], expected, rtol=1e-5)


def test_spread_of_a_collapsed_batch_is_zero_and_finite():
  found = step.spread(jnp.ones((8, 4)), jnp.ones(8, bool))
  assert found == {'spread': 0.0, 'effective_rank': 0.0}
  assert step.spread(jnp.eye(4), jnp.zeros(4, bool)) == found
