"""The notebook's cells, in order, in one namespace, as a kernel runs them."""

import json
import pathlib

import matplotlib
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = json.loads((ROOT / 'examples/first_embedding.ipynb').read_text())
CODE = [cell for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']


def test_outputs_are_stripped_and_one_cell_has_the_parameters():
  assert NOTEBOOK['nbformat'] == 4
  assert all(cell['outputs'] == [] for cell in CODE)
  assert all(cell['execution_count'] is None for cell in CODE)
  tagged = [c for c in CODE if 'parameters' in c['metadata'].get('tags', [])]
  assert tagged == CODE[:1]


def test_the_notebook_runs(tmp_path, monkeypatch, caches, capsys):
  matplotlib.use('Agg')
  monkeypatch.chdir(tmp_path)
  from configs import base

  original = base.get_config

  def cached():
    config = original()
    config.compilation_cache_dir = str(caches / 'compiled')
    config.data.cache_dir = str(caches / 'data')
    return config

  monkeypatch.setattr(base, 'get_config', cached)
  space = {}
  for i, cell in enumerate(CODE):
    exec(compile(''.join(cell['source']), f'cell {i}', 'exec'), space)
    if i == 0:
      assert {'EPOCHS', 'PER_CLASS', 'BATCH', 'FOLDER'} <= space.keys()
      space |= {'EPOCHS': 2, 'PER_CLASS': 12, 'BATCH': 32}
  assert (tmp_path / 'runs/notebook/checkpoints').is_dir()
  embeddings = space['embeddings']
  assert len(embeddings) == 3 * 12
  np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, rtol=1e-5)
  assert '36 images of unseen classes' in capsys.readouterr().out
  # A query leads each row, and is not among its own neighbours.
  assert space['row'] != space['query'] and space['axes'].shape == (3, 6)
  matplotlib.pyplot.close('all')
