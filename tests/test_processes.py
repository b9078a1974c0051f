"""Several processes that train one run together, as launch.py starts them."""

import json
import os
import re
import socket
import time
from typing import NamedTuple

import numpy as np
import pytest

from benchmarks import processes as benchmark
from plankton_jax.cli import processes
from plankton_jax.errors import InputError
from tests.written import read_log

EPOCHS, STEPS = 8, 32  # of the run


@pytest.fixture
def launch(caches, start_python):
  """Starts a run of a few steps on so many of the host's CPU devices."""
  command = (
    'launch.py', '--config=configs/smoke.py',
    f'--config.epochs={EPOCHS}', "--config.curriculum=((0,'easy','semihard'),)",
    '--config.validations_per_epoch=1', '--config.data.per_class=16',
    '--config.data.fractions=(0.5,0.25,0.25)', '--config.data.size=16',
    '--config.batch.size=16', '--config.encoder.width=4',
    '--config.encoder.embedding_dim=8',
    f'--config.data.cache_dir={caches}/data',
    f'--config.compilation_cache_dir={caches}/compiled',
  )  # fmt: skip

  def launch(workdir, *flags, devices):
    count = f' --xla_force_host_platform_device_count={devices}'
    return start_python(
      *command,
      f'--workdir={workdir}',
      *flags,
      JAX_PLATFORMS='cpu',
      XLA_FLAGS=os.environ['XLA_FLAGS'] + count,
    )

  return launch


class _Left(NamedTuple):
  """How a process ended."""

  status: int
  said: str

  @property
  def errors(self):
    return re.findall(r'^error: .*', self.said, re.MULTILINE)


def _ended(*started):
  said = [process.communicate()[1] for process in started]
  codes = [process.returncode for process in started]
  return [_Left(*both) for both in zip(codes, said, strict=True)]


def _together(launch, workdir, count, *flags):
  """So many processes of one device each."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  return [
    launch(
      workdir,
      f'--coordinator=127.0.0.1:{port}',
      f'--num_processes={count}',
      f'--process_id={i}',
      *flags,
      devices=1,
    )
    for i in range(count)
  ]


def test_two_processes_are_killed_and_one_ends_as_it_would_have(
  launch, tmp_path
):
  """Two processes of a device each compute what one with two devices does."""
  (whole,) = _ended(launch(tmp_path / 'whole', devices=2))
  assert whole.status == 0, whole.said
  first, second = _together(launch, tmp_path / 'run', 2)
  while not benchmark.saved(tmp_path):
    assert first.poll() is None, first.communicate()
    time.sleep(0.02)
  second.kill()
  left, _ = _ended(first, second)
  assert left.status == processes.LOST, left.said
  (error,) = left.errors
  assert 'another process of the job is lost' in error
  assert 'Traceback' not in left.said
  before = read_log(tmp_path / 'run', 'train')
  assert 4 <= len(before) < STEPS  # an epoch at least, and not all of them
  step = benchmark.saved(tmp_path)
  # Of two devices too: with one, a convolution rounds otherwise, by which
  # mining may take another negative.
  (last,) = _ended(launch(tmp_path / 'run', devices=2))
  assert last.status == 0, last.said
  assert f'at step {step} of {STEPS}' in last.said
  want = read_log(tmp_path / 'whole', 'train')
  got = read_log(tmp_path / 'run', 'train')
  assert [row['step'] for row in got] == list(range(1, STEPS + 1))
  for name in ('loss', 'd_ap', 'd_an', 'grad_norm', 'spread'):
    both = zip(before, want, strict=False)
    for ours, theirs in both:
      np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
  for ours, theirs in zip(got[step : step + 2], want[step:], strict=False):
    np.testing.assert_allclose(ours['loss'], theirs['loss'], rtol=1e-5)


def test_the_benchmark_finds_steps_and_last_words(tmp_path):
  assert benchmark.saved(tmp_path) == 0
  for name in ('8', '16', '20.orbax-checkpoint-tmp'):
    (tmp_path / 'run/checkpoints' / name).mkdir(parents=True)
  assert benchmark.saved(tmp_path) == 16
  rows = [('train', 2.0), ('val', 9.0), ('train', 1.0)]
  log = [json.dumps({'split': split, 'loss': x}) for split, x in rows]
  (tmp_path / 'run/metrics.jsonl').write_text('\n'.join(log))
  np.testing.assert_array_equal(benchmark.losses(tmp_path), [2.0, 1.0])
  said = tmp_path / 'killed_0.log'
  for text, last in {
    '': 'nothing',
    'train 1\rtrain 2\n': 'train 2',
    'error: lost\n  a trace\n': 'error: lost',
    'F client.h] Terminating process because x\ny\n': (
      'F client.h] Terminating process because x'
    ),
  }.items():
    said.write_text(text)
    assert benchmark.last_words(said) == last


def test_the_first_process_s_mistake_stops_the_others(launch, tmp_path):
  mistake = '--config.data.source=folder', f'--config.data.path={tmp_path}/no'
  both = _together(launch, tmp_path / 'run', 2, *mistake)
  for left in _ended(*both):
    assert left.status == 2, left.said
    (error,) = left.errors
    assert f'{tmp_path}/no' in error and 'Traceback' not in left.said


@pytest.mark.parametrize(
  ('given', 'named'),
  [
    (('here:1', 2, None), '--process_id'),
    ((None, 2, 0), '--coordinator=HOST:PORT'),
    (('here', 2, 0), "--coordinator='here' must be HOST:PORT"),
    (('here:1', 2, 2), '--process_id=2 must be 0 to 1'),
    (('here:1', 2, -1), '--process_id=-1 must be 0 to 1'),
  ],
)
def test_flags_that_do_not_fit_are_one_line(given, named):
  coordinator, count, number = given
  with (
    pytest.raises(InputError, match=re.escape(named)),
    processes.joined(
      coordinator=coordinator,
      num_processes=count,
      process_id=number,
      detect=False,
      interrupted='',
    ),
  ):
    raise AssertionError('it must not begin')
