"""Batches embedded in chunks: the same gradient in less memory."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plankton_jax import objectives
from plankton_jax.augment import to_float
from plankton_jax.errors import InputError
from plankton_jax.nn.embedding import Embedder
from plankton_jax.train import experiment, state, step

ROWS, SIDE, DIM = 24, 8, 5
CLASSES = {'num_classes': 4, 'embedding_dim': DIM}
OBJECTIVES = {
  'triplet': objectives.triplet(margin=0.5, stages=(('hard', 'hard'),)),
  'supcon': objectives.supcon(),
  'multi_similarity': objectives.multi_similarity(),
  'arcface': objectives.arcface(**CLASSES, scale=8.0),
}
TX = optax.trace(0.0)  # keeps the gradient, and moves by it


class Backbone(nn.Module):
  """A convolution, with a norm whose statistics stay if `frozen`."""

  frozen: bool = True
  width: int = 4
  freeze: int = 0
  normalise = None
  stages = (('conv', 'BatchNorm_0'),)
  published = None

  @nn.compact
  def __call__(self, images, *, train):
    x = nn.Conv(self.width, (3, 3), use_bias=False, name='conv')(images)
    x = nn.BatchNorm(self.frozen or not train, name='BatchNorm_0')(x)
    return nn.relu(x)


def _batch(rows=ROWS, side=SIDE):
  rng = np.random.default_rng(0)
  label = rng.integers(0, 4, rows).astype(np.int32)
  images = rng.integers(0, 160, (rows, side, side, 1))
  images[:, 2:6, 2:6] += 20 * label[:, None, None, None]
  return {
    'image': images.astype(np.uint8),
    'label': label,
    'valid': np.arange(rows) != 5,
  }


def _steps(model, objective, augment=None, views=1, **settings):
  """A fresh state, and functions from a chunk to a step."""
  create = functools.partial(
    state.create,
    encoder=model,
    objective=objective,
    tx=TX,
    image_shape=(SIDE, SIDE, 1),
  )
  make = functools.partial(
    step.make_train_step,
    apply_fn=model.apply,
    backbone=model.backbone,
    augment=augment or (lambda key, images: to_float(images)),
    tx=TX,
    objective=objective,
    views=views,
  )
  return create, make


def _embedder(centred=False, **backbone):
  return Embedder(
    backbone=Backbone(**backbone), embedding_dim=DIM, poses=1, centred=centred
  )


@pytest.mark.parametrize('name', OBJECTIVES)
def test_the_gradient_is_that_of_the_whole_batch(name):
  create, make = _steps(_embedder(), OBJECTIVES[name])
  start = create(state.make_key(0, state.INIT))
  ours = lambda: jax.tree.map(jnp.copy, start)
  want, metrics = make(chunk=0)(ours(), _batch(), jax.random.key(1), stage=0)
  got, found = make(chunk=6)(ours(), _batch(), jax.random.key(1), stage=0)
  chex.assert_trees_all_close(found, metrics, rtol=1e-5, atol=1e-6)
  largest = [np.abs(x).max() for x in jax.tree.leaves(want.opt_state)]
  assert min(largest) > 1e-4  # no gradient is 0
  chex.assert_trees_all_close(
    got.opt_state, want.opt_state, rtol=1e-5, atol=1e-5
  )
  chex.assert_trees_all_equal(got.batch_stats, start.batch_stats)


def test_views_stay_beside_each_other_and_chunks_draw_apart():
  seen = []

  def augment(key, images):
    noise = jax.random.normal(key, images.shape)
    return to_float(images) + 0.1 * noise

  def loss(params, embeddings, batch, *, stage, key=None):
    seen.append(embeddings.shape)
    same = batch['label'][::2] == batch['label'][1::2]
    apart = jnp.abs(embeddings[::2] - embeddings[1::2]).max(axis=1)
    across = jnp.abs(embeddings[::2] - jnp.roll(embeddings[::2], 1, 0))
    return jnp.mean(embeddings), {
      'same': same.all(),
      'apart': jnp.max(apart),
      'across': jnp.min(across.max(axis=1)),
      'count': ROWS,
    }

  watched = objectives.Objective(lambda key: {}, loss)
  create, make = _steps(_embedder(), watched, augment, views=2)
  batch = _batch()
  batch['image'][:] = batch['image'][:1]  # only the draws tell rows apart
  _, metrics = make(chunk=6)(
    create(jax.random.key(0)), batch, jax.random.key(1), stage=0
  )
  assert seen and set(seen) == {(2 * ROWS, DIM)}
  assert metrics['same'] and metrics['apart'] > 1e-3
  assert metrics['across'] > 1e-5


def test_statistics_are_the_mean_of_those_of_the_chunks():
  model = _embedder(frozen=False, centred=True)
  create, make = _steps(model, OBJECTIVES['triplet'])
  start = create(jax.random.key(0))
  before, params = jax.device_get((start.batch_stats, start.params['encoder']))
  got, _ = make(chunk=8)(start, _batch(), jax.random.key(1), stage=0)
  images = to_float(jnp.asarray(_batch()['image']))
  each = [
    model.apply(
      {'params': params, 'batch_stats': before},
      images[i :: ROWS // 8],  # a chunk's rows
      train=True,
      mutable=['batch_stats'],
    )[1]['batch_stats']
    for i in range(ROWS // 8)
  ]
  want = jax.tree.map(lambda *x: np.mean(x, axis=0), *each)
  chex.assert_trees_all_close(got.batch_stats, want, rtol=1e-5, atol=1e-6)


def test_evaluation_in_chunks_is_the_same():
  model = _embedder(frozen=False, centred=True)
  create, _ = _steps(model, OBJECTIVES['arcface'])
  start = create(jax.random.key(0))
  whole, some = (
    step.make_eval_step(
      apply_fn=model.apply,
      normalise=None,
      objective=OBJECTIVES['arcface'],
      stage=0,
      chunk=chunk,
    )(start, _batch())
    for chunk in (0, 8)
  )
  chex.assert_trees_all_close(whole, some, rtol=1e-5, atol=1e-6)


def test_16384_images_train_in_about_the_memory_of_512():
  create, make = _steps(_embedder(width=16), OBJECTIVES['triplet'])
  abstract = jax.eval_shape(create, jax.random.key(0))

  def temporary(rows, chunk):
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, _batch(rows)))
    lowered = make(chunk=chunk).lower(
      abstract, shapes, jax.random.key(1), stage=0
    )
    return lowered.compile().memory_analysis().temp_size_in_bytes

  small, large = temporary(512, 0), temporary(16384, 512)
  assert large < 2 * small
  assert 10 * large < temporary(16384, 0)


def test_a_chunk_that_does_not_divide_the_batch_is_one_line():
  with pytest.raises(InputError, match=r'batch.chunk=5 does not divide'):
    experiment._chunk(5, ROWS)
  sizes = (0, 6, ROWS, 48)
  assert [experiment._chunk(n, ROWS) for n in sizes] == [0, 6, 0, 0]
