import os
import socket
import types
from typing import NamedTuple

import jax
import numpy as np
import pytest

from plankton_jax.train import sharding, store


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


@pytest.mark.parametrize(('donated', 'need'), [((), 8192), ((0,), 4096)])
def test_a_donated_argument_takes_no_more_memory(donated, need):
  x = np.ones(1024, np.float32)
  add = jax.jit(lambda x: x + 1, donate_argnums=donated)
  found = sharding.program_memory(add.lower(x).compile())
  assert found.total - found.temporary == need


def test_memory_of_a_program_may_be_unknown():
  unknown = types.SimpleNamespace(memory_analysis=lambda: None)
  assert np.isnan(sharding.program_memory(unknown)).all()


def test_one_device_needs_no_mesh():
  assert sharding.make_mesh(13) is None


def _devices(count):
  """Variables by which a process has so many virtual devices."""
  flag = f' --xla_force_host_platform_device_count={count}'
  return {'XLA_FLAGS': os.environ['XLA_FLAGS'] + flag, 'JAX_PLATFORMS': 'cpu'}


def test_eight_devices_compute_what_one_does(start_python):
  run = start_python('tests/many_devices.py', **_devices(8))
  said, errors = run.communicate()
  assert run.returncode == 0, errors
  assert said.count('differ by') == 11, said
  assert 'batch.size=13 is not a multiple of the 8 devices' in said


def test_two_processes_split_prototypes_and_one_goes_on(tmp_path, start_python):
  """Each holds half of them; a single process takes up what both have saved."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  both = [
    start_python('tests/many_processes.py', port, i, tmp_path, **_devices(1))
    for i in range(2)
  ]
  for process in both:
    _, errors = process.communicate()
    assert process.returncode == 0, errors
  with store.open_manager(tmp_path) as manager:
    found, _ = store.restore_model(manager, manager.latest_step())
  with np.load(tmp_path / 'alone.npz') as alone:
    np.testing.assert_allclose(
      found['params']['objective']['prototypes'],
      alone['prototypes'],
      rtol=1e-4,
      atol=1e-6,
    )
