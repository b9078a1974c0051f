"""features.h5 as MorphoCluster reads it, and its principal components."""

import json

import h5py
import numpy as np
import pytest

from analysis import export_features
from analysis.files.inputs import Embeddings, Source
from plankton_jax.errors import InputError
from tests.analysis_runs import run as run_analysis


def source(config=None, count=120, dim=60, ids=None):
  rng = np.random.default_rng(0)
  spread = rng.normal(size=(count, dim)) * np.linspace(2.0, 0.1, dim)
  x = (spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype('f4')
  ids = np.array(ids or [f'ж/{i}.png' for i in range(count)])
  half = count // 2
  rows = {
    name: Embeddings(x[part], np.zeros(half, 'i4'), ids[part], ('ж',))
    for name, part in (('train', slice(half)), ('test', slice(half, None)))
  }
  return Source('run', rows, None, config), x, ids


def read(path):
  """As MorphoCluster's load_features does."""
  with h5py.File(path, 'r', libver='latest') as file:
    assert file['features'].dtype == np.float32
    return file['object_id'].asstr()[:], file['features'][:]


def test_both_files_hold_every_image(tmp_path, capsys):
  given, x, ids = source()
  run_analysis(export_features, [given], tmp_path)
  got, features = read(tmp_path / 'features.h5')
  assert got.tolist() == ids.tolist()
  np.testing.assert_array_equal(features, x)
  got, components = read(tmp_path / 'features_pca50.h5')
  assert got.tolist() == ids.tolist() and components.shape == (120, 50)
  centred = x.astype(np.float64) - x.astype(np.float64).mean(0)
  values, vectors = np.linalg.eigh(centred.T @ centred)
  expected = centred @ vectors[:, ::-1][:, :50]
  np.testing.assert_allclose(np.abs(components), np.abs(expected), atol=1e-5)
  kept = values[::-1][:50].sum() / values.sum()
  numbers = json.loads((tmp_path / 'features.json').read_text())
  assert numbers == {
    'objects': 120,
    'dimensions': 60,
    'components': 50,
    'variance_kept': pytest.approx(kept),
  }
  assert f'50 principal components keep {kept:.2%}' in capsys.readouterr().out


def test_small_spaces_have_fewer_components(tmp_path):
  run_analysis(export_features, [source(dim=8)[0]], tmp_path)
  assert read(tmp_path / 'features_pca50.h5')[1].shape == (120, 8)
  run_analysis(export_features, [source(count=6, dim=8)[0]], tmp_path)
  assert read(tmp_path / 'features_pca50.h5')[1].shape == (6, 6)


def test_ids_of_an_export_are_ecotaxas_own(tmp_path):
  ids = [f'S/A/o%2F{i}' for i in range(120)]
  given, _, _ = source({'data': {'source': 'ecotaxa'}}, ids=ids)
  run_analysis(export_features, [given], tmp_path)
  assert read(tmp_path / 'features.h5')[0][3] == 'o/3'
  given, _, _ = source({'data': {'source': 'folder'}}, ids=ids)
  run_analysis(export_features, [given], tmp_path)
  assert read(tmp_path / 'features.h5')[0][3] == 'S/A/o%2F3'


def test_what_cannot_be_exported_is_one_line(tmp_path):
  double = [f'S{i % 2}/A/o{i // 2}' for i in range(120)]
  given, _, _ = source({'data': {'source': 'ecotaxa'}}, ids=double)
  with pytest.raises(InputError, match="run: several images have the id 'o0'"):
    run_analysis(export_features, [given], tmp_path)
  given, _, _ = source()
  given.splits['test'] = source(dim=7)[0].splits['test']
  with pytest.raises(InputError, match=r'run: .*\[60, 7\] dimensions'):
    run_analysis(export_features, [given], tmp_path)
  with pytest.raises(InputError, match='takes one --workdir'):
    run_analysis(export_features, [source()[0]] * 2, tmp_path)
  assert not list(tmp_path.iterdir())
