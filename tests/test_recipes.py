"""Configs of the quality tables: how they are said, and that they can train."""

import json
import shlex

import numpy as np
import pytest

from benchmarks import ablation, recipes
from plankton_jax.data import pipeline
from plankton_jax.errors import InputError
from plankton_jax.train import experiment
from tests import flagged, tiny_encoder


def test_recipes_are_read():
  name, recipe = recipes.parse(
    'best=configs/triplet.py:planktonset9 objective.margin=0.3'
    " objective.select=random curriculum=((0,'easy','hard'),)"
  )
  config = recipe.config()
  assert name == 'best'
  assert config.objective.margin == 0.3
  assert config.objective.select == 'random'
  assert config.curriculum == ((0, 'easy', 'hard'),)
  assert config.data.source == 'folder'


@pytest.mark.parametrize('text', ['', 'best', 'best=', '=x', 'a=b margin'])
def test_mistaken_recipes_end_in_a_line(text):
  with pytest.raises(InputError, match='is not NAME=configs'):
    recipes.parse(text)


@pytest.mark.parametrize(
  'text, said',
  [
    ('a=configs/none.py', 'no such config file'),
    ('a=configs/triplet.py objective.margins=1', 'margins'),
    ('a=configs/triplet.py epochs=many', 'epochs'),
    ('a=README.md', 'no such config file'),
  ],
)
def test_mistaken_configs_end_in_a_line(text, said):
  with pytest.raises(InputError, match=said):
    recipes.parse(text)[1].config()


GROUND = recipes.Ground('x', ('a', 'b'), 'Someone 2015', 48, 'resnet10', 8, 16)


@pytest.mark.parametrize('table', ablation.TABLES)
def test_every_variant_of_the_plan_can_be_trained(table):
  labels = np.repeat(np.arange(24, dtype=np.int32), 20)
  data = pipeline.Data(
    images=np.zeros((480, 48, 48, 1), np.uint8),
    labels=labels,
    ids=np.arange(480).astype(str),
    class_names=tuple(map(str, range(24))),
    num_seen=24,
    splits={'train': np.arange(480)},
    fingerprint='',
    originals=None,
  )
  made = ablation.specs(ablation.TABLES[table], GROUND, 1)
  for (spec,) in made.values():
    experiment.assemble(spec['config'], data)
  plain = [json.dumps(own[0], sort_keys=True) for own in made.values()]
  assert len({*plain}) == len(plain) > 1


def test_objectives_are_compared_at_one_rate():
  made = ablation.specs(ablation.TABLES['objectives'], GROUND, 1)
  rates = {
    (tx['learning_rate'], tx['schedule'])
    for (spec,) in made.values()
    for tx in [spec['config']['optimizer']]
  }
  assert rates == {(1.4e-3, 'cosine')}


def test_a_config_is_placed_on_its_ground():
  recipe = recipes.Recipe(
    'configs/triplet.py:flowcamnet',
    {'encoder.width': 64, 'early_stop_validations': 3},
  )
  config = recipes.place(recipe, GROUND, 5)
  assert (config['seed'], config['epochs']) == (5, 16)
  assert config['validations_per_epoch'] == 1
  assert config['early_stop_validations'] == 0
  assert config['data']['unseen_classes'] == ('a', 'b')
  assert config['data']['size'] == 48
  assert (config['encoder']['name'], config['encoder']['width']) == (
    'resnet10',
    8,
  )
  # Of 35 epochs, from 0, 10 and 25.
  assert [row[0] for row in config['curriculum']] == [0, 5, 11]
  short = recipes.place(recipe, GROUND._replace(epochs=1), 0)
  assert short['curriculum'] == ((0, 'easy', 'semihard'), (1, 'hard', 'hard'))


def test_the_heading_repeats_the_flags_but_not_the_places():
  values = flagged.parse(
    ablation,
    *('--path', 'a b', '--out=x', '--show', '--seeds=4'),
    *('--tables=mining,margin', '--citation=Me & you'),
  )
  assert ablation.parse(values).seeds == 4
  command = ablation._heading(values, GROUND, 4).splitlines()[1]
  assert set(shlex.split(command)[3:]) == {
    '--path=FOLDER',
    '--seeds=4',
    '--tables=mining,margin',
    '--citation=Me & you',
  }


@pytest.mark.parametrize('wrong', ['--tables=mining,none', '--seeds=0'])
def test_mistakes_name_the_flag(wrong):
  values = flagged.parse(ablation, '--path=x', wrong)
  with pytest.raises(InputError, match=f'^{wrong.partition("=")[0]}'):
    ablation.parse(values)


def test_nothing_unseen_was_seen_by_the_encoder_to_begin_from(
  bundled, make_config
):
  network = {
    'data__size': GROUND.size,
    'encoder__width': GROUND.width,
    'encoder__stem': 'quarter',
  }
  tiny_encoder.save(bundled / 'seen', make_config(**network), ('x', 'set/A'))
  recipe = recipes.Recipe('configs/scratch.py', {'encoder.pretrained': 'seen'})
  with pytest.raises(InputError, match=r'trained on a, which .* --leave_out'):
    recipes.place(recipe, GROUND, 0)
  free = GROUND._replace(unseen=('b',))
  assert recipes.place(recipe, free, 0)['encoder']['pretrained'] == 'seen'
  with pytest.raises(InputError, match=r'takes encoder.width=8, not 16'):
    recipes.place(recipe, free._replace(width=16), 0)
