"""The points and lines of benchmarks.scale; no time is asserted."""

import numpy as np
import pytest
from absl import flags

from analysis.files import inputs, samples, taxa
from benchmarks import scale
from plankton_jax import distances
from plankton_jax.errors import InputError
from plankton_jax.train import batches
from tests.analysis_runs import blobs, save


def test_lines_pass_through_points_and_reach_beyond():
  sizes = (1_000_000, 2_000_000, 4_000_000)
  points = [{'size': n, 'GiB': 0.2 + n / 1e6, 'recall': '9%'} for n in sizes]
  np.testing.assert_allclose(scale.fitted(points, 'GiB'), [0.2, 1e-6])
  table = {row['kind']: row for row in scale.lines('search', points)}
  assert table['fixed']['GiB'] == pytest.approx(0.2)
  assert table['each 1,000,000']['GiB'] == pytest.approx(1.0)
  assert table['extrapolated']['size'] == 5_000_000
  assert table['extrapolated']['GiB'] == pytest.approx(5.2)
  assert np.isnan(scale.fitted(points[:1], 'GiB')).all()
  # Devices share the same cores: no line says what more of them bring.
  assert [r['kind'] for r in scale.lines('devices', points)] == 3 * ['measured']


def test_rows_are_drawn_about_as_far_apart_as_a_files(tmp_path, monkeypatch):
  monkeypatch.setattr(scale, 'BLOCK', 64)
  given = blobs([40, 30], noise=0.3)
  unit = given.embedding / np.linalg.norm(given.embedding, axis=1)[:, None]
  path = save(tmp_path / 'x.npz', given._replace(embedding=unit))
  rows = scale.draw(700, str(path))
  assert (
    rows.shape == (700, unit.shape[1]) and len(np.unique(rows, axis=0)) > 699
  )
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-6)
  gaps = np.linalg.norm(unit[:, None] - unit, axis=2)
  np.fill_diagonal(gaps, np.inf)
  moved = np.linalg.norm(rows - unit[np.arange(700) % 70], axis=1)
  assert 0.5 < np.median(moved) / np.median(gaps.min(axis=1)) < 2.0


def test_batches_are_read_from_a_file(monkeypatch):
  monkeypatch.setattr(scale, 'STREAMED', 2)
  drawn = []
  monkeypatch.setattr(
    batches,
    'streamed',
    lambda columns, rows, mesh: lambda at: drawn.append(columns['image'][at]),
  )
  found = scale.streamed(1200)
  assert found['seconds of the first'] > 0
  assert [batch.shape for batch in drawn] == 3 * [(scale.BATCH, 64, 64, 1)]
  assert len({batch.tobytes() for batch in drawn}) == 3


def test_classes_are_drawn_as_a_run_splits_them(tmp_path):
  source = inputs.from_files(scale.save_classes(tmp_path, 30))
  counts = {
    split: np.bincount(rows.label, minlength=30).tolist()
    for split, rows in source.splits.items()
  }
  assert counts == {
    'train': 27 * [2] + 3 * [0],
    'val': 9 * [1, 0, 0] + 3 * [0],
    'test': 27 * [2] + 3 * [0],
    'unseen': 27 * [0] + 3 * [2],
  }
  new = inputs.read_embeddings(tmp_path / 'new.npz')
  assert len(new.id) == 60 and (new.label == -1).all()
  groups = samples.name_groups(new.id.tolist(), '^[^/]+')
  assert np.bincount(groups.astype(int)).tolist() == [15] * 4
  listed = taxa.read(tmp_path / 'taxa.csv')
  assert listed.ranks == ('family', 'genus', 'species')
  assert listed.of['class_29'].lineage == ('family_1', 'genus_5', 'class_29')
  assert set(listed.of) == set(new.class_names)
  means = distances.class_means(
    source.splits['train'].embedding,
    source.splits['train'].label,
    27,
    metric='cosine',
  )
  between = means[~np.eye(27, dtype=bool)]
  assert np.diag(means).mean() < between.mean() - 0.2


def test_a_point_has_a_process_and_a_table(tmp_path, capsys):
  values = flags.FlagValues()
  scale.define(values)
  values(['scale', '--only=search', '--points=2000', f'--out={tmp_path}'])
  scale.main(values)
  assert 'extrapolated  5000000' in capsys.readouterr().out
  assert (
    (tmp_path / 'search.csv').read_text().startswith('of,kind,size,seconds')
  )
  values['only'].value = ['speed']
  with pytest.raises(
    InputError, match='--only takes search, hnsw, ivfpq, images'
  ):
    scale.main(values)
