"""The report's parts, its tables, its escaping and its size."""

import base64
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from analysis import gallery, projection, report
from analysis.figures import images as cells
from analysis.figures import style
from analysis.files import originals, result
from analysis.files.inputs import Embeddings, Source
from analysis.files.result import Drawing, Result, Shown
from analysis.page import pictures, scatter, summary
from plankton_jax.data.drawn import plankton
from plankton_jax.errors import InputError
from plankton_jax.neighbours import search
from tests.analysis_runs import make_report

NAMES = ('training', 'distances', 'classifiers', 'retrieval', 'confusions')
HOSTILE = '</script><script>alert(1)</script>'


def rows(count, labels, names, *, seed=0):
  rng = np.random.default_rng(seed)
  return Embeddings(
    rng.normal(size=(count, 4)).astype(np.float32),
    np.resize(labels, count).astype(np.int32),
    np.array(
      [f'{seed}/"><img src=x onerror=alert(2)>{i}' for i in range(count)]
    ),
    names,
  )


def source(workdir, name='run'):
  names = (HOSTILE, 'b_&amp;', "c'")
  splits = {
    'train': rows(12, [0, 1], names, seed=0),
    'test': rows(8, [0, 1], names, seed=1),
    'unseen': rows(5, [2], names, seed=2),
  }
  config = {
    'seed': 0,
    'citation': '<i>Someone</i> 2015',
    'data': {'path': HOSTILE},
    'objective': {'name': 'triplet'},
  }
  return Source(name, splits, workdir, config if workdir else None)


def no_part(sources):
  return Result()


def parts(**changed):
  return {
    **dict.fromkeys(NAMES, no_part),
    'projection': lambda s: projection.analyse(s, method='pca'),
    'gallery': lambda s: gallery.analyse(s, splits=['test', 'unseen']),
    **changed,
  }


@pytest.fixture
def images(monkeypatch):
  monkeypatch.setattr(
    originals,
    'reader',
    lambda source: lambda key: np.full((20, 30), 90, np.uint8),
  )


def data_of(page):
  return json.loads(
    re.search(
      r'<script type="application/json" id="data">(.*?)</script>', page
    )[1]
  )


def test_nearest_matches_loops():
  x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
  x[7] = x[3]  # duplicates are each other's neighbours, never their own
  distance, found = search.nearest(x, None, 10)
  assert found.shape == (30, 10)
  for i in range(30):
    far = {j: np.linalg.norm(x[i] - x[j]) for j in range(30) if j != i}
    assert len(set(found[i])) == 10 and i not in found[i]
    own = [far[j] for j in found[i]]
    np.testing.assert_allclose(distance[i], own, atol=1e-6)
    np.testing.assert_allclose(own, sorted(far.values())[:10], atol=1e-6)


