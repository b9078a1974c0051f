"""Files of earlier releases still load, embed alike and resume."""

import json
import pathlib
import shutil

import chex
import numpy as np
import pytest

from plankton_jax.checkpoints import load_encoder
from plankton_jax.errors import InputError
from plankton_jax.files import config_file
from plankton_jax.train import loop

RELEASED = pathlib.Path(__file__).parent / 'released'
RELEASES = sorted(path.name for path in RELEASED.iterdir())


@pytest.fixture(params=RELEASES)
def release(request):
  return RELEASED / request.param


@pytest.mark.parametrize('written', ['workdir', 'encoder'])
def test_its_encoder_embeds_as_it_did(release, written):
  with np.load(release / 'embedded.npz', allow_pickle=False) as arrays:
    images, embeddings = arrays['image'], arrays['embedding']
    scores = arrays['scores']
  encoder = load_encoder(release / written)
  found = encoder.embed(images)
  chex.assert_trees_all_close(found, embeddings, atol=1e-5)
  chex.assert_trees_all_close(encoder.scores(found), scores, atol=1e-4)
  assert encoder.step == 8 and len(encoder.class_names) == 9


def test_its_run_resumes(release, tmp_path):
  workdir = tmp_path / 'workdir'
  shutil.copytree(release / 'workdir', workdir)
  config = json.loads((workdir / 'config.json').read_text())
  config['epochs'] = 3
  config['data']['cache_dir'] = str(tmp_path / 'cache')
  config['compilation_cache_dir'] = ''
  state = loop.train_and_evaluate(config, workdir, accept_changes=True)
  assert int(state.step) == 12
  log = (workdir / 'metrics.jsonl').read_text().splitlines()
  steps = [json.loads(line) for line in log]
  trained = [line['step'] for line in steps if line['split'] == 'train']
  assert trained == list(range(1, 13))


def test_fields_added_since_are_no_change(release, tmp_path):
  workdir = tmp_path / 'workdir'
  shutil.copytree(release / 'workdir', workdir)
  config = json.loads((workdir / 'config.json').read_text())
  config['data']['cache_dir'] = str(tmp_path / 'cache')
  config['compilation_cache_dir'] = ''
  (workdir / 'config.json').write_text(json.dumps(config))
  config['data'] = config_file.ADDED['data'] | config['data']
  with pytest.raises(InputError, match=r"data.rare: 'gallery' there, 'drop' n"):
    changed = config | {'data': config['data'] | {'rare': 'drop'}}
    loop.train_and_evaluate(changed, workdir)
  state = loop.train_and_evaluate(config, workdir)
  assert int(state.step) == 8
