"""The images most similar to a query, against loops in float64."""

import csv
import math
import types

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

from analysis import neighbors
from analysis.files import folders, inputs, originals
from plankton_jax.data.pixels.images import Preprocessing
from plankton_jax.data.sources import folder, objects
from plankton_jax.errors import InputError
from tests import shades
from tests.analysis_runs import blobs, empty, source
from tests.analysis_runs import run as run_analysis


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
  monkeypatch.setattr(folders, 'encoder', lambda source: shades.Encoder())
  monkeypatch.setattr(
    originals,
    'reader',
    lambda source: lambda key: np.full((5, 9), 90, np.uint8),
  )


def look(run, out, **options):
  """Runs the analysis and returns its table."""
  (table,) = run_analysis(neighbors, [run], out, **options).tables.values()
  return table


def test_search_matches_loops():
  run = source()
  rows = inputs.together('run', run.splits)
  points = rows.embedding.astype(np.float64)
  for query, count in ((7, 5), (0, 12), (len(points) - 1, 200)):
    found, how = neighbors.similar(
      rows, neighbors.find(run, rows, rows.id[query]), count
    )
    assert how == 'exact search'
    far = {
      rows.id[i]: math.dist(points[query], points[i])
      for i in range(len(points))
      if i != query
    }
    wanted = sorted(far.values())[:count]
    np.testing.assert_allclose([row['distance'] for row in found], wanted)
    assert [row['rank'] for row in found] == list(range(1, len(wanted) + 1))
    for row in found:
      i = int(np.flatnonzero(rows.id == row['id'])[0])
      assert row['distance'] == pytest.approx(far[row['id']], rel=1e-12)
      assert (row['class'], row['split']) == (rows.name[i], rows.split[i])


def test_an_id_comes_before_a_file_and_never_finds_itself(
  tmp_path, monkeypatch
):
  run = shades.run(tmp_path / 'run')
  key = str(run.splits['test'].id[3])
  monkeypatch.chdir(tmp_path)
  shades.write(tmp_path / key, 220)
  found = look(run, tmp_path, query=key, count=12)
  assert len(found) == 12 and key not in [row['id'] for row in found]
  assert {row['class'] for row in found} == {'dark'}
  found = look(run, tmp_path, query=f'./{key}', count=12)
  assert {row['class'] for row in found} == {'light'}


def test_a_file_finds_its_copy_at_no_distance(tmp_path):
  run = shades.run(tmp_path / 'run')
  copy = shades.embed(shades.grey(30))[0]
  run.splits['test'].embedding[[4, 9]] = copy
  name = 'Ünï; "çødé" $x$.png'
  shades.write(tmp_path / name, 30)
  found = look(run, tmp_path, query=str(tmp_path / name), count=7)
  assert {row['id'] for row in found[:2]} >= {run.splits['test'].id[4]}
  assert found[0]['distance'] == found[1]['distance'] == 0.0
  stem = 'neighbors_Ünï; "çødé" $x$'
  with (tmp_path / f'{stem}.csv').open(encoding='utf-8') as file:
    rows = list(csv.DictReader(file))
  assert [row['id'] for row in rows] == [row['id'] for row in found]
  assert (tmp_path / f'{stem}.png').stat().st_size > 10_000
  assert 'Someone 2015' in (tmp_path / f'{stem}.svg').read_text()


def test_colour_queries_and_images_without_label(tmp_path):
  run = shades.run(tmp_path / 'run')
  run.splits['test'].label[:] = -1
  shades.write(tmp_path / 'c.jpg', (30, 30, 31))
  found = look(run, tmp_path, query=str(tmp_path / 'c.jpg'), count=20)
  assert {row['class'] for row in found if row['split'] == 'test'} == {''}


def test_a_collection_without_its_images_keeps_the_table(
  tmp_path, monkeypatch, capsys
):
  def none(source):
    raise InputError('its images are gone')

  monkeypatch.setattr(originals, 'reader', none)
  run = shades.run(tmp_path / 'run')
  key = str(run.splits['val'].id[0])
  look(run, tmp_path, query=key, count=2)
  assert 'no figure: its images are gone' in capsys.readouterr().out
  assert [path.name for path in tmp_path.glob('neighbors*')] == [
    'neighbors_dark_val0.csv'
  ]


def test_what_cannot_be_looked_for_is_told(tmp_path):
  run = shades.run(tmp_path / 'run')

  def told(match, run=run, query='nowhere.png', count=3):
    with pytest.raises(InputError, match=match):
      look(run, tmp_path, query=query, count=count)

  told('nowhere.png: neither a file nor the id of an image; ids are such as d')
  told('--count=0: give 1 or more', count=0)
  bad = tmp_path / 'bad.png'
  bad.write_bytes(b'no')
  told(f'{bad}: not a PNG', query=str(bad))
  told('hold no images', source(workdir=tmp_path / 'none', test=empty()))
  one = blobs([1])
  run = source(workdir=tmp_path / 'one', test=one)
  told('is its only image', run, query=str(one.id[0]))
  assert not list(tmp_path.glob('neighbors*'))


def test_flags_reach_the_analysis(tmp_path, monkeypatch):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  called = []
  monkeypatch.setattr(
    neighbors, 'analyse', lambda *given, **named: called.append(named)
  )
  run = shades.run(tmp_path / 'run')
  with pytest.raises(InputError, match='--query is missing'):
    neighbors.asked([run])
  with flagsaver.flagsaver(query='x'):
    neighbors.asked([run])
    with pytest.raises(InputError, match='takes one --workdir'):
      neighbors.asked([run, run])
    with pytest.raises(InputError, match='takes one --workdir'):
      neighbors.asked([run._replace(workdir=None)])
  assert called == [
    {'query': 'x', 'count': 12, 'pixel_um': None, 'way': 'auto', 'read': None}
  ]


def test_a_query_is_scaled_and_cropped_as_in_training(tmp_path, monkeypatch):
  deep = np.random.default_rng(0).integers(0, 900, (20, 16), np.uint16)
  Image.fromarray(deep).save(tmp_path / 'x.png')
  shape = {'size': 8, 'resize': 'pad', 'channels': 1}
  settings = {'white': 4095, 'crop': (0, 0, 4, 0)}
  seen = []

  def embed(images, sizes, *, measures):
    seen.append((images, sizes, measures))
    return np.ones((len(images), 2), np.float32)

  encoder = types.SimpleNamespace(
    config={'data': {**shape, **settings, 'pixel_um': 12.0}},
    embed=embed,
    size_unit='µm',
  )
  monkeypatch.setattr(folders, 'encoder', lambda source: encoder)
  rows = inputs.Rows(np.ones((1, 2)), *(np.array(['a']) for _ in range(3)))
  found = neighbors.find(None, rows, str(tmp_path / 'x.png'))
  listing = folder.scan(str(tmp_path)).images
  preprocessing = Preprocessing(**shape, **settings)
  (trained,) = objects.decoded(listing, preprocessing, desc='test')
  ((images, sizes, measures),) = seen
  np.testing.assert_array_equal(images[0], trained.pixels)
  assert sizes.tolist() == [[16, 16]] == [[trained.height, trained.width]]
  assert {name: x.tolist() for name, x in measures.items()} == {
    'pixel_um': [12.0]
  }
  assert found.pixels.shape == (16, 16) and found.pixels.max() < 57
