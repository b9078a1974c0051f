"""The accelerator's table, in its smallest size; no time is asserted."""

import csv
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

import pytest

from benchmarks import inputs
from benchmarks.accelerator import (
  __main__,
  checks,
  contestants,
  published,
  rows,
  training,
)
from configs import arcface, base, triplet
from plankton_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
# What such a machine need not have; the rest of requirements.txt it has.
MISSING = (
  'ml_collections',
  'tensorflow_datasets',
  'array_record',
  'loky',
  'bokeh',
  'umap',
  'tensorboardX',
  'tqdm',
  'threadpoolctl',
  'absl',
  'orbax',
  'sklearn',
  'matplotlib',
  'safetensors',
  'pyarrow',
)
BLOCKED = f"""
import sys
from typing import NamedTuple
class Missing:
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in {MISSING!r}:
      raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
"""


def _run_without_packages(script):
  """Runs a script that cannot import what is MISSING."""
  # Flax imports some for itself; what it has imported stays hidden from us.
  hide = (
    'import jax, flax.linen, flax.struct, optax, chex\n'
    'for name in list(sys.modules):\n'
    f'  if name.partition(".")[0] in {MISSING!r}: del sys.modules[name]\n'
    'sys.meta_path.insert(0, Missing())\n'
  )
  return subprocess.run(
    [sys.executable, '-c', BLOCKED + hide + script],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def test_training_and_retrieval_need_few_packages():
  done = _run_without_packages("""
try: import tqdm
except ModuleNotFoundError: pass
else: raise AssertionError('tqdm is not hidden')
import numpy as np
import plankton_jax.augment, plankton_jax.distances, plankton_jax.mining
import plankton_jax.nn.encoders, plankton_jax.objectives
import plankton_jax.train.batches, plankton_jax.train.evaluation
import plankton_jax.train.experiment, plankton_jax.train.step
import benchmarks.accelerator.__main__, benchmarks.accelerator.ours
from plankton_jax import retrieval
found = retrieval.evaluate(np.eye(4, dtype=np.float32), np.arange(4) % 2)
assert found['queries'] == 4
""")
  assert done.returncode == 0, done.stderr


def test_settings_are_those_of_the_config():
  config = triplet.get_config('flowcamnet').to_dict()
  ours = published.config()
  augment = base.get_config().augment.to_dict()  # timed with, published without
  assert ours == {name: config[name] for name in ours} | {'augment': augment}
  fields = arcface.get_config('flowcamnet').objective.to_dict()
  assert fields == published.ARCFACE
  assert published.config(batch=7, width=3)['encoder']['width'] == 3
  assert published.config() == ours  # and no call changes the next


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """The folder and the output of the whole command."""
  out = tmp_path_factory.mktemp('accelerator')
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'benchmarks.accelerator'),
      *('--tiny', f'--out={out}', '--limit_s=36000'),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return out, done.stdout


def test_every_row_is_measured_and_written(tiny):
  out, text = tiny
  found = json.loads((out / 'accelerator.json').read_text())
  with (out / 'accelerator.csv').open(newline='') as file:
    written = list(csv.DictReader(file))
  names = [row.what for row in rows.table(rows.TINY)]
  assert [row['what'] for row in found['rows']] == names
  assert [row['what'] for row in written] == names
  for row in found['rows']:
    assert row['what'] in text
    if not row['what'].startswith('check'):
      assert row['ours'] > 0.0, row
  assert {'device', 'driver', 'versions'} <= found['machine'].keys()


def test_tiny_has_a_row_of_every_kind():
  kinds = lambda sizes: {row.spec['job'] for row in rows.table(sizes)}
  assert kinds(rows.TINY) == kinds(rows.Sizes())
  assert {row.group for row in rows.table(rows.TINY)} == set(rows.GROUPS)
  names = [row.what for row in rows.table(rows.Sizes())]
  assert len(names) == len(set(names))


def test_rows_are_skipped_by_name_when_time_is_over(tmp_path, capsys):
  status = __main__.main(['--tiny', f'--out={tmp_path}', '--limit_s=0'])
  table = json.loads((tmp_path / 'accelerator.json').read_text())['rows']
  assert status == 0
  assert len(table) == len(rows.table(rows.TINY))
  for row in table:
    assert row['note'].endswith('skipped: --limit_s is over')
  assert table[-1]['what'] in capsys.readouterr().out


def test_mined_rows_that_differ_are_an_error(monkeypatch):
  run, facts = checks.mined_indices(size=24, dim=8)
  assert run is None and "are the CPU's" in facts['note']
  monkeypatch.setattr(checks, '_compare', lambda *_: (1, 0))
  with pytest.raises(ValueError, match="are not the CPU's"):
    checks.mined_indices(size=24, dim=8)


