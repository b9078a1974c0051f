"""The cells of quality tables: arithmetic, resuming, what one cell measures."""

import json
import math
import shutil
import sys

import numpy as np
import pytest
from scipy import stats

from benchmarks import ablation, cells, contestants, recipes
from plankton_jax import retrieval
from plankton_jax.errors import InputError

# In place of a contestant: notes its turn, fails once where it is told to.
CONTESTANT = """
import json, pathlib, sys
work, final = map(pathlib.Path, sys.argv[1:3])
spec = json.loads((work / 'spec.json').read_text())
with pathlib.Path('turns').open('a') as file:
  file.write(spec['who'] + ' ')
if spec.get('fails') and not (work / 'tried').exists():
  (work / 'tried').touch()
  final.with_name('.' + final.name + '.1').write_text('{"resul')
  print('some words')
  sys.exit('out of paper')
final.write_text(json.dumps({'spec': spec, 'result': spec['result']}))
"""


@pytest.fixture
def contestant(tmp_path, monkeypatch):
  """A contestant in place of the real ones; the folder where it runs."""
  (tmp_path / 'benchmarks').mkdir()
  for name, text in (('__init__', ''), ('contestants', CONTESTANT)):
    (tmp_path / f'benchmarks/{name}.py').write_text(text)
  monkeypatch.setattr(recipes, 'ROOT', tmp_path)
  return tmp_path


def _spec(who, **more):
  return {'who': who, 'result': {'note': '', 'unseen MAP@R': 0.5}, **more}


def _turns(folder):
  return (folder / 'turns').read_text().split()


def test_a_finished_cell_is_not_run_again(contestant):
  queue = [('a, seed 0', _spec('a')), ('b, seed 0', _spec('b'))]
  out, seen = contestant / 'out', []
  assert cells.run(out, queue[:1], after=lambda: seen.append(1)) == []
  assert cells.run(out, [*queue, *queue], after=lambda: seen.append(2)) == []
  assert _turns(contestant) == ['a', 'b']
  assert seen == [1, 2]
  assert cells.result(out, _spec('b')) == _spec('b')['result']
  assert cells.result(out, _spec('c')) is None
  assert not list((out / 'work').iterdir())


def test_a_half_written_cell_is_run_again_and_hinders_no_other(contestant):
  broken = _spec('broken', fails=True)
  queue = [('broken, seed 0', broken), ('b, seed 0', _spec('b'))]
  out = contestant / 'out'
  assert cells.run(out, queue) == ['broken, seed 0: out of paper']
  assert cells.result(out, broken) is None
  assert cells.run(out, queue) == []
  assert _turns(contestant) == ['broken', 'b', 'broken']
  assert cells.result(out, broken) == broken['result']


def test_two_processes_do_not_share_a_folder(tmp_path):
  with cells._alone(tmp_path), pytest.raises(InputError, match='another'):
    cells.run(tmp_path, [])


def test_interval_is_students():
  rng = np.random.default_rng(0)
  for count in (2, 3, 10):
    x = rng.normal(0.8, 0.1, count)
    mean, half = cells.interval([*x, math.nan])
    low, high = stats.t.interval(0.95, count - 1, x.mean(), stats.sem(x))
    np.testing.assert_allclose([mean - half, mean + half], [low, high])
  assert cells.interval([0.5])[0] == 0.5
  assert math.isnan(cells.interval([0.5])[1])
  assert all(math.isnan(x) for x in cells.interval([]))
  assert cells.shown([0.5, math.nan]) == '0.500'
  assert cells.shown([]) == '-'
  # t of one degree of freedom is tan(0.95 π / 2); the error is 0.1.
  assert (
    cells.shown([0.1, 0.3]) == f'0.200 ± {0.1 * math.tan(0.475 * math.pi):.3f}'
  )


