import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import arcface
from plankton_jax.encoder import Encoder
from plankton_jax.errors import InputError
from plankton_jax.nn import encoders
from plankton_jax.train import sharding
from plankton_jax.train.step import make_embed_step

# What another process embeds on four devices, held to what this one does.
SCRIPT = """
import sys
import jax, numpy as np
import test_encoder

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
  } | fields
  model = encoders.make(**config['encoder'])
  variables = jax.jit(
    lambda key: model.init(key, jnp.zeros((1, 8, 8, 1)), train=False)
  )(jax.random.key(0, impl='rbg'))
  prototypes = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
  return Encoder(
    {'encoder': variables['params'], 'objective': {'prototypes': prototypes}},
    variables['batch_stats'],
    config,
    ('a', 'b', 'c'),
    7,
  )


def images(count):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, 8, 8, 1), np.uint8)


def test_four_devices_embed_as_one_does(tmp_path):
  count = 128 + 5
  here = fresh().embed(images(count))
  chex.assert_shape(here, (count, 6))
  chex.assert_tree_all_finite(here)
  file = tmp_path / 'embedded.npy'
  flags = os.environ.get('XLA_FLAGS', '')
  run = subprocess.run(
    [sys.executable, '-c', SCRIPT, str(file), str(count)],
    env={
      **os.environ,
      'XLA_FLAGS': f'{flags} --xla_force_host_platform_device_count=4',
      'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': os.pathsep.join(['.', 'tests']),
    },
    capture_output=True,
    text=True,
    check=False,
  )
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