def test_rows_within_rounding_error_may_change_places():
  x = inputs.embeddings(6, 4, 2)
  x[3] = x[2]
  x[3, 0] += 1e-7
  batch = checks.Rows(x, inputs.labels(6, 2), x[:, 0] < 2.0)
  mined = checks.mining.Triplets(
    *(checks.np.array(v) for v in ([1] * 6, [2] * 6, [True] * 6, [False] * 6))
  )
  same = mined._replace(negative=mined.negative + 1)
  other = mined._replace(negative=mined.negative + 2)
  assert checks._compare(batch, same, mined) == (0, 6)
  assert checks._compare(batch, other, mined)[0] > 0
  assert checks._compare(batch, mined, mined) == (0, 0)
  x[3] = x[2]  # of equal rows the first is right
  assert checks._compare(batch, same, mined) == (6, 0)


def _row(**fields):
  return rows.Row('a', 'step', {}, **fields)


def test_a_line_has_rates_shares_and_failures():
  ours = {'times': [2.0, 1.0, 4.0], 'flops': 60, 'memory': 3 << 20}
  peer = {'times': [8.0, 4.0, 5.0]}
  row = _row(images=10, peak='bfloat16')
  line = __main__.line(row, ours, peer, {'bfloat16': 120.0, 'tf32': 1.0})
  assert (line['unit'], line['ours'], line['peer']) == ('images/s', 5.0, 2.0)
  assert (line['ratio'], line['share_of_peak']) == (2.5, 0.25)
  assert (line['ours_mib'], line['peer_mib']) == (3.0, None)
  line = __main__.line(_row(), {'times': [0.5]}, {'error': 'too large'}, {})
  assert (line['unit'], line['ours'], line['peer']) == ('ms', 500.0, None)
  assert line['note'] == 'peer failed: too large'
  assert '500' in __main__.shown(line) and 'too large' in __main__.shown(line)


@pytest.mark.parametrize(
  'ours, peer, refused',
  [
    ({'checks': {'loss': 1.0}}, {'checks': {'loss': 1.0001}}, False),
    ({'checks': {'loss': 1.0}}, {'checks': {'loss': 1.1}}, True),
    ({'checks': {'loss': 1.0}}, {'checks': {'loss': float('nan')}}, True),
    ({'checks': {'a': 5, 'b': 2}}, {'checks': {'b': 1}}, True),
    ({'checks': {'a': 5, 'b': 2}}, {'checks': {'b': 2}}, False),
    ({'error': 'failed'}, {'checks': {'loss': 1.0}}, False),
  ],
)
def test_a_peer_that_does_something_else_is_refused(ours, peer, refused):
  peer['calls'] = 1
  contestants.refuse_other_results(ours, peer)
  assert ('error' in peer, 'calls' in peer) == (refused, not refused)


def test_a_worker_that_ends_is_told_by_its_last_words():
  with (
    contestants.running('nobody') as worker,
    pytest.raises(InputError, match=r'nobody ended: .*No module named'),
  ):
    worker.hear(60)


def test_a_worker_that_says_nothing_is_not_waited_for():
  with contestants.running('ours') as worker:
    with pytest.raises(InputError, match='no answer'):
      worker.hear(0.1)
    worker.process.kill()


class State(NamedTuple):
  step: int


def test_the_whole_run_visits_every_stage():
  config = published.config(batch=4, epochs=26, width=2)
  data = training.random_data(16, train=8, val=4)
  seen = []

  def train_step(state, batch, key, *, stage):
    seen.append(stage)
    return state._replace(step=state.step + 1), {}

  def eval_step(state, batch):
    size = len(batch['label'])
    metrics = {'loss': checks.np.zeros(()), 'count': checks.np.ones(())}
    return metrics, checks.np.ones((size, 2), checks.np.float32)

  run = training.experiment.assemble(config, data)
  run = run._replace(train_step=train_step, eval_step=eval_step)
  fresh = State(step=0)
  training.train(run, config, data, fresh, steps_a_stage=1)
  assert seen == [0, 1, 2]
  seen.clear()
  assert training.train(run, config, data, fresh).step == 52
  assert seen == [0] * 20 + [1] * 30 + [2] * 2


@pytest.mark.parametrize('wrong', ['--only=stop', '--wheels=/nowhere'])
def test_mistakes_end_in_a_line(wrong, capsys):
  with pytest.raises(SystemExit) as end:
    __main__.parse([wrong])
  assert end.value.code == 2
  assert wrong.partition('=')[0] in capsys.readouterr().err
