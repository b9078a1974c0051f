"""The table beside the peer: who trains with what, and the peer's own cell."""

import contextlib
import csv
import json
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import cells, contest, contestants, quality, recipes
from plankton_jax import objectives, retrieval
from plankton_jax.errors import InputError

GROUND = recipes.Ground('x', ('a',), '', 64, 'resnet18', 16, 35)
LABELS = np.repeat(np.arange(4), 4)


@pytest.fixture
def peer_training():
  """The peer's module, where the peers are installed."""
  pytest.importorskip('torch')
  pytest.importorskip('pytorch_metric_learning')
  from benchmarks import peer_training

  return peer_training


def test_the_peer_and_ours_have_the_same_settings():
  made = quality.specs(
    quality.contestants(), GROUND, seeds=2, peer_head='plain'
  )
  for name in ('triplet', 'arcface', 'softmax'):
    for seed in (0, 1):
      peer, same = made[f'peer.{name}'][seed], made[f'same.{name}'][seed]
      assert peer == same | {'head': 'plain'}
      assert same['config']['seed'] == seed
    assert made[f'peer.{name}'][0]['config'] != made[name][0]['config']
  config = made['peer.triplet'][0]['config']
  assert [row[0] for row in config['curriculum']] == [0, 10, 25]
  assert config['data']['resize'] == 'stretch'
  strengths = {k: v for k, v in config['augment'].items() if k != 'flip'}
  assert not any(strengths.values())


def test_contestants_are_chosen_and_added():
  args, chosen = quality.parse(
    [
      '--path=x',
      '--contestants=best,peer.arcface',
      '--ours=best=configs/softmax.py objective.scale=10.0',
      '--ours=triplet=configs/triplet.py objective.margin=0.2',
    ]
  )
  assert (args.seeds, args.epochs, args.peer_head) == (3, 35, 'plain')
  assert list(chosen) == ['best', 'peer.arcface']
  assert chosen['best'].recipe.config().objective.scale == 10.0
  assert [chosen[name].peer for name in chosen] == [False, True]
  _, everyone = quality.parse(
    ['--path=x', '--ours=triplet=configs/triplet.py objective.margin=0.2']
  )
  assert list(everyone) == list(quality.contestants())
  assert everyone['triplet'].recipe.config().objective.margin == 0.2


@pytest.mark.parametrize(
  'wrong', ['--contestants=nobody', '--ours=best', '--seeds=0']
)
def test_mistakes_end_in_a_line(wrong, capsys):
  with pytest.raises(SystemExit) as end:
    quality.parse(['--path=x', wrong])
  assert end.value.code == 2
  assert wrong.partition('=')[0] in capsys.readouterr().err


def test_the_unseen_classes_are_named_or_drawn(tmp_path):
  for name in 'abcde':
    (tmp_path / name).mkdir()
    (tmp_path / name / 'x.png').touch()
  flags = ['--path', str(tmp_path)]
  named = lambda *more: recipes.ground(quality.parse([*flags, *more])[0], 'e')
  assert named('--unseen=d,b').unseen == ('b', 'd')
  drawn = {named('--unseen=2', f'--split_seed={i}').unseen for i in range(8)}
  assert {len(names) for names in drawn} == {2}
  assert len(drawn) > 1
  with pytest.raises(InputError, match='no class'):
    named('--unseen=f')


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
    value = 0.5 if 'head' in spec else 0.75
    path = cells._file(out, spec)
    path.parent.mkdir(exist_ok=True)
    measures = dict.fromkeys(cells.MEASURES, value)
    found = measures | {'seconds': 1.0, 'epoch': 1, 'note': ''}
    path.write_text(json.dumps({'spec': spec, 'result': found}))
    return 'no paper' if spec['config']['seed'] == 2 else ''

  monkeypatch.setattr(cells, '_train', train)
  monkeypatch.setattr(contest, 'need', lambda python, names: None)
  monkeypatch.setattr(quality.host, 'use_huge_pages', lambda: None)
  flags = ['--contestants=peer.softmax,softmax', '--unseen=1', '--citation=Me']
  with pytest.raises(SystemExit) as end:
    quality.main([f'--path={tmp_path}', f'--out={tmp_path / "out"}', *flags])
  said = capsys.readouterr()
  assert end.value.code == 1
  assert 'failed: softmax, seed 2: no paper' in said.err
  assert said.out.rstrip().endswith('Me')
  with (tmp_path / 'out/quality.csv').open(newline='') as file:
    peer, ours = csv.DictReader(file)
  assert (peer['contestant'], peer['test R@1']) == ('peer.softmax', '0.5')
  assert (ours['runs'], ours['test R@1 ±']) == ('3', '0.0')


