import json
import types

import numpy as np
import pytest

from analysis import classifiers
from analysis.measures import classes, curves
from plankton_jax import checkpoints
from plankton_jax.data import pipeline
from plankton_jax.errors import InputError
from plankton_jax.train import experiment
from tests.analysis_runs import blobs, empty, source
from tests.analysis_runs import run as run_analysis


@pytest.fixture(autouse=True)
def few(monkeypatch):
  monkeypatch.setattr(curves, 'RESAMPLINGS', 2)


@pytest.fixture
def images(monkeypatch):
  """Random images for `source`; an encoder of their corners and heights."""
  run = source()
  ids = np.concatenate([run.splits[s].id for s in ('unseen', 'train')])
  pixels = np.random.default_rng(0).integers(
    256, size=(len(ids), 4, 4, 1), dtype=np.uint8
  )
  data = pipeline.Data(
    images=pixels,
    labels=np.zeros(len(ids), np.int32),
    ids=ids,
    class_names=(),
    num_seen=0,
    splits={'train': np.arange(26, len(ids))},
    fingerprint='',
    originals=None,
    measures={'height': np.arange(len(ids), dtype=np.float32)},
  )
  encoder = types.SimpleNamespace(
    embed=lambda x, measures: np.column_stack(
      [x[:, 0, :, 0], measures['height']]
    ).astype(np.float32)
  )
  monkeypatch.setattr(experiment, 'load_data', lambda config, workdir: data)
  monkeypatch.setattr(checkpoints, 'untrained_encoder', lambda workdir: encoder)
  return data


def test_pixel_features_are_principal_components_of_train():
  rng = np.random.default_rng(0)
  train = rng.integers(256, size=(30, 5, 5, 1), dtype=np.uint8)
  images = rng.integers(256, size=(7, 5, 5, 1), dtype=np.uint8)
  found = classifiers.pixel_features(train, images)
  flat = train.reshape(30, -1) / 255.0
  _, _, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
  want = (images.reshape(7, -1) / 255.0 - flat.mean(0)) @ axes.T
  assert found.shape == (7, 25)
  np.testing.assert_allclose(np.abs(found), np.abs(want), atol=1e-4)


def test_usable_orders_by_id_and_leaves_lone_images_out():
  rows = blobs([3, 1, 2])
  found, lone = classifiers.usable(rows, 'run')
  assert list(found.id) == sorted(rows.id[rows.label != 1])
  at = [list(rows.id).index(key) for key in found.id]
  np.testing.assert_array_equal(found.embedding, rows.embedding[at])
  np.testing.assert_array_equal(found.label, rows.label[at])
  assert lone == ['run: bee has one image: left out']
  assert classifiers.usable(blobs([4, 1]), 'run') == (
    None,
    [
      'run: bee has one image: left out',
      'run: fewer than two classes to tell: skipped',
    ],
  )


def test_usable_takes_the_largest_of_very_many_classes(monkeypatch):
  monkeypatch.setattr(classifiers, 'MOST_CLASSES', 2)
  found, notes = classifiers.usable(blobs([3, 1, 5, 4]), 'run')
  assert set(found.label) == {2, 3} and len(found.label) == 9
  assert notes[-1] == 'run: the 2 largest of 4 classes are told apart'


def test_gather_takes_each_run_and_the_baselines_once(tmp_path, images):
  runs = [source(name, workdir=tmp_path / name) for name in 'ab']
  features, _ = classifiers.gather(runs)
  assert list(features) == ['a', 'b', 'raw pixels', 'untrained encoder']
  unseen = runs[0].splits['unseen']
  order = np.argsort(unseen.id)
  for rows, labels in features.values():
    assert len(rows) == 26
    np.testing.assert_array_equal(labels, unseen.label[order])
  at = [list(images.ids).index(key) for key in unseen.id[order]]
  np.testing.assert_array_equal(
    features['untrained encoder'][0],
    np.column_stack([images.images[at][:, 0, :, 0], at]),
  )


