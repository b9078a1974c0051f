"""The peer's side of the quality table: its losses, its poses, its cell."""

import contextlib
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import contest, contestants, quality
from plankton_jax import objectives, retrieval

LABELS = np.repeat(np.arange(4), 4)


@pytest.fixture
def peer_training():
  """The peer's module, where the peers are installed."""
  pytest.importorskip('torch')
  pytest.importorskip('pytorch_metric_learning')
  from benchmarks import peer_training

  return peer_training


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
