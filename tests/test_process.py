"""Two runs on one workdir, and a run that is asked to end."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from plankton_jax.errors import InputError
from plankton_jax.train import job, log, loop

ROOT = pathlib.Path(__file__).parents[1]
HOLD = """
import pathlib, sys
from plankton_jax.train import job
with job.alone_on(pathlib.Path(sys.argv[1])):
  print('held', flush=True)
  sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
  """A process that trains in tmp_path, so to speak."""
  with subprocess.Popen(
    [sys.executable, '-c', HOLD, str(tmp_path)],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as child:
    assert child.stdout.readline() == 'held\n'
    yield child
    child.kill()


def test_a_second_run_on_a_workdir_names_the_first(
  holder, tmp_path, make_config
):
  with pytest.raises(InputError) as error:
    loop.train_and_evaluate(make_config(), tmp_path)
  said = str(error.value)
  assert said.startswith(f'{tmp_path}: process {holder.pid} on ')
  assert os.uname().nodename in said and '--workdir' in said
  assert [path.name for path in tmp_path.iterdir()] == ['.lock']


def test_a_dead_process_holds_no_lock(holder, tmp_path):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with job.alone_on(tmp_path):
    found = json.loads((tmp_path / '.lock').read_text())
    assert found['process'] == os.getpid()
  with job.alone_on(tmp_path):  # and neither does a finished run
    pass


def test_the_first_sigterm_is_noticed_and_the_second_ends_the_process():
  before = signal.getsignal(signal.SIGTERM)
  with job.sigterm_noticed() as noticed:
    assert not noticed(1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert noticed(1)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  assert signal.getsignal(signal.SIGTERM) == before


def test_outside_of_the_main_thread_nothing_is_noticed():
  found = []

  def enter():
    with job.sigterm_noticed() as noticed:
      found.append(noticed(1))

  thread = threading.Thread(target=enter)
  thread.start()
  thread.join()
  assert found == [False]


def _without_times(workdir):
  return {
    split: [
      {k: v for k, v in row.items() if 'seconds' not in k and 'per' not in k}
      for row in rows
    ]
    for split, rows in log.read(workdir / 'metrics.jsonl').by_split.items()
  }


def test_a_run_saves_before_sigterm_ends_it_and_resumes_bitwise_equal(
  make_config, tmp_path, capfd, monkeypatch
):
  config = make_config(epochs=2, data__fractions=(0.5, 0.25, 0.25))
  whole = loop.train_and_evaluate(config, tmp_path / 'whole')
  per_epoch = int(whole.step) // 2
  assert per_epoch > 3
  write, signalled = log.Log.write, []

  def write_and_signal(self, split, where, values):
    write(self, split, where, values)
    if split == 'train' and where['step'] == signalled[-1]:
      os.kill(os.getpid(), signal.SIGTERM)

  # At the first step, between validations and at one.
  for at in (1, per_epoch + 1, per_epoch + 3):
    signalled.append(at)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
      patch.setattr(log.Log, 'write', write_and_signal)
      loop.train_and_evaluate(config, tmp_path / 'ended')
    assert left.value.code == 143
    said = capfd.readouterr().err
    assert 'SIGTERM: saved step' in said and 'the same command' in said
  again = loop.train_and_evaluate(config, tmp_path / 'ended')
  for got, want in zip(*map(jax.tree.leaves, (again, whole)), strict=True):
    np.testing.assert_array_equal(got, want)
  assert _without_times(tmp_path / 'ended') == _without_times(
    tmp_path / 'whole'
  )