def test_notes_count_what_went_wrong():
  results = [
    {'note': note}
    for note in ('collapsed: a', '', 'diverged: b', 'collapsed: c')
  ]
  assert cells.notes(results) == '2 of 4 collapsed, 1 of 4 diverged'
  assert cells.notes(results[1:2]) == ''
  assert math.isnan(cells.numbers([{'x': None}], 'x')[0])


def test_gains_are_of_runs_of_one_seed(tmp_path):
  def finish(value, spec):
    if value is not None:
      path = cells._file(tmp_path, spec)
      path.parent.mkdir(exist_ok=True)
      measures = dict.fromkeys(cells.MEASURES, value) | {'note': ''}
      path.write_text(json.dumps({'spec': spec, 'result': measures}))

  values = {'base': [0.5, 0.7, None], 'other': [0.6, 0.9, 0.1], 'none': [None]}
  variants = {
    name: [{'config': f'{name} {seed}'} for seed in range(3)] for name in values
  }
  for name, own in values.items():
    for value, spec in zip(own, variants[name], strict=False):
      finish(value, spec)
  rows = ablation.markdown('Title', variants, tmp_path).splitlines()[4:]
  base, other, none = (
    [f.strip() for f in row.split('|')[1:-1]] for row in rows
  )
  assert base[:2] == ['base', '2']
  assert base[2] == cells.shown([0.5, 0.7])
  assert (base[6], other[6]) == ('', cells.shown([0.1, 0.2], '+'))
  assert other[2] == cells.shown([0.6, 0.9, 0.1])
  assert none[:3] == ['none', '0', '-']


@pytest.fixture(scope='module')
def measured(tmp_path_factory, make_config):
  """(config, workdir, result) of one of our cells."""
  config = make_config(
    epochs=2,
    validations_per_epoch=1,
    curriculum=((0, 'easy', 'semihard'),),
    data__fractions=(0.6, 0.2, 0.2),
  )
  work = tmp_path_factory.mktemp('cell')
  (work / 'spec.json').write_text(json.dumps({'config': config, 'peer': False}))
  contestants.main(work, work / 'result.json', sys.executable)
  return config, work, json.loads((work / 'result.json').read_text())['result']


def test_our_cell_is_measured_at_the_best_checkpoint(measured):
  from analysis import embed
  from analysis.files import inputs

  _, work, result = measured
  embed.embed_run(work, None)
  for split in ('test', 'unseen'):
    rows = inputs.read_embeddings(work / f'embeddings/{split}.npz')
    found = retrieval.evaluate(rows.embedding, rows.label, ks=(1,))
    assert result[f'{split} MAP@R'] == pytest.approx(found['map_at_r'])
    assert result[f'{split} R@1'] == pytest.approx(found['recall_at_1'])
  # 16 images of each of 3 classes: 65 % of them are 30.
  assert result['unseen SVC n=30'] == result['unseen SVC n=max']
  assert 0 < result['unseen SVC n=max'] <= 1
  assert result['seconds'] > 0
  assert result['note'] == ''
  lines = map(json.loads, (work / 'metrics.jsonl').read_text().splitlines())
  maps = [x['map_at_r'] for x in lines if x['split'] == 'val']
  assert len(maps) == 2
  assert result['epoch'] == 1 + np.argmax(maps)


def test_a_trained_cell_is_measured_without_training_again(measured, tmp_path):
  config, work, result = measured
  shutil.copytree(work, tmp_path / 'again')
  path = tmp_path / 'again/metrics.jsonl'
  warning = {'split': 'collapse', 'step': 2, 'warning': 'a line'}
  path.write_text(json.dumps(warning) + '\n' + path.read_text())
  again = contestants.ours(config, tmp_path / 'again')
  assert again.pop('note') == 'collapsed: a line'
  assert again == {k: v for k, v in result.items() if k != 'note'}


def test_a_diverging_cell_is_a_result(make_config, tmp_path):
  config = make_config(optimizer__learning_rate=1e30)
  result = contestants.ours(config, tmp_path)
  assert result['note'].startswith('diverged: ')
  assert math.isnan(result['unseen MAP@R'])
