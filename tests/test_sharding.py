import os
import subprocess
import sys
from typing import NamedTuple

import jax
import pytest

from plankton_jax.train import sharding

SCRIPT = """
import chex, jax, jax.numpy as jnp, numpy as np, optax
from test_step import AUGMENT, MODEL, TRIPLET, _batch, _fresh
from plankton_jax.train import batches, sharding, step

assert jax.device_count() == 4
mesh = sharding.make_mesh(12)
# A step of gradient descent at rate 1 moves the weights by the gradient.
tx = optax.sgd(1.0)
train_step = step.make_train_step(
  apply_fn=MODEL.apply, augment=AUGMENT, tx=tx, objective=TRIPLET, views=1
)
start = _fresh(TRIPLET)
start = start.replace(opt_state=tx.init(start.params))
results = []
for on in (None, mesh):
  state = sharding.replicate(on, jax.tree.map(jnp.copy, start))
  state, metrics = train_step(
    state, sharding.split(on, _batch()), jax.random.key(1), stage=0
  )
  gradient = jax.tree.map(np.subtract, start.params, state.params)
  results.append(jax.device_get((metrics, gradient, state.batch_stats)))
batch = sharding.split(mesh, _batch())
assert len(batch['image'].addressable_shards) == 4
assert batch['image'].addressable_shards[1].data.shape[0] == 3
# Batches kept on the devices arrive as those that are sent.
images = np.arange(40 * 4, dtype=np.uint8).reshape(40, 2, 2, 1)
args = images, np.arange(40, dtype=np.int32), np.arange(39, 3, -1), mesh
at = np.random.default_rng(0).permutation(36)[:12]
sent, kept = batches.streamed(*args)(at), batches.resident(*args)(at)
for name, value in sent.items():
  assert kept[name].sharding == value.sharding, name
  assert kept[name].dtype == value.dtype
  np.testing.assert_array_equal(kept[name], value)
one, four = results
chex.assert_trees_all_close(four[0], one[0], rtol=2e-4)
# Behind a block's last norm, which begins at 0, gradients are exactly 0.
sizes = [np.abs(leaf).max() for leaf in jax.tree.leaves(one[1])]
assert sum(size > 1e-5 for size in sizes) > len(sizes) / 2
for size, got, want in zip(sizes, *map(jax.tree.leaves, (four[1], one[1]))):
  np.testing.assert_allclose(got, want, atol=2e-3 * size + 1e-8)
chex.assert_trees_all_close(four[2], one[2], rtol=1e-4, atol=1e-6)
moved = jax.tree.map(
  lambda new, old: np.abs(new - old).max(), four[2], start.batch_stats
)
assert min(jax.tree.leaves(moved)) > 1e-4
try:
  sharding.make_mesh(13)
except sharding.InputError as error:
  print(error)
"""


class _Device(NamedTuple):
  platform: str
  stats: dict | None

  def memory_stats(self):
    return self.stats


@pytest.mark.parametrize(
  ('devices', 'fits'),
  [
    ([_Device('gpu', {'bytes_limit': 400})], True),
    ([_Device('gpu', {'bytes_limit': 399})], False),
    ([_Device('tpu', {'bytes_limit': n}) for n in (4000, 399)], False),
    ([_Device('gpu', {})], False),
    ([_Device('gpu', None)], False),
    ([_Device('cpu', {'bytes_limit': 4000})], False),
  ],
)
def test_a_quarter_of_the_smallest_device_is_for_data(
  devices, fits, monkeypatch
):
  monkeypatch.setattr(jax, 'local_devices', lambda: devices)
  assert sharding.fits_on_device(100) is fits


def test_one_device_needs_no_mesh():
  assert sharding.make_mesh(13) is None


def test_four_devices_compute_the_same_step():
  environment = {
    **os.environ,
    'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join(['.', 'tests']),
  }
  run = subprocess.run(
    [sys.executable, '-c', SCRIPT],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  assert 'batch.size=13 does not divide by the 4 devices' in run.stdout
