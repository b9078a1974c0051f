import csv
import json

import numpy as np
import pytest

from analysis import training
from plankton_jax.train import log as logs
from tests.analysis_runs import run as run_analysis
from tests.analysis_runs import source


def write_log(workdir, rows, *, tail=''):
  workdir.mkdir(exist_ok=True)
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (workdir / 'metrics.jsonl').write_text(lines + tail)


def train_row(step, **values):
  return {'split': 'train', 'step': step, 'epoch': step / 4, **values}


def triplet_log(steps=40):
  rows = [
    train_row(
      step,
      loss=1 / step,
      d_ap=0.3,
      d_an=0.9,
      active_fraction=0.5,
      fallback_fraction=0.1,
      spread=0.05,
      effective_rank=4.0,
      stage=0,
    )
    for step in range(1, steps + 1)
  ]
  rows += [
    {
      **row,
      'split': 'val',
      'loss': row['loss'] + 0.1,
      'map_at_r': 0.9 - row['loss'],
    }
    for row in rows[3::4]
  ]
  rows.append(
    {
      'split': 'epoch',
      'step': 4,
      'seconds': 30.0,
      'images_per_second': 50.0,
      'epoch': 1,
    }
  )
  rows.append(
    {
      'split': 'epoch',
      'step': 8,
      'seconds': 60.0,
      'images_per_second': 70.0,
      'epoch': 2,
    }
  )
  rows.append({'split': 'test', 'step': steps, 'epoch': 10.0, 'loss': 0.4})
  return rows


@pytest.mark.parametrize('window', [0, 1, 5, 6, 50])
def test_smooth_equals_a_loop(window):
  rng = np.random.default_rng(0)
  values = rng.normal(size=23)
  values[[4, 5, 6, 7, 8, 9, 20]] = np.nan
  got = training.smooth(values, window)
  half = window // 2
  for i in range(len(values)):
    near = values[max(0, i - half) : i + half + 1]
    near = near[np.isfinite(near)]
    want = near.mean() if near.size else np.nan
    np.testing.assert_allclose(got[i], want, rtol=1e-12)
  assert len(training.smooth(np.empty(0), window)) == 0


def test_summary(tmp_path):
  write_log(tmp_path, triplet_log())
  log, _ = logs.read(tmp_path / 'metrics.jsonl')
  log['train'][7]['loss'] = float('nan')
  row = training.summary('run', log)
  assert row['epochs'] == 10.0 and row['steps'] == 40
  assert row['best val loss'] == pytest.approx(1 / 40 + 0.1)
  assert row['at epoch'] == 10.0
  assert row['best val MAP@R'] == pytest.approx(0.9 - 1 / 40)
  assert row['test loss'] == 0.4 and np.isnan(row['test accuracy'])
  assert row['images/s'] == 60.0 and row['minutes'] == 1.5
  assert row['losses not finite'] == 1


def test_analyse_draws_runs_side_by_side(tmp_path, capsys):
  triplet = source('triplet', workdir=tmp_path / 'triplet')
  triplet.config['curriculum'] = [
    [0, 'easy', 'semihard'],
    [5, 'hard', 'hard'],
    [99, 'easy', 'hard'],
  ]
  write_log(triplet.workdir, triplet_log(), tail='{"spl')
  softmax = source('softmax', workdir=tmp_path / 'softmax')
  write_log(
    softmax.workdir,
    [train_row(i, loss=100.0 / i**2, accuracy=0.5) for i in range(1, 30)],
  )
  run_analysis(training, [triplet, softmax], tmp_path)
  told = capsys.readouterr().out
  assert 'metrics.jsonl: 1 unreadable lines left out' in told
  found = json.loads((tmp_path / 'training.json').read_text())
  assert [row['source'] for row in found] == ['triplet', 'softmax']
  assert found[1]['test loss'] is None
  with (tmp_path / 'training.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 40 + 10 + 2 + 1 + 29
  assert rows[0]['d_ap'] == '0.3' and rows[-1]['d_ap'] == ''
  picture = (tmp_path / 'training.svg').read_text()
  assert (tmp_path / 'training.png').stat().st_size > 10_000
  for text in (
    'easy + semihard',
    'hard + hard',
    'Someone 2015',
    'not logged',
    'map_at_r',
  ):
    assert f'<!-- {text} -->' in picture
  assert 'easy + hard' not in picture  # the run ended before that stage


def test_a_run_whose_validation_defines_no_measure(tmp_path):
  run = source(workdir=tmp_path)
  val = {'split': 'val', 'epoch': 1.0, 'loss': None, 'map_at_r': None}
  write_log(
    tmp_path,
    [
      *(train_row(step, loss=1 / step, map_at_r=0.5) for step in range(1, 9)),
      *({**val, 'step': step} for step in (4, 8)),
      {'split': 'collapse', 'step': 4, 'epoch': 1.0, 'warning': 'collapsed'},
      {**val, 'split': 'test', 'step': 8},
    ],
  )
  found = training.analyse([run])
  assert f'{run.name}: epoch 1.0: collapsed' in found.notes
  (row,) = found.shown[0].rows
  for name in ('best val loss', 'at epoch', 'best val MAP@R', 'test loss'):
    assert np.isnan(row[name]), name
  assert row['losses not finite'] == 0
  run_analysis(training, [run], tmp_path)
  assert (tmp_path / 'training.png').exists()


def test_analyse_draws_only_what_was_logged(tmp_path):
  run = source(workdir=tmp_path)
  rows = [train_row(i, loss=float('nan')) for i in range(1, 4)]
  write_log(tmp_path, [*rows, train_row(4, loss=0.5)])
  run_analysis(training, [run], tmp_path)
  picture = (tmp_path / 'training.svg').read_text()
  assert '<!-- loss -->' in picture and 'accuracy' not in picture


def test_analyse_skips_what_has_no_log(tmp_path, capsys):
  bare = source('bare', workdir=tmp_path / 'bare')
  hollow = source('hollow', workdir=tmp_path / 'hollow')
  write_log(hollow.workdir, [], tail='\n')
  silent = source('silent', workdir=tmp_path / 'silent')
  write_log(silent.workdir, [train_row(1, loss=float('nan'))])
  run_analysis(training, [source('files'), bare, hollow], tmp_path)
  assert capsys.readouterr().out.splitlines() == [
    'training: files needs a workdir: skipped',
    'training: bare has no metrics.jsonl (not trained here): skipped',
    f'training: {hollow.workdir}/metrics.jsonl holds no training step: skipped',
  ]
  assert not list(tmp_path.glob('training*'))
  run_analysis(training, [silent], tmp_path)
  assert (tmp_path / 'training.png').exists()
