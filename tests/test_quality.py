"""The table beside the peer: who trains with what, and what is written."""

import csv
import json
import math
import os

import pytest

from benchmarks import cells, contest, quality, recipes
from plankton_jax.cli import command
from plankton_jax.errors import InputError
from tests import flagged

GROUND = recipes.Ground('x', ('a',), '', 64, 'resnet18', 16, 35)


def _parse(argv):
  return quality.parse(flagged.parse(quality, *argv))


def test_the_peer_and_ours_have_the_same_settings():
  made = quality.specs(quality.contestants(), [GROUND], seeds=2)
  for name in ('triplet', 'arcface', 'softmax'):
    for seed in (0, 1):
      peer, same = made[f'peer.{name}'][seed], made[f'same.{name}'][seed]
      assert peer == same | {'peer': True}
      assert not same['peer']
      assert same['config']['seed'] == seed
    assert made[f'peer.{name}'][0]['config'] != made[name][0]['config']
  config = made['peer.triplet'][0]['config']
  assert [row[0] for row in config['curriculum']] == [0, 10, 25]
  assert config['data']['resize'] == 'stretch'
  strengths = {k: v for k, v in config['augment'].items() if k != 'flip'}
  assert not any(strengths.values())


def test_contestants_are_chosen_and_added():
  options, chosen = _parse(
    [
      '--path=x',
      '--contestants=best,peer.arcface',
      '--ours=best=configs/softmax.py objective.scale=10.0',
      '--ours=triplet=configs/triplet.py objective.margin=0.2',
    ]
  )
  assert (options.seeds, options.epochs) == (3, 35)
  assert list(chosen) == ['best', 'peer.arcface']
  assert chosen['best'].recipe.config().objective.scale == 10.0
  assert [chosen[name].peer for name in chosen] == [False, True]
  _, everyone = _parse(
    ['--path=x', '--ours=triplet=configs/triplet.py objective.margin=0.2']
  )
  assert list(everyone) == list(quality.contestants())
  assert everyone['triplet'].recipe.config().objective.margin == 0.2


def test_a_recipe_of_the_peer_begins_from_its_settings():
  _, chosen = _parse(
    [
      '--path=x',
      '--contestants=mine',
      '--peer=mine=configs/arcface.py batch.size=32 objective.scale=16.0',
    ]
  )
  assert chosen['mine'].peer
  config = chosen['mine'].recipe.config()
  assert config.objective.name == 'arcface'
  assert config.objective.scale == 16.0
  assert (config.batch.size, config.batch.sampling) == (32, 'images')
  assert config.encoder.embedding_dim == 128
  assert not config.encoder.centred


@pytest.mark.parametrize(
  'wrong',
  [
    '--contestants=nobody',
    '--ours=best',
    '--peer=best=configs/softmax.py encoder.whitening=0.5',
    '--peer=best=configs/cosface.py',
    '--seeds=0',
  ],
)
def test_mistakes_end_in_a_line(wrong, capsys):
  with pytest.raises(SystemExit) as end, command.errors_as_lines():
    _parse(['--path=x', wrong])
  assert end.value.code == 2
  (said,) = capsys.readouterr().err.splitlines()
  assert said.startswith(f'error: {wrong.partition("=")[0]}')


def test_a_path_is_needed():
  with pytest.raises(InputError, match=r'^--path is missing'):
    _parse([])


def test_the_unseen_classes_are_named_or_drawn(tmp_path):
  for name in 'abcde':
    (tmp_path / name).mkdir()
    (tmp_path / name / 'x.png').touch()
  shared = ['--path', str(tmp_path)]
  named = lambda *more: recipes.ground(_parse([*shared, *more])[0], 'e')
  assert named('--unseen=d,b').unseen == ('b', 'd')
  drawn = {named('--unseen=2', f'--split_seed={i}').unseen for i in range(8)}
  assert {len(names) for names in drawn} == {2}
  assert len(drawn) > 1
  with pytest.raises(InputError, match='no class'):
    named('--unseen=f')


