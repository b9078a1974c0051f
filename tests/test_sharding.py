import os
import subprocess
import sys
from typing import NamedTuple

import jax
import pytest

from plankton_jax.train import sharding

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from test_step import TRIPLET, _batch, _fresh, _train_step
from plankton_jax.train import sharding
from plankton_jax.train import batches

assert jax.device_count() == 4
mesh = sharding.make_mesh(12)
results = []
for on in (None, mesh):
  state = sharding.replicate(on, jax.tree.map(jnp.copy, _fresh(TRIPLET)))
  state, metrics = _train_step(TRIPLET)(
    state, sharding.split(on, _batch()), jax.random.key(1), stage=0
  )
  results.append(jax.device_get((metrics, state.params)))
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
# One Adam step moves each weight by the rate, whatever the gradient's size:
# compare what came before it.
for name in results[0][0]:
  np.testing.assert_allclose(
    results[0][0][name], results[1][0][name], rtol=2e-4, err_msg=name
  )
for a, b in zip(*(jax.tree.leaves(r[1]) for r in results), strict=True):
  np.testing.assert_allclose(a, b, atol=2.1e-2)
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
  assert sharding.fits(100) is fits


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
