"""Sizes and other measures, as they enter the encoder."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plankton_jax.nn import embedding, measures
from plankton_jax.train import batches, state, step
from tests.test_step import AUGMENT, MODEL, TRIPLET, TX
from tests.tiny_encoder import make_images

NAN = math.nan
# Height, width, a pixel's side in µm, and an angle.
RAW = np.array(
  [
    [40, 90, 20, -3.0],
    [90, 40, 20, 0.5],
    [64, 64, 40, NAN],
    [NAN, 10, 20, 7.0],
    [30, 30, NAN, 0.0],
    [0, 12, 5, 2.0],
  ],
  np.float32,
)


def _by_hand(row, in_um):
  """The features of one image in float64, None where unknown."""
  height, width, pixel, angle = (float(x) for x in row)
  side = ratio = None
  if height > 0 and width > 0:  # False for NaN
    ratio = math.log(max(height, width) / min(height, width))
    side = math.log(math.sqrt(height * width))
    if in_um:
      side = side + math.log(pixel) if pixel > 0 else None
  other = None
  if not math.isnan(angle):
    other = math.copysign(math.log(1 + abs(angle)), angle)
  return [side, ratio, other]


@pytest.mark.parametrize('in_um', [False, True])
def test_features_by_hand(in_um):
  found = measures.features(jnp.asarray(RAW), size=True, in_um=in_um)
  wanted = np.array([_by_hand(row, in_um) for row in RAW], np.float64)
  np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
  # A quarter turn of the image is no other size.
  np.testing.assert_array_equal(found[0, :2], found[1, :2])


@pytest.mark.parametrize('rows', [[0, 1, 2], [0, 2, 3, 4, 5]])
def test_statistics_are_of_the_known_values(rows):
  found = measures.statistics(RAW[rows], size=True)
  in_um = rows == [0, 1, 2]
  assert found['in_um'] == in_um
  columns = zip(*(_by_hand(row, in_um) for row in RAW[rows]), strict=True)
  for i, column in enumerate(columns):
    known = [x for x in column if x is not None]
    np.testing.assert_allclose(found['mean'][i], np.mean(known), rtol=1e-5)
    np.testing.assert_allclose(found['deviation'][i], np.std(known), rtol=1e-4)


def test_statistics_of_equal_and_of_unknown_values_divide_nothing_by_zero():
  equal = np.tile(np.float32([[37, 41, 3.3]]), (1000, 1))
  found = measures.statistics(equal, size=True)
  np.testing.assert_array_equal(found['deviation'], 1.0)
  unknown = measures.statistics(np.full((5, 3), np.nan, 'f4'), size=True)
  np.testing.assert_array_equal(unknown['mean'], 0.0)
  np.testing.assert_array_equal(unknown['deviation'], 1.0)
  assert not unknown['in_um']


def test_the_unit_is_said():
  said = lambda raw, in_um: measures.unit(raw, in_um=in_um).partition(
    ' are in '
  )[2]
  lack = '1 of 6 training images have no pixel_um'
  assert said(RAW[:3], True) == 'µm'
  assert said(RAW, True) == f'µm; {lack}, so that their size is unknown'
  assert said(RAW, False) == f'pixels, as {lack}'
  assert 'encoder that it began from' in said(RAW[:3], False)


def test_a_matrix_has_nan_for_what_is_not_there():
  known = {'width': np.arange(3), 'height': np.float64([4, 5, 6]), 'odd': 'no'}
  found = measures.matrix(measures.columns(True, ('area',)), known, 3)
  wanted = [[4, 0, NAN, NAN], [5, 1, NAN, NAN], [6, 2, NAN, NAN]]
  np.testing.assert_array_equal(found, np.float32(wanted))
  assert found.dtype == np.float32


def _model(**fields):
  return MODEL.clone(**({'size': True, 'others': ('angle',)} | fields))


def _variables(model, raw=RAW):
  variables = jax.jit(
    lambda key: model.init(key, make_images(16), train=False)
  )(jax.random.key(0, impl='rbg'))
  found = measures.statistics(raw, size=model.size)
  stats = variables['batch_stats'] | {embedding.MEASURES: found}
  return variables | {'batch_stats': stats}


def test_it_adds_arrays_and_changes_none():
  """An encoder of images alone is part of one that takes measures."""
  alone = MODEL
  with_size = _variables(_model())
  without = jax.jit(lambda key: alone.init(key, make_images(16), train=False))(
    jax.random.key(0, impl='rbg')
  )
  for collection, tree in without.items():
    more = dict(with_size[collection])
    more.pop(embedding.MEASURES)
    chex.assert_trees_all_equal(tree, more)


def _embed(model, *arrays):
  return jax.jit(functools.partial(model.apply, train=False))(*arrays)


@pytest.mark.parametrize(('poses', 'centred'), [(1, True), (8, False)])
def test_the_embedding_by_hand(poses, centred):
  """The units' share joins the projection of each pose."""
  images, raw = make_images(16, count=6), RAW
  variables = _variables(_model(centred=centred))
  alone = MODEL.clone(centred=centred)
  rest = {
    collection: {k: v for k, v in tree.items() if k != embedding.MEASURES}
    for collection, tree in variables.items()
  }
  # Its projected features have a length, which its embeddings have lost.
  _, seen = jax.jit(
    functools.partial(
      alone.apply,
      train=False,
      capture_intermediates=lambda module, _: module.name == 'Dense_0',
    )
  )(rest, jnp.concatenate(list(embedding.all_poses(images))))
  projected = seen['intermediates']['Dense_0']['__call__'][0]
  params = jax.tree.map(np.float64, variables['params'][embedding.MEASURES])
  stats = variables['batch_stats'][embedding.MEASURES]
  share = []
  for row in raw:
    found = _by_hand(row, bool(stats['in_um']))
    inputs = [
      0.0 if x is None else (x - mean) / deviation
      for x, mean, deviation in zip(
        found, stats['mean'], stats['deviation'], strict=True
      )
    ] + [float(x is not None) for x in found]
    dense = params['Dense_0']
    units = np.maximum(inputs @ dense['kernel'] + dense['bias'], 0)
    share.append(units @ params['Dense_1']['kernel'])
  x = np.asarray(projected, np.float64).reshape(8, 6, -1)[:poses] + share
  if centred:
    x = x / np.sqrt(1 + 1e-5)  # the fresh running statistics
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  wanted = unit(unit(x).mean(axis=0))
  found = _embed(
    _model(centred=centred, poses=poses), variables, images, jnp.asarray(raw)
  )
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_no_measures_are_unknown_measures():
  model, images = _model(), make_images(16, count=6)
  variables = _variables(model)
  none = _embed(model, variables, images)
  unknown = _embed(model, variables, images, jnp.full((6, 4), jnp.nan))
  np.testing.assert_array_equal(none, unknown)
  known = _embed(model, variables, images, jnp.asarray(RAW))
  assert np.abs(none - known).max(axis=1).min() > 1e-3


