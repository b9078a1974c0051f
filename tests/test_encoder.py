import functools
import os

import chex
import jax
import numpy as np
import pytest

from configs import arcface
from plankton_jax import augment
from plankton_jax.encoder import Encoder
from plankton_jax.errors import InputError
from plankton_jax.nn import encoders, measures
from plankton_jax.nn.embedding import MEASURES
from plankton_jax.train import sharding
from plankton_jax.train.step import make_embed_step
from tests import tiny_encoder

# What another process embeds on four devices, held to what this one does.
SCRIPT = """
import sys
import jax, numpy as np
from tests import test_encoder

assert jax.local_device_count() == 4
encoder = test_encoder.fresh()
images = test_encoder.images(int(sys.argv[2]))
seen = []
step = encoder._embed_step

def watched(params, batch_stats, batch):
  seen.append({s.device: s.data.shape[0] for s in batch.addressable_shards})
  kernel = params['encoder']['Dense_0']['kernel']
  assert kernel.sharding.is_fully_replicated
  assert kernel.sharding.device_set == set(jax.devices())
  return step(params, batch_stats, batch)

encoder._embed_step = watched
np.save(sys.argv[1], encoder.embed(images))
# One batch of all four devices, and one more for what is left.
assert seen == [dict.fromkeys(jax.devices(), 32)] * 2, seen
"""


def fresh(**fields):
  """A random encoder of eight poses: 32 images are 256 views."""
  config = arcface.get_config().to_dict()
  config['data'] |= {'size': 8, 'channels': 1}
  config['encoder'] |= {
    'name': 'resnet10',
    'width': 8,
    'stem': 'half',
    'embedding_dim': 6,
    'poses': 8,
    'whitening': 0.0,
  } | fields
  params, batch_stats = tiny_encoder.draw(config)
  prototypes = tiny_encoder.make_prototypes(3, 6)
  return Encoder(
    {'encoder': params, 'objective': {'prototypes': prototypes}},
    batch_stats,
    config,
    ('a', 'b', 'c'),
    7,
  )


def images(count):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, 8, 8, 1), np.uint8)