def test_analyse_writes_curves(tmp_path, images, capsys):
  run = source(workdir=tmp_path)
  run_analysis(classifiers, [run], tmp_path)
  found = json.loads((tmp_path / 'classifiers.json').read_text())
  where = {(c['features'], c['classifier']) for c in found['curves']}
  assert len(where) == 3 * 3 and ('raw pixels', 'SVC') in where
  first = found['curves'][0]
  assert first['sizes'] == [17] and first['chance'] == 0.5
  told = capsys.readouterr().out
  assert 'raw pixels are reduced to 16 principal components' in told
  assert 'SVC, 17' in told
  lines = (tmp_path / 'classifiers.csv').read_text().splitlines()
  assert len(lines) == 1 + 9 * 2
  picture = (tmp_path / 'classifiers.svg').read_text()
  for text in ('untrained encoder', 'balanced accuracy', 'kNN', 'chance'):
    assert f'<!-- {text} -->' in picture
  assert (tmp_path / 'classifiers.png').stat().st_size > 10_000


def test_files_alone_are_classified_without_baselines(tmp_path, capsys):
  run_analysis(classifiers, [source(mine=blobs([20, 20, 20]))], tmp_path)
  told = capsys.readouterr().out
  assert 'raw pixels need a workdir: skipped' in told
  found = json.loads((tmp_path / 'classifiers.json').read_text())
  assert {c['features'] for c in found['curves']} == {'mine'}


def test_baselines_that_cannot_be_made_are_named(tmp_path, images, monkeypatch):
  def refuse(*_):
    raise InputError('the reason')

  run = source(workdir=tmp_path)
  monkeypatch.setattr(checkpoints, 'untrained_encoder', refuse)
  features, notes = classifiers.gather([run])
  assert list(features) == ['run', 'raw pixels']
  assert notes[-1] == 'run: untrained encoder: skipped (the reason)'
  images.ids[0] = 'another'
  features, (note,) = classifiers.gather([run])
  assert list(features) == ['run']
  assert 'skipped (1 images are not in its data' in note
  monkeypatch.setattr(experiment, 'load_data', refuse)
  features, (note,) = classifiers.gather([run])
  assert list(features) == ['run']
  assert note.endswith('untrained encoder: skipped (the reason)')


def test_analyse_of_nothing(tmp_path, capsys):
  runs = [source(unseen=empty()), source('w', workdir=tmp_path, test=empty())]
  run_analysis(classifiers, runs, tmp_path)
  assert capsys.readouterr().out.splitlines() == [
    'classifiers: run, unseen: no labelled images: skipped',
    'classifiers: w has no unseen split: skipped',
  ]
  assert not list(tmp_path.glob('classifiers*'))


def test_usable_draws_from_each_of_many_classes(monkeypatch):
  rows = blobs([40, 9, 2])
  every, _ = classifiers.usable(rows, 'run')
  monkeypatch.setattr(classifiers, 'MOST_WORK', 3 * 20)
  found, notes = classifiers.usable(rows, 'run')
  np.testing.assert_array_equal(np.bincount(found.label), [16, 4, 2])
  assert len(set(found.id)) == 22 and list(found.id) == sorted(found.id)
  at = [list(every.id).index(key) for key in found.id]
  np.testing.assert_array_equal(found.embedding, every.embedding[at])
  assert notes == [
    'run: 22 of 51 images are learnt from, drawn by seed from each class'
  ]
  monkeypatch.setattr(classifiers, 'MOST_WORK', 3 * 51)
  assert len(classifiers.usable(rows, 'run')[0].id) == 51


def test_many_lone_classes_share_a_note():
  assert classes.alone(['a', 'b'], 'run: ', ': left out') == [
    'run: a has one image: left out',
    'run: b has one image: left out',
  ]
  assert classes.alone(list('abcdef'), 'run: ', ': left out') == [
    'run: 6 classes have one image: left out (a, b, c and 3 more)'
  ]