def test_every_draw_of_the_unseen_classes_is_a_ground_of_its_own(tmp_path):
  for name in 'abcdefgh':
    (tmp_path / name).mkdir()
    (tmp_path / name / 'x.png').touch()
  options, chosen = _parse(
    ['--path', str(tmp_path), '--unseen=3', '--split_seed=4']
  )
  drawn = quality.grounds(options, 3)
  for seed, found in enumerate(drawn, start=4):
    assert found == recipes.ground(
      options._replace(split_seed=seed), 'resnet18'
    )
  assert len({found.unseen for found in drawn}) == 3
  made = quality.specs(chosen, drawn, seeds=2)['softmax']
  assert [
    (spec['config']['data']['unseen_classes'], spec['config']['seed'])
    for spec in made
  ] == [(found.unseen, seed) for found in drawn for seed in (0, 1)]
  with pytest.raises(InputError, match=r'^--draws=2 takes --unseen=COUNT'):
    quality.grounds(options._replace(unseen='a,b'), 2)


def test_the_best_of_the_peer_differs_where_it_says():
  made = quality.specs(quality.contestants(), [GROUND], seeds=1)
  plain, best = (made[f'peer.{name}'][0] for name in ('softmax', 'best'))
  assert best['peer']
  assert best['config']['batch'] == plain['config']['batch'] | {'views': 2}
  assert best['config']['optimizer'] == plain['config']['optimizer'] | {
    'schedule': 'cosine', 'weight_decay': 0.05
  }  # fmt: skip
  same = lambda spec: {
    name: value
    for name, value in spec['config'].items()
    if name not in ('batch', 'optimizer')
  }
  assert same(best) == same(plain)


def test_lines_of_the_table():
  results = {
    'a': [
      dict.fromkeys(cells.MEASURES, x) | {'seconds': 10 * x, 'note': note}
      for x, note in ((0.5, ''), (0.7, 'collapsed: x'))
    ],
    'b': [],
  }
  first, second = quality.lines(results)
  mean, half = cells.interval([0.5, 0.7])
  assert first['unseen MAP@R'] == mean
  assert first['unseen MAP@R ±'] == half
  assert first['seconds'] == 6.0
  assert (first['runs'], second['runs']) == (2, 0)
  assert math.isnan(second['test R@1'])
  shown, none = quality.shown(results)
  assert shown['unseen SVC n=30'] == cells.shown([0.5, 0.7])
  assert shown['notes'] == '1 of 2 collapsed'
  assert none['test R@1'] == '-'


def test_the_whole_table(tmp_path, monkeypatch, capsys):
  """From the command line to the CSV, the training put in by hand."""
  for name in 'abc':
    (tmp_path / name).mkdir()
    (tmp_path / name / 'x.png').touch()

  def train(out, spec, peer_python, lock):
    value = 0.5 if spec['peer'] else 0.75
    path = cells._file(out, spec)
    path.parent.mkdir(exist_ok=True)
    measures = dict.fromkeys(cells.MEASURES, value)
    found = measures | {'seconds': 1.0, 'epoch': 1, 'note': ''}
    path.write_text(json.dumps({'spec': spec, 'result': found}))
    return 'no paper' if spec['config']['seed'] == 2 else ''

  monkeypatch.setattr(cells, '_train', train)
  monkeypatch.setattr(contest, 'need', lambda python, names: None)
  monkeypatch.setattr(os, 'execve', None)  # a restart would fail
  for name in ('GLIBC_TUNABLES', 'OMP_WAIT_POLICY'):
    monkeypatch.delenv(name, raising=False)
  given = ['--contestants=peer.softmax,softmax', '--unseen=1', '--citation=Me']
  places = [f'--path={tmp_path}', f'--out={tmp_path / "out"}']
  values = flagged.parse(quality, *places, *given)
  assert quality.main(values) == 1
  said = capsys.readouterr()
  assert 'failed: softmax, seed 2: no paper' in said.err
  assert said.out.rstrip().endswith('Me')
  with (tmp_path / 'out/quality.csv').open(newline='') as file:
    peer, ours = csv.DictReader(file)
  assert (peer['contestant'], peer['test R@1']) == ('peer.softmax', '0.5')
  assert (ours['runs'], ours['test R@1 ±']) == ('3', '0.0')
