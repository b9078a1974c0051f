"""Bounds from both sides: what lies on one, and what lies just beyond it."""

import numpy as np
import pytest

from plankton_jax.train import failures

HEALTHY = {
  'loss': 0.2,
  'spread': 0.05,
  'effective_rank': 20.0,
  'd_ap': 0.5,
  'd_an': 0.9,
}


def _diagnose(collapsed_loss=0.5, **changes):
  # The spread of vectors all over the sphere is 0.1 here.
  return failures.diagnose_collapse(
    [HEALTHY | changes],
    collapsed_loss=collapsed_loss,
    embedding_dim=100,
    stage='hard+hard',
  )


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({}, ''),
    ({'spread': 0.0099, 'loss': 0.5049}, 'the loss'),
    ({'spread': 0.0099, 'loss': 0.4951}, 'the loss'),
    ({'spread': 0.0099, 'loss': 0.5051}, ''),
    ({'spread': 0.0099, 'loss': 0.4949}, ''),
    ({'spread': 0.1 / np.sqrt(100), 'loss': 0.5}, ''),
    ({'spread': 0.0101, 'loss': 0.5}, ''),
    ({'d_ap': 0.0099, 'd_an': 0.0099}, 'd_an'),
    ({'d_ap': 0.01, 'd_an': 0.0099}, ''),
    ({'d_ap': 0.0099, 'd_an': 0.01}, ''),
    ({'effective_rank': 1.99}, 'rank'),
    ({'effective_rank': 2.0}, ''),
  ],
)
def test_collapse_begins_at_its_bounds(changes, words):
  found = _diagnose(**changes)
  assert (found is None) if not words else (words in found)


def test_collapse_is_of_the_mean_over_recent_steps():
  metrics = [HEALTHY | {'effective_rank': rank} for rank in (1.0, 2.9)]
  fields = {'collapsed_loss': 0.5, 'embedding_dim': 100, 'stage': ''}
  assert '1.95' in failures.diagnose_collapse(metrics, **fields)
  assert failures.diagnose_collapse([*metrics, metrics[1]], **fields) is None
