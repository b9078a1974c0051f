"""The same values as pytorch-metric-learning gives, where it is installed."""

import jax.numpy as jnp
import numpy as np
import pytest
from objective_batches import random

from plankton_jax import objectives

torch = pytest.importorskip('torch')
peer = pytest.importorskip('pytorch_metric_learning.losses')
miners = pytest.importorskip('pytorch_metric_learning.miners')

ROWS, DIM, CLASSES = 40, 8, 5
LABELS = np.arange(ROWS) % CLASSES
SHAPE = {'num_classes': CLASSES, 'embedding_dim': DIM}
THEIRS = {'num_classes': CLASSES, 'embedding_size': DIM}


def _ours(objective, params):
  batch = {'label': jnp.asarray(LABELS), 'valid': jnp.ones(ROWS, bool)}
  x = jnp.asarray(random(ROWS, DIM))
  return float(objective.loss(params, x, batch, stage=0)[0])


def _theirs(loss, miner=None):
  x, labels = torch.from_numpy(random(ROWS, DIM)), torch.from_numpy(LABELS)
  return loss(x, labels, miner(x, labels) if miner else None).item()


@pytest.mark.parametrize(
  ('kind', 'their_kind', 'more'),
  [
    ('arcface', 'ArcFaceLoss', {'margin': np.degrees(0.5)}),
    ('cosface', 'CosFaceLoss', {}),
    (
      'subcenter_arcface',
      'SubCenterArcFaceLoss',
      {'margin': np.degrees(0.5), 'sub_centers': 3},
    ),
    ('proxy_anchor', 'ProxyAnchorLoss', {}),
  ],
)
def test_prototypes(kind, their_kind, more):
  objective = getattr(objectives, kind)(**SHAPE)
  shape = (CLASSES, 3, DIM) if 'sub' in kind else (CLASSES, DIM)
  prototypes = np.random.default_rng(7).normal(size=shape).astype(np.float32)
  theirs = getattr(peer, their_kind)(**THEIRS, **more)
  flat = torch.from_numpy(prototypes.reshape(-1, DIM))
  with torch.no_grad():
    if kind == 'proxy_anchor':
      theirs.proxies.copy_(flat)
    else:
      theirs.W.copy_(flat.T)
  ours = _ours(objective, {'prototypes': jnp.asarray(prototypes)})
  np.testing.assert_allclose(ours, _theirs(theirs), rtol=1e-5)


def test_supcon():
  ours = _ours(objectives.supcon(temperature=0.1), {})
  theirs = _theirs(peer.SupConLoss(temperature=0.1))
  np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_multi_similarity():
  ours = _ours(objectives.multi_similarity(), {})
  theirs = _theirs(
    peer.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
    miners.MultiSimilarityMiner(epsilon=0.1),
  )
  np.testing.assert_allclose(ours, theirs, rtol=1e-5)
