"""The peer's side of the quality table: its losses, its poses, its cell."""

import contextlib
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import contest, contestants, quality, recipes
from plankton_jax import objectives, retrieval

LABELS = np.repeat(np.arange(4), 4)


@pytest.fixture
def peer_training():
  """The peer's module, where the peers are installed."""
  pytest.importorskip('torch')
  pytest.importorskip('pytorch_metric_learning')
  from benchmarks import peer_training

  return peer_training


@pytest.mark.parametrize(
  'name', ['triplet', 'arcface', 'softmax', 'supcon', 'multi_similarity']
)
def test_both_sides_minimise_the_same(peer_training, name):
  import torch

  fields = quality.PEERS_OBJECTIVES.get(name, {})
  config = recipes.Recipe(f'configs/{name}.py', fields).config()
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
    class_counts=np.bincount(LABELS),
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


def test_the_peer_takes_all_semi_hard_triplets(peer_training):
  import torch

  config = recipes.Recipe('configs/triplet.py', {'objective.select': 'all'})
  loss, own = peer_training.objective(config.config().to_dict(), 4)
  rows = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  dists = np.square(rows[:, None].astype(np.float64) - rows).sum(-1)
  terms = [
    dists[a, p] - dists[a, n] + 0.5
    for a in range(16)
    for p in np.flatnonzero(LABELS[a] == LABELS)
    for n in np.flatnonzero(LABELS[a] != LABELS)
    if p != a and 0 < dists[a, n] - dists[a, p] < 0.5
  ]
  found = loss(0, torch.from_numpy(rows), torch.from_numpy(LABELS))
  assert own == []
  assert found.item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_the_peers_eight_poses_are_those_of_training(peer_training):
  import torch

  plain = torch.arange(9.0).reshape(1, 1, 3, 3)
  poses = [x.numpy() for x in peer_training.poses(plain)]
  assert len({x.tobytes() for x in poses}) == 8
  posed = peer_training.posed(plain.expand(64, 1, 3, 3)).numpy()
  assert all(any(np.array_equal(x, p[0]) for p in poses) for x in posed)


STILL = dict.fromkeys(
  ('rotate', 'scale', 'translate', 'brightness', 'contrast'), 0.0
)


@pytest.mark.parametrize(
  ('changed', 'expected'),
  [
    ({}, lambda ink: ink),
    ({'rotate': 90.0}, np.rot90),
    ({'translate': 0.25}, lambda ink: np.pad(ink, (0, 2))[2:, 2:]),
    ({'contrast': 0.5}, lambda ink: 1.5 * ink),
    ({'brightness': 0.1}, lambda ink: ink + 0.1),
  ],
)
def test_the_peers_augmentation(peer_training, monkeypatch, changed, expected):
  import torch

  # Every draw is the largest, and no image is flipped.
  monkeypatch.setattr(torch, 'rand', torch.ones)
  ink = -np.random.default_rng(0).random((8, 8), dtype=np.float32)
  x = torch.from_numpy(1 + ink).expand(2, 1, 8, 8)
  found = peer_training.augmented(x, STILL | changed).numpy() - 1
  np.testing.assert_allclose(found[1, 0], expected(ink), atol=1e-5)


def test_the_peers_augmentation_zooms_about_the_centre(
  peer_training, monkeypatch
):
  import torch

  monkeypatch.setattr(torch, 'rand', torch.ones)
  x = torch.ones(1, 1, 8, 8)
  x[..., 3:5, 3:5] = 0
  found = peer_training.augmented(x, STILL | {'scale': 1.0})[0, 0].numpy()
  assert (found < 0.5).sum() == 16
  np.testing.assert_array_equal(found, found[::-1, ::-1])


@pytest.mark.parametrize(
  'fields',
  [
    {'size': 12, 'classes': 0, 'sampling': 'images'},
    {'size': 12, 'classes': 0, 'sampling': 'uniform'},
    {'size': 12, 'classes': 3, 'sampling': 'images'},
  ],
)
def test_the_peers_batches(peer_training, fields):
  import torch

  torch.manual_seed(0)
  labels = torch.from_numpy(np.repeat(np.arange(4), (10, 20, 30, 540)))
  drawn = peer_training.orders(fields, labels, seed=0)
  first, second = next(drawn), next(drawn)
  assert first.shape == second.shape == (50, 12)
  assert not np.array_equal(first, second)
  counts = np.bincount(labels[first.ravel()], minlength=4)
  if fields['classes']:
    for batch in first:
      own = np.bincount(labels[batch], minlength=4)
      assert sorted(own) == [0, 4, 4, 4]
  elif fields['sampling'] == 'uniform':
    assert counts.min() > 100
  else:
    assert len({*first.ravel()}) == 600


@pytest.mark.parametrize('centred', [False, True])
def test_the_peers_cell(peer_training, make_config, tmp_path, centred):
  config = make_config(
    epochs=3,
    data__resize='stretch',
    data__fractions=(0.6, 0.2, 0.2),
    curriculum=((0, 'easy', 'semihard'), (1, 'hard', 'hard')),
  )
  config['encoder']['name'] = 'resnet18'
  config['encoder']['centred'] = centred
  config['encoder']['poses'] = 8
  config['batch']['views'] = 2
  result = contestants.peer(config, tmp_path, sys.executable)
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
  result = contestants.peer(config, tmp_path, sys.executable)
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
  result = contestants.peer(config, tmp_path, 'python')
  assert ','.join(peer.told) == told
  assert result['epoch'] == epoch
  assert result['note'].startswith(note) and bool(result['note']) == bool(note)
  assert result['seconds'] == 2.0 * len(plan.split())
  if epoch:
    assert result['test MAP@R'] == 1.0
  else:
    assert math.isnan(result['test MAP@R'])
