import json
import math

import numpy as np
import pytest

from plankton_jax import checkpoints
from plankton_jax.errors import DivergedError, shorten_list
from plankton_jax.train import experiment, failures, loop, store


def test_a_diverging_run_names_its_images_and_keeps_the_last_good_checkpoint(
  make_config, tmp_path
):
  good = loop.train_and_evaluate(make_config(epochs=1), tmp_path)
  kept = int(good.step)
  config = make_config(epochs=3, optimizer__learning_rate=1e30)
  with pytest.raises(DivergedError) as error:
    loop.train_and_evaluate(config, tmp_path, accept_changes=True)
  # The first step at this rate is still of good weights; the next is not.
  assert f'at step {kept + 2}, on ' in str(error.value)
  assert 'resume with --accept_changes' in str(error.value)
  data = experiment.load_data(config, tmp_path)
  sampler = experiment.assemble(config, data).sampler
  rows = data.splits['train'][sampler(kept + 1)]
  listed = (tmp_path / 'diverged.txt').read_text().splitlines()
  assert listed == data.ids[rows].tolist() and len(listed) == 18
  assert shorten_list(listed) in str(error.value)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  # With one image a class, validation defines no triplet loss.
  losses = [
    line['loss']
    for line in map(json.loads, lines)
    if line['split'] in ('train', 'test')
  ]
  assert len(losses) == kept + 1  # the train step that diverged is not logged
  assert all(map(math.isfinite, losses))

  with store.open_manager(tmp_path) as manager:
    assert manager.latest_step() == kept
  embedded = checkpoints.load_encoder(tmp_path).embed(data.images[:4])
  assert np.isfinite(embedded).all()
  again = loop.train_and_evaluate(
    make_config(epochs=2), tmp_path, accept_changes=True
  )
  assert int(again.step) == 2 * kept
  assert not (tmp_path / 'diverged.txt').exists()


def test_a_validation_that_is_not_finite_names_its_images(
  make_config, tmp_path
):
  # Validated after the one step that breaks the weights; each class has one
  # image there, so that no triplet's loss could show it.
  config = make_config(epochs=1, optimizer__learning_rate=1e30)
  config['validations_per_epoch'] = 6
  with pytest.raises(DivergedError) as error:
    loop.train_and_evaluate(config, tmp_path)
  said = str(error.value)
  assert 'val loss or embeddings are not finite at step 1, on ' in said
  data = experiment.load_data(config, tmp_path)
  named = set(said.split(' on ')[1].split(' and ')[0].split(', '))
  assert len(named) == 3 and named <= set(data.ids[data.splits['val']])
  with store.open_manager(tmp_path) as manager:
    assert manager.latest_step() is None


@pytest.mark.parametrize('name', ['loss', 'grad_norm'])
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_a_step_that_is_not_finite_names_its_own_images(name, value, tmp_path):
  asked = []

  def image_names(step):
    asked.append(step)
    return [f'{step}/{i}.png' for i in range(5)]

  values = {'loss': 0.5, 'grad_norm': 2.0, 'd_ap': math.nan}
  failures.check_step(values, 7, image_names, tmp_path)
  assert not asked and not list(tmp_path.iterdir())  # only these two count
  with pytest.raises(DivergedError) as error:
    failures.check_step(values | {name: value}, 7, image_names, tmp_path)
  assert asked == [7]
  said = str(error.value)
  assert said.startswith(f'{name} is {value} at step 7, on 7/0.png, 7/1.png, ')
  assert '7/2.png and 2 more, listed in' in said
  listed = (tmp_path / 'diverged.txt').read_text().splitlines()
  assert listed == image_names(7)
  failures.forget(tmp_path)
  failures.forget(tmp_path)  # also where there is none
  assert not list(tmp_path.iterdir())