def test_pictures_lie_where_the_page_looks_for_them():
  shades = np.linspace(0, 250, 300).astype(np.uint8)
  each = {str(i): np.full((10, 40), s, np.uint8) for i, s in enumerate(shades)}
  sheets = pictures.sheets(list(each), each.get)
  assert len(sheets) == 2
  across, tile = pictures.ACROSS, pictures.TILE
  for i in (0, 15, 16, 255, 256, 299):
    sheet = np.asarray(Image.open(io.BytesIO(sheets[i // across**2])))
    assert sheet.shape == (across * tile, across * tile, 3)
    row, column = divmod(i % across**2, across)
    square = sheet[row * tile :, column * tile :][:tile, :tile]
    assert abs(int(square[tile // 2, tile // 2, 0]) - int(shades[i])) < 6
    assert square[4, 4].min() > 245  # above a wide image there is paper


def test_sources_of_the_same_data_share_pictures(tmp_path, images):
  first, second = source(tmp_path, 'a'), source(tmp_path, 'b')
  other = second._replace(config={**second.config, 'seed': 1})
  _, known, notes = pictures.collect(
    [first, second, other], [['x', 'y'], ['y', 'z'], ['x']]
  )
  assert known[0] == {'x': 0, 'y': 1}
  assert known[1]['y'] == 1 and known[1]['z'] == pictures.ACROSS**2
  assert known[2] == {'x': 2 * pictures.ACROSS**2}
  assert notes == []


def test_hostile_names_stay_text(tmp_path, images):
  page = make_report([source(tmp_path)], tmp_path, parts())
  assert 'alert(1)</script>' not in page
  assert '<img src=x' not in page
  assert '<i>Someone' not in page and '&lt;i&gt;Someone' in page
  data = data_of(page)
  assert data['map']['classes'][0]['name'] == HOSTILE
  assert data['map']['sources'][0]['id'][0].endswith('onerror=alert(2)>0')
  # Only the library and the page's own script may run.
  policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
  assert policy.count('sha256-') == 2 and 'script-src &#39;sha256' in policy
  own = page.replace(scatter.script(), '')
  assert len(own) < len(page) and not re.search(r'"(https?:)?//', own)


def test_map_carries_the_embeddings_neighbours(tmp_path, images):
  run = source(tmp_path)
  data = data_of(make_report([run], tmp_path, parts()))
  one = data['map']['sources'][0]

  def unpacked(field, dtype):
    return np.frombuffer(base64.b64decode(one[field]), dtype)

  shown = [run.splits[s] for s in ('train', 'test', 'unseen')]
  embedding = np.concatenate([s.embedding for s in shown])
  distance, found = search.nearest(embedding, None, 10)
  np.testing.assert_array_equal(unpacked('nearest', '<u4'), found.ravel())
  np.testing.assert_allclose(
    unpacked('distance', '<f4'), distance.ravel(), rtol=1e-6
  )
  names = [data['map']['classes'][c]['name'] for c in unpacked('class', '<u2')]
  assert names == [s.class_names[i] for s in shown for i in s.label]
  splits = [data['map']['splits'][s] for s in unpacked('split', '<u2')]
  assert splits == ['train'] * 12 + ['test'] * 8 + ['unseen'] * 5
  assert sorted(unpacked('image', '<i4')) == list(range(25))


def test_parts_that_cannot_run_are_named(tmp_path, images, capsys):
  def refuses(sources):
    raise InputError('metrics.jsonl: <b>is not there</b>')

  def skips(sources):
    note = 'run has no unseen split: skipped'
    return Result([note, note], [Shown('retrieval: a table', [])])

  stale = tmp_path / 'confusions.json'
  old = {'source': 'run', 'by': 'old', 'accuracy': 1, 'balanced accuracy': 1}
  stale.write_text(json.dumps({'summary': [old]}))
  page = make_report(
    [source(tmp_path)], tmp_path, parts(training=refuses, retrieval=skips)
  )
  assert 'Accuracy, old' not in page  # of an earlier run
  notes = re.findall(r'<p class="note"><b>(.*?):</b> (.*?)</p>', page)
  assert notes == [
    ('training', 'metrics.jsonl: &lt;b&gt;is not there&lt;/b&gt;'),
    ('retrieval', 'run has no unseen split: skipped'),
  ]
  assert (
    str(tmp_path / 'report.html') in capsys.readouterr().out.split('\n')[-2]
  )


def test_a_failed_projection_leaves_a_report_without_map(tmp_path, images):
  def refuses(sources):
    raise InputError('the splits differ')

  page = make_report([source(tmp_path)], tmp_path, parts(projection=refuses))
  assert data_of(page)['map'] is None and 'id="plot"' not in page
  assert 'the splits differ' in page


def test_embedding_files_alone_make_a_report(tmp_path):
  page = make_report([source(None)], tmp_path, parts())
  assert 'images need a workdir' in page
  data = data_of(page)
  assert data['sheets'] == [] and len(data['map']['sources'][0]['id']) == 25


def test_summary_gathers_each_parts_numbers():
  sources = [source(None, 'a'), source(None, 'b')]
  score = {'split': 'test', 'measure': 'recall_at_1', 'source': 'b'}
  panel = {'metric': 'euclidean', 'split': 'test', 'source': 'a'}
  files = {
    'training': [
      {'source': 'a', 'epochs': 3.0, 'minutes': None, 'images/s': 9.6}
    ],
    'retrieval': [
      {**score, 'micro': 0.51234, 'micro_low': 0.4, 'micro_high': 0.6},
      {**score, 'measure': 'nmi', 'micro': None},
    ],
    'distances': {'panels': [{**panel, 'ratio': 1.567}]},
    'confusions': {
      'summary': [
        {'source': 'a', 'by': 'head', 'accuracy': 1, 'balanced accuracy': None}
      ]
    },
    'classifiers': {
      'curves': [
        {
          'features': 'a',
          'classifier': 'SVC',
          'sizes': [30, 1234],
          'scores': {'balanced accuracy': [[0.1, 0.6], [0.2, 0.8]]},
        }
      ]
    },
  }
  lines = {
    line.name: line.cells for line in summary.measures(sources, files.get)
  }
  cell = summary.Cell
  assert lines == {
    'Training': [],
    'Epochs': [cell('3'), cell()],
    'Images a second': [cell('10'), cell()],
    'Test images': [],
    'Accuracy, head': [cell('1.000'), cell()],
    'Recall@1': [cell(), cell('0.512', '0.400–0.600')],
    'Distance between / within': [cell('1.57'), cell()],
    'Classifiers on unseen classes': [],
    'SVC, balanced accuracy, 1,234 labelled': [cell('0.700'), cell()],
  }


class Killer:
  """Ends the process that unpickles it."""

  def __reduce__(self):
    return os._exit, (1,)


def test_another_process_saves_what_this_one_would(tmp_path, monkeypatch):
  def plain():
    figure, ax = style.plt.subplots(figsize=(2, 1), layout='constrained')
    ax.set_title('a title')
    return figure

  def of_images():
    on = cells.canvas(2.0, 1.3)
    cells.put(on, 0.1, 0.1, np.full((20, 30), 90, np.uint8), 'a text')
    return cells.finish(on)

  drawings = {
    'a/b': Drawing(plain, ['Someone 2015']),
    'images': Drawing(of_images),
  }
  drawn = dict(result.figures(Result(figures=drawings)))
  monkeypatch.setattr(report.loky, 'cpu_count', lambda: 2)
  with (
    pytest.raises(InputError, match='free some memory'),
    report.beside() as save,
  ):
    waits = [save(figure, tmp_path, name) for name, figure in drawn.items()]
    saved = [wait() for wait in waits]
    assert saved == [result.render(drawing) for drawing in drawings.values()]
    assert b'Someone 2015' in saved[0].svg
    assert (tmp_path / 'a_b.png').read_bytes() == saved[0].png
    assert (tmp_path / 'images.svg').read_bytes() == saved[1].svg
    with pytest.raises(FileNotFoundError, match='missing'):
      save(saved[0], tmp_path / 'missing', 'a')()
    save(Killer(), tmp_path, 'a')()


def test_an_error_names_the_figure_that_cannot_be_saved(tmp_path):
  with pytest.raises(AttributeError) as error:
    result.save(None, tmp_path, 'broken')
  assert error.value.__notes__ == ['in the figure broken']


def test_size_of_eight_thousand_images():
  names = plankton.CLASS_NAMES
  drawn = {
    str(i): plankton.draw(names[i % len(names)], i, seed=0) for i in range(256)
  }
  (sheet,) = pictures.sheets(list(drawn), drawn.get)
  eight_thousand = len(sheet) * 4 / 3 * 8000 / 256
  assert eight_thousand < 18e6  # of 25 MB; the rest is library and figures
