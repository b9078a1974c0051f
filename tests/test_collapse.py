import json

import pytest

from plankton_jax.errors import DivergedError, InputError
from plankton_jax.train import failures, loop

HEALTHY = {
  'loss': 0.5,  # at the margin, but by chance: the space is wide
  'd_ap': 0.8,
  'd_an': 0.8,
  'spread': 0.08,
  'effective_rank': 6.0,
}


def _diagnose(*recent, margin=0.5, stage='hard+hard'):
  return failures.diagnose_collapse(
    recent, collapsed_loss=margin, embedding_dim=128, stage=stage
  )


def test_a_healthy_space_is_left_alone():
  assert _diagnose(HEALTHY) is None
  assert _diagnose() is None
  # One bad step among good ones is a hard batch.
  assert _diagnose(*[HEALTHY] * 4, HEALTHY | {'effective_rank': 1.0}) is None


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'loss': 0.502, 'spread': 0.008}, 'the loss stays at 0.502'),
    ({'loss': 0.1, 'd_ap': 0.004, 'd_an': 0.006}, 'd_an 0.0060 fall to 0'),
    ({'effective_rank': 1.4}, 'effective rank is 1.40'),
  ],
)
def test_each_collapse_is_named_with_stage_and_remedy(change, words):
  text = _diagnose(*[HEALTHY | change] * 3)
  assert words in text
  assert 'hard+hard' in text and 'optimizer.learning_rate' in text
  assert 'curriculum' in text and 'batch.per_class' in text


@pytest.mark.parametrize(
  'change',
  [
    {'loss': 0.506, 'spread': 0.008},  # 1.2 % off
    {'loss': 0.502, 'spread': 0.009},  # a tenth of 1/√128 is 0.0088
    {'d_ap': 0.004},
    {'d_ap': 0.011, 'd_an': 0.004},
    {'effective_rank': 2.1},
  ],
)
def test_what_is_not_yet_collapsed(change):
  assert _diagnose(HEALTHY | change) is None


def test_a_spread_at_its_bound_is_wide_enough():
  recent = [HEALTHY | {'loss': 0.5, 'spread': 0.01}]
  options = {'collapsed_loss': 0.5, 'stage': ''}
  diagnose = lambda dim: failures.diagnose_collapse(
    recent, embedding_dim=dim, **options
  )
  assert diagnose(100) is None  # a tenth of 1/√100 is 0.01
  assert diagnose(99) is not None


def test_objectives_without_a_margin_are_judged_by_rank():
  logged = {'loss': 0.5, 'spread': 0.001, 'effective_rank': 1.2}
  text = _diagnose(logged, margin=None, stage='')
  assert 'effective rank' in text and 'curriculum' not in text
  assert _diagnose(logged | {'effective_rank': 3.0}, margin=None) is None


@pytest.mark.parametrize('action', ['warn', 'stop'])
def test_a_collapsing_run_warns_once_or_stops(
  action, make_config, tmp_path, monkeypatch, capfd
):
  monkeypatch.setattr(failures, 'LINE', 1e9)  # every space is too narrow
  config = make_config(on_collapse=action)
  if action == 'stop':
    with pytest.raises(DivergedError, match='step 3: the embedding has coll'):
      loop.train_and_evaluate(config, tmp_path)
  else:
    loop.train_and_evaluate(config, tmp_path)
    assert capfd.readouterr().err.count('WARNING: the embedding has') == 1
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  warned = [r for r in map(json.loads, lines) if r['split'] == 'collapse']
  assert len(warned) == 1 and warned[0]['step'] == 3


def test_an_unknown_action_is_named(make_config, tmp_path):
  with pytest.raises(InputError, match='on_collapse'):
    loop.train_and_evaluate(make_config(on_collapse='panic'), tmp_path)
