import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import jax
import pytest

from plankton_jax.train import sharding

ROOT = pathlib.Path(__file__).parents[1]


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


def test_eight_devices_compute_what_one_does():
  run = subprocess.run(
    [sys.executable, 'tests/many_devices.py'],
    cwd=ROOT,
    env={
      **os.environ,
      'XLA_FLAGS': '--xla_force_host_platform_device_count=8'
      ' --xla_backend_optimization_level=0'
      ' --xla_cpu_use_fusion_emitters=false',
      'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': '.',
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout.count('differ by') == 11, run.stdout
  assert 'batch.size=13 is not a multiple of the 8 devices' in run.stdout