def test_training_jitters_and_drops_what_is_known():
  count = 20_000
  module = measures.Measures(size=True, others=(), embedding_dim=2, pooled=8)
  raw = jnp.tile(jnp.asarray(RAW[:1, :3]), (count, 1))
  variables = module.init(jax.random.key(0), raw, train=False)
  # The units see the features themselves, so that they can be read off.
  read = np.zeros((4, 32), np.float32)
  read[[0, 1, 2, 3], [0, 1, 2, 3]] = 1.0
  variables['params']['Dense_0'] = {
    'kernel': read,
    'bias': np.where(np.arange(32) < 2, 10.0, 0.0).astype(np.float32),
  }
  variables['params']['Dense_1'] = {'kernel': np.zeros((32, 2), np.float32)}

  @functools.partial(jax.jit, static_argnames='train')
  def units(key, train):
    _, found = module.apply(
      variables,
      raw,
      train=train,
      rngs={'measures': key},
      capture_intermediates=lambda module, _: module.name == 'Dense_0',
    )
    return found['intermediates']['Dense_0']['__call__'][0]

  def seen(key, train):
    found = np.asarray(units(key, train))
    return found[:, :2] - 10.0, found[:, 2:4]

  exact, always = seen(jax.random.key(1), False)
  assert (always == 1).all() and (exact == exact[0]).all()
  drawn, known = seen(jax.random.key(1), True)
  kept = known == 1
  np.testing.assert_array_equal(drawn[~kept], 0.0)
  both = kept.all(axis=1)
  error = drawn[both] - exact[both]
  np.testing.assert_allclose(error.mean(axis=0), 0.0, atol=0.005)
  np.testing.assert_allclose(error.std(axis=0), 0.1, rtol=0.03)
  assert abs(np.corrcoef(error.T)[0, 1]) < 0.03  # drawn one by one
  np.testing.assert_allclose(kept.mean(axis=0), 0.81, atol=0.015)
  none = (~kept).all(axis=1).mean()
  np.testing.assert_allclose(none, 0.1 + 0.9 * 0.01, atol=0.01)
  other, _ = seen(jax.random.key(2), True)
  assert (other != drawn).any()


def _batch(raw):
  rng = np.random.default_rng(0)
  count = len(raw)
  images = rng.integers(0, 256, (count, 16, 16, 1), np.uint8)
  labels = np.arange(count, dtype=np.int32) % 2
  columns = {'image': images, 'label': labels, 'measures': raw}
  rows = np.arange(count)
  return batches.streamed(columns, rows, None)(rows)


def test_a_step_is_finite_and_trains_the_units():
  model = _model()
  start = jax.device_get(
    jax.jit(
      lambda key: state.create(
        key, encoder=model, objective=TRIPLET, tx=TX, image_shape=(16, 16, 1)
      )
    )(jax.random.key(0, impl='rbg'))
  )
  train_step = step.make_train_step(
    apply_fn=model.apply,
    backbone=model.backbone,
    augment=AUGMENT,
    tx=TX,
    objective=TRIPLET,
    views=2,
    chunk=0,
  )
  known = np.tile(RAW, (2, 1))
  for raw in known, np.full_like(known, np.nan):
    found = {embedding.MEASURES: measures.statistics(raw, size=True)}
    before = start.replace(batch_stats=start.batch_stats | found)
    after, metrics = train_step(before, _batch(raw), jax.random.key(1), stage=2)
    chex.assert_tree_all_finite((after.params, metrics))
    moved = jax.tree.map(
      lambda a, b: bool((np.asarray(a) != b).any()),
      after.params['encoder'][embedding.MEASURES],
      before.params['encoder'][embedding.MEASURES],
    )
    # Of unknown measures fresh units see zeros alone.
    assert set(jax.tree.leaves(moved)) == {raw is known}
    got = after.batch_stats[embedding.MEASURES]
    chex.assert_trees_all_equal(got, found[embedding.MEASURES])