@pytest.mark.parametrize('name', ['triplet', 'arcface', 'softmax'])
def test_both_sides_minimise_the_same(peer_training, name):
  import torch

  recipe = quality.contestants()[f'peer.{name}'].recipe
  config = recipe.config()
  config.encoder.embedding_dim = 8
  # With such a margin every triplet counts, in our mean and in the peer's.
  if name == 'triplet':
    config.objective.margin = 4.0
  rows = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  loss, own = peer_training.objective(config.to_dict(), num_classes=4)
  ours = objectives.make(
    num_classes=4,
    embedding_dim=8,
    stages=(('easy', 'hard'), ('hard', 'hard')),
    **config.objective,
  )
  params = {'prototypes': own[0].detach().numpy().T} if own else {}
  batch = {'label': jnp.asarray(LABELS), 'valid': jnp.ones(16, bool)}
  for stage, epoch in enumerate((10, 25)):
    theirs = loss(epoch, torch.from_numpy(rows), torch.from_numpy(LABELS))
    expected = ours.loss(params, jnp.asarray(rows), batch, stage=stage)[0]
    assert theirs.item() == pytest.approx(float(expected), rel=1e-4)


def test_the_peers_images_stand_in_eight_poses(peer_training):
  import torch

  torch.manual_seed(0)
  plain = np.arange(9, dtype=np.float32).reshape(3, 3)
  turned = [np.rot90(plain, k) for k in range(4)]
  poses = [*turned, *(x[::-1] for x in turned)]
  out = peer_training.posed(torch.from_numpy(plain).expand(128, 1, 3, 3))
  found = [
    [i for i, pose in enumerate(poses) if np.array_equal(x[0], pose)]
    for x in out.numpy()
  ]
  counts = np.bincount(np.concatenate(found), minlength=8)
  assert counts.sum() == 128
  assert counts.min() >= 6


def test_the_peers_cell(peer_training, make_config, tmp_path):
  config = make_config(
    epochs=3,
    data__resize='stretch',
    data__fractions=(0.6, 0.2, 0.2),
    curriculum=((0, 'easy', 'semihard'), (1, 'hard', 'hard')),
  )
  config['encoder']['name'] = 'resnet18'
  result = contestants.peer(config, 'plain', tmp_path, sys.executable)
  labels = np.load(tmp_path / 'labels.npy')
  for split in ('test', 'unseen'):
    rows = np.load(tmp_path / f'{split}.npy')
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    own = labels[np.load(tmp_path / f'{split}_rows.npy')]
    found = retrieval.evaluate(rows, own, ks=(1,))
    assert result[f'{split} MAP@R'] == found['map_at_r']
  assert 1 <= result['epoch'] <= 3
  assert result['seconds'] > 0


def test_the_peer_diverges(peer_training, make_config, tmp_path):
  config = make_config(optimizer__learning_rate=1e30)
  result = contestants.peer(config, 'centred', tmp_path, sys.executable)
  assert result['note'].startswith('diverged: ')


class _Peer:
  """In place of PyTorch: 'sorted', 'mixed', 'point' or 'broken' an epoch."""

  def __init__(self, work, plan):
    self.told = []
    self._work = work
    self._plan = iter(plan)

  def hear(self):
    if self.told and self.told[-1] == 'end':
      for split in ('test', 'unseen'):
        self._write(split, 'sorted')
      return 'done'
    kind = next(self._plan)
    self._write('val', kind)
    return {'loss': math.nan if kind == 'broken' else 1.0, 'seconds': 2.0}

  def tell(self, line):
    self.told.append(line)

  def _write(self, split, kind):
    labels = np.load(self._work / 'labels.npy')
    own = labels[np.load(self._work / f'{split}_rows.npy')]
    noise = np.random.default_rng(0).normal(size=(len(own), 16))
    rows = {
      'sorted': np.eye(16)[own] + 0.01 * noise,
      'mixed': noise,
      'point': np.eye(16)[own * 0],
      'broken': noise * np.nan,
    }[kind]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(self._work / f'{split}.npy', rows.astype(np.float32))


@pytest.mark.parametrize(
  'plan, told, epoch, note',
  [
    ('mixed sorted mixed', 'keep,keep,go on,end', 2, ''),
    ('sorted sorted mixed', 'keep,go on,go on,end', 1, ''),
    ('sorted point mixed', 'keep,go on,go on,end', 1, 'collapsed: '),
    ('mixed broken', 'keep,end', 1, 'diverged: '),
    ('broken', '', None, 'diverged: '),
  ],
)
def test_the_peers_best_epoch_is_kept(
  make_config, tmp_path, monkeypatch, plan, told, epoch, note
):
  peer = _Peer(tmp_path, plan.split())
  opened = lambda module, python, spec: contextlib.nullcontext(peer)
  monkeypatch.setattr(contest, 'opened', opened)
  config = make_config(epochs=3, data__fractions=(0.6, 0.2, 0.2))
  result = contestants.peer(config, 'plain', tmp_path, 'python')
  assert ','.join(peer.told) == told
  assert result['epoch'] == epoch
  assert result['note'].startswith(note) and bool(result['note']) == bool(note)
  assert result['seconds'] == 2.0 * len(plan.split())
  if epoch:
    assert result['test MAP@R'] == 1.0
  else:
    assert math.isnan(result['test MAP@R'])