def test_four_devices_embed_as_one_does(tmp_path, python):
  count = 128 + 5
  here = fresh().embed(images(count))
  chex.assert_shape(here, (count, 6))
  chex.assert_tree_all_finite(here)
  file = tmp_path / 'embedded.npy'
  four = ' --xla_force_host_platform_device_count=4'
  flags = os.environ.get('XLA_FLAGS', '') + four
  env = {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  run = python('-c', SCRIPT, file, count, **env)
  assert run.returncode == 0, run.stderr
  # Another image's embedding differs by far more than the tolerance.
  assert np.abs(here[:-1] - here[1:]).max(axis=1).min() > 1e-4
  chex.assert_trees_all_close(np.load(file), here, atol=1e-6)


def test_one_device_needs_no_mesh():
  assert sharding.make_local_mesh() is None


@pytest.mark.parametrize('count', [0, 1, 32, 33])
def test_every_image_is_embedded_in_its_place_by_one_program(count):
  encoder = fresh()
  model = encoders.make(**encoder.config['encoder'])
  chex.clear_trace_counter()
  apply = lambda *arrays, train: model.apply(*arrays, train=train)
  encoder._embed_step = make_embed_step(
    apply_fn=chex.assert_max_traces(apply, n=1), normalise=None
  )
  found = encoder.embed(images(count))
  chex.assert_shape(found, (count, 6))
  assert found.dtype == np.float32
  for i in range(0, count, 16):
    alone = encoder.embed(images(count)[i : i + 1])
    chex.assert_trees_all_close(found[i : i + 1], alone, atol=1e-6)


@pytest.mark.parametrize(
  'wrong', [np.zeros((2, 8, 8, 1), np.float32), np.zeros((2, 8, 9, 1), 'u1')]
)
def test_images_of_another_kind_are_named(wrong):
  with pytest.raises(InputError, match=r'takes uint8 \[N, 8, 8, 1\]'):
    fresh().embed(wrong)


def test_scores_are_the_scaled_cosines():
  encoder = fresh()
  embedded = encoder.embed(images(4))
  found = encoder.scores(embedded)
  chex.assert_shape(found, (4, 3))
  prototypes = encoder.variables['params']['objective']['prototypes']
  unit = prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
  scale = encoder.config['objective']['scale']
  chex.assert_trees_all_close(found, scale * embedded @ unit.T, rtol=1e-4)


@pytest.mark.parametrize(
  ('change', 'named'),
  [
    (
      lambda _, params: params['Dense_0'].pop('kernel'),
      r'missing, not \(64, 6',
    ),
    (lambda _, params: params.update(odd=np.ones(3)), 'odd is .* expected'),
    (
      lambda _, params: params['Dense_0'].update(kernel=np.ones((2, 6))),
      r'params/Dense_0/kernel is \(2, 6\), not \(64, 6\)',
    ),
    (lambda stats, _: stats.clear(), 'batch_stats/.* and [0-9]+ more'),
  ],
)
def test_arrays_of_another_network_are_refused_as_it_is_loaded(change, named):
  encoder = fresh()
  params, stats = jax.tree.map(
    lambda x: x, (encoder.variables['params'], encoder.variables['batch_stats'])
  )
  Encoder(params, stats, encoder.config, encoder.class_names, 7)
  change(stats, params['encoder'])
  with pytest.raises(InputError, match=named) as error:
    Encoder(params, stats, encoder.config, encoder.class_names, 7)
  assert 'do not fit the config' in str(error.value)


def sized(**fields):
  """A random encoder that takes sizes in µm, and an angle."""
  plain = fresh(size=True, measures=['angle'], poses=1, **fields)
  raw = np.random.default_rng(1).uniform(20, 400, (50, 4))
  stats = {MEASURES: measures.statistics(np.float32(raw), size=True)}
  params, batch_stats = plain.variables.values()
  return Encoder(
    params, batch_stats | stats, plain.config, plain.class_names, plain.step
  )


def test_sizes_and_measures_reach_each_image():
  encoder, count = sized(), 256 + 3  # two batches, the last one padded
  rng = np.random.default_rng(2)
  sizes = rng.integers(10, 300, (count, 2))
  others = {
    'angle': rng.normal(0, 3, count),
    'pixel_um': np.where(np.arange(count) % 3, 14.0, np.nan),
    'object_area': ['not', 'looked', 'at'],
  }
  found = encoder.embed(images(count), sizes, measures=others)
  model = encoders.make(**encoder.config['encoder'])
  raw = [sizes[:, 0], sizes[:, 1], others['pixel_um'], others['angle']]
  wanted = jax.jit(functools.partial(model.apply, train=False))(
    {
      'params': encoder.variables['params']['encoder'],
      'batch_stats': encoder.variables['batch_stats'],
    },
    augment.to_float(images(count)),
    np.stack(raw, axis=1).astype(np.float32),
  )
  chex.assert_trees_all_close(found, wanted, atol=1e-6)
  # One and the same image of another size lies elsewhere.
  same = np.repeat(images(1), count, axis=0)
  along = encoder.embed(same, sizes, measures=others)
  assert np.unique(along.round(4), axis=0).shape[0] > 0.9 * count
  height, width = sizes.T
  by_name = others | {'height': height, 'width': width}
  chex.assert_trees_all_equal(
    found, encoder.embed(images(count), measures=by_name)
  )


def test_what_is_left_out_is_unknown_and_what_is_not_taken_is_not_used():
  encoder, some = sized(), images(3)
  unknown = encoder.embed(some)
  nan = np.full((3, 2), np.nan)
  chex.assert_trees_all_equal(unknown, encoder.embed(some, nan))
  # In µm a size without the pixel's is unknown, but the sides have a ratio.
  square, long = np.full((3, 2), 40), np.tile([20, 80], (3, 1))
  chex.assert_trees_all_equal(
    encoder.embed(some, square), encoder.embed(some, 3 * square)
  )
  assert np.abs(encoder.embed(some, long) - unknown).max() > 1e-3
  assert encoder.size_unit == 'µm' and fresh(size=True).size_unit == 'px'
  alone = fresh()
  assert alone.size_unit == ''
  chex.assert_trees_all_equal(alone.embed(some), alone.embed(some, square))


def test_sizes_of_other_images_are_named():
  encoder = sized()
  with pytest.raises(InputError, match=r'sizes are \(2,\); 3 images take \[3,'):
    encoder.embed(images(3), np.ones(2))
  with pytest.raises(InputError, match=r"'angle' is \(4,\); 3 images take"):
    encoder.embed(images(3), measures={'angle': np.ones(4)})
