"""Runs whose validation defines neither a triplet loss nor MAP@R."""

import json

import pytest

from configs import arcface
from plankton_jax import checkpoints
from plankton_jax.train import log, loop


def _read(workdir):
  return log.read(workdir / 'metrics.jsonl').by_split


@pytest.fixture
def single(make_config):
  """A config with one validation image of each class."""

  def make(*config, **fields):
    return make_config(
      *config, early_stop_validations=1, optimizer__learning_rate=0.0, **fields
    )

  return make


def test_a_triplet_run_keeps_its_newest_and_does_not_stop(
  single, tmp_path, capfd
):
  state = loop.train_and_evaluate(single(epochs=2), tmp_path)
  rows = _read(tmp_path)
  assert int(state.step) == rows['train'][-1]['step']
  assert [row['epoch'] for row in rows['epoch']] == [1, 2]
  for row in rows['val']:
    assert row['loss'] is None and row['map_at_r'] is None
  assert 'NaN' not in (tmp_path / 'metrics.jsonl').read_text()
  said = capfd.readouterr().err
  assert said.count('validation does not define the loss and MAP@R') == 1
  assert 'the newest checkpoint counts as the best' in said
  assert 'does not stop early' in said
  assert checkpoints.load_encoder(tmp_path).step == int(state.step)


def test_an_arcface_run_is_judged_by_accuracy_and_still_stops(
  single, tmp_path, capfd
):
  config = single(arcface.get_config, epochs=20)
  loop.train_and_evaluate(config, tmp_path)
  rows = _read(tmp_path)
  assert len(rows['val']) < 40
  accuracies = {row['step']: row['accuracy'] for row in rows['val']}
  best = checkpoints.load_encoder(tmp_path).step
  assert accuracies[best] == max(accuracies.values())
  said = capfd.readouterr().err
  assert 'the checkpoint with the best accuracy is kept' in said
  assert json.loads((tmp_path / 'config.json').read_text())['epochs'] == 20
