"""Every objective at work: on free vectors, and through the loop."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objective_batches import random

from plankton_jax import checkpoints, objectives, retrieval
from plankton_jax.distances import unit_norm
from plankton_jax.train import loop

CLASSES = {'num_classes': 4, 'embedding_dim': 8}
OBJECTIVES = {
  'softmax': CLASSES,
  'arcface': CLASSES,
  'cosface': CLASSES,
  'subcenter_arcface': CLASSES,
  'proxy_anchor': CLASSES,
  'supcon': {},
  'multi_similarity': {},
  'triplet': {'margin': 0.5, 'stages': (('hard', 'semihard'),)},
}


@pytest.mark.parametrize('kind', OBJECTIVES)
def test_descending_the_loss_tells_the_classes_apart(kind):
  objective = getattr(objectives, kind)(**OBJECTIVES[kind])
  labels = np.arange(24) % 4
  batch = {'label': jnp.asarray(labels), 'valid': jnp.ones(24, bool)}
  params = (objective.init(jax.random.key(0)), jnp.asarray(random(24, 8)))
  tx = optax.adam(0.05)

  def loss(params):
    own, free = params
    return objective.loss(own, unit_norm(free), batch, stage=0)

  @jax.jit
  def step(params, opt_state):
    found, grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, found

  opt_state, seen = tx.init(params), []
  for _ in range(101):
    params, opt_state, found = step(params, opt_state)
    seen.append(found)
  before, after = seen[0], seen[-1]  # of 100 steps
  if 'accuracy' in after[1]:
    assert before[1]['accuracy'] < 0.6 and after[1]['accuracy'] == 1.0
    assert after[0] < before[0] / 10
  else:
    free = np.asarray(unit_norm(params[1]))
    assert retrieval.evaluate(free, labels, ks=(1,))['map_at_r'] == 1.0


# One with several prototypes a class, one of two rates, one without any.
@pytest.mark.parametrize('name', ['subcenter', 'proxy_anchor', 'supcon'])
def test_a_run_with_validation_test_and_checkpoint(name, make_config, tmp_path):
  module = importlib.import_module(f'configs.{name}')
  by_class = {'batch__classes': 6, 'batch__per_class': 3}
  config = make_config(
    module.get_config, epochs=1, **(by_class if name == 'supcon' else {})
  )
  loop.train_and_evaluate(config, tmp_path)
  measure = 'anchors' if name == 'supcon' else 'accuracy'
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  for line in map(json.loads, lines):
    if line['split'] in ('train', 'val', 'test'):
      # One validation image a class has no pairs: its loss is undefined.
      undefined = name == 'supcon' and line['split'] == 'val'
      assert (line['loss'] is None) == undefined
      assert undefined or np.isfinite(line['loss'])
      assert line[measure] == 0 if undefined else line[measure] >= 0
  encoder = checkpoints.load_encoder(tmp_path)
  scores = encoder.scores(np.eye(8, dtype=np.float32))
  if name == 'supcon':
    assert scores is None
  else:
    assert scores.shape == (8, len(encoder.class_names))
    assert 0 < np.abs(scores).max() <= config['objective']['scale']
