import csv
import io
import json

import numpy as np
import pytest
from sklearn import metrics, neighbors

from analysis import confusions
from analysis.figures import style
from analysis.files import result, tables
from analysis.files.result import Drawing
from analysis.measures import classes, openset
from plankton_jax import checkpoints
from plankton_jax.errors import InputError
from tests.analysis_runs import NAMES, blobs, empty, source
from tests.analysis_runs import run as run_analysis


class Encoder:
  """Scores by the given columns of the embedding; classes in its own order."""

  def __init__(self, class_names, columns):
    self.class_names = class_names
    self._columns = columns

  def scores(self, embeddings):
    return None if self._columns is None else embeddings[:, self._columns]


def test_measure_by_hand():
  true = np.array([0, 0, 0, 0, 1, 1, 3])
  predicted = np.array([0, 0, 0, 1, 1, 0, 2])
  found = confusions.measure('run', 'head', true, predicted, NAMES)
  assert found.classes == ('ant', 'bee', 'cat', 'dog')
  assert found.counts.tolist() == [
    [3, 1, 0, 0],
    [1, 1, 0, 0],
    [0, 0, 0, 0],
    [0, 0, 1, 0],
  ]
  assert found.accuracy == pytest.approx(4 / 7)
  assert found.balanced_accuracy == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
  nan = np.nan  # never predicted: no precision; never true: no recall
  scores = found.per_class
  np.testing.assert_allclose(scores['precision'], [3 / 4, 1 / 2, 0, nan])
  np.testing.assert_allclose(scores['recall'], [3 / 4, 1 / 2, nan, 0])
  np.testing.assert_allclose(scores['f1'][[0, 1, 3]], [3 / 4, 1 / 2, 0])
  assert found.macro_f1 == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
  assert scores['images'].tolist() == [4, 2, 0, 1]


def test_measure_equals_scikit_learn():
  rng = np.random.default_rng(0)
  true = rng.permutation(np.repeat([0, 1, 2], [50, 30, 5]))
  predicted = np.where(rng.random(85) < 0.7, true, rng.integers(3, size=85))
  found = confusions.measure('run', 'head', true, predicted, NAMES)
  assert found.accuracy == pytest.approx(
    metrics.accuracy_score(true, predicted)
  )
  assert found.balanced_accuracy == pytest.approx(
    metrics.balanced_accuracy_score(true, predicted)
  )
  assert found.macro_f1 == pytest.approx(
    metrics.f1_score(true, predicted, average='macro')
  )


def test_nearest_centroid_equals_scikit_learn():
  train = blobs([9, 1, 6], noise=0.6, first=1, seed=1)
  test = blobs([40, 40, 40], noise=0.6, first=1, seed=2)
  found = openset.by_centroid(train, test.embedding).label
  model = neighbors.NearestCentroid().fit(train.embedding, train.label)
  np.testing.assert_array_equal(found, model.predict(test.embedding))
  assert 0.5 < np.mean(found == test.label) < 1.0


def test_head_labels_follow_the_class_names(tmp_path, monkeypatch):
  run = source(workdir=tmp_path)
  test = run.splits['test']
  head = Encoder(('cat', 'ant', 'bee'), [2, 0, 1])
  monkeypatch.setattr(checkpoints, 'load_encoder', lambda workdir: head)
  want = test.embedding[:, :3].argmax(axis=1)  # blobs stand about the axes
  found, notes = confusions.by_head(run, test)
  np.testing.assert_array_equal(found, want)
  assert notes == [] and confusions.by_head(source(), test) == (None, [])


def test_pairs_are_those_met_most_often():
  counts = np.array([[5, 2, 0], [2, 0, 0], [1, 3, 9]])
  images = {'images': np.array([7, 2, 13])}
  found = confusions.Confusions(
    'run', 'head', NAMES, counts, 0.5, 0.5, 0.5, images
  )
  told = [
    (p['true'], p['predicted'], p['images'], p['share of the true class'])
    for p in confusions.pairs(found, 3)
  ]
  a, b, c = NAMES[:3]
  assert told == [(c, b, 3, 3 / 13), (b, a, 2, 1.0), (a, b, 2, 2 / 7)]


def test_analyse_with_and_without_a_head(tmp_path, monkeypatch, capsys):
  runs = [source(name, workdir=tmp_path / name) for name in ('head', 'triplet')]
  heads = {
    runs[0].workdir: Encoder(('ant', 'bee', 'cat'), [0, 1, 1]),
    runs[1].workdir: Encoder(('ant', 'bee', 'cat'), None),
  }
  monkeypatch.setattr(checkpoints, 'load_encoder', heads.get)
  run_analysis(confusions, [*runs, source('files')], tmp_path)
  found = json.loads((tmp_path / 'confusions.json').read_text())
  lines = [(row['source'], row['by']) for row in found['summary']]
  assert lines == [
    ('head', 'head'),
    ('head', 'nearest centroid'),
    ('triplet', 'nearest centroid'),
    ('files', 'nearest centroid'),
  ]
  test = runs[0].splits['test']
  predicted = test.embedding[:, :2].argmax(axis=1)
  assert found['summary'][0]['accuracy'] == np.mean(predicted == test.label)
  with (tmp_path / 'confusions_mistakes.csv').open() as file:
    mistakes = [row for row in csv.DictReader(file) if row['by'] == 'head']
  assert {row['id'] for row in mistakes} == {*test.id[predicted != test.label]}
  assert all(row['true'] != row['predicted'] for row in mistakes)
  with (tmp_path / 'confusions.csv').open() as file:
    first = next(csv.DictReader(file))
  assert first['class'] == 'ant' and float(first['recall']) <= 1
  picture = (tmp_path / 'confusions.svg').read_text()
  assert '<!-- head (head) -->' in picture
  assert '<!-- triplet (nearest centroid) -->' in picture
  assert (tmp_path / 'confusions.png').stat().st_size > 10_000
  assert 'balanced accuracy' in capsys.readouterr().out


def test_analyse_tells_what_is_missing(tmp_path, monkeypatch, capsys):
  def refuse(workdir):
    raise InputError('no checkpoints')

  monkeypatch.setattr(checkpoints, 'load_encoder', refuse)
  bare = source('bare', workdir=tmp_path, test=blobs([2, 1]))
  run_analysis(confusions, [bare, source('x', test=empty())], tmp_path)
  told = capsys.readouterr().out
  assert 'confusions: bare has no train split: skipped' in told
  assert 'confusions: bare, head: skipped (no checkpoints)' in told
  assert 'confusions: x, test: no labelled images: skipped' in told
  assert not list(tmp_path.glob('confusions*'))


def test_of_very_many_classes_the_most_confused_are_kept(
  tmp_path, monkeypatch, capsys
):
  for name in ('MOST_SHOWN', 'FEW_SHOWN'):
    monkeypatch.setattr(classes, name, 30)
  names = tuple(f'class_{i}' for i in range(250))
  train = blobs([2] * 250, dim=250, names=names, noise=0.01)
  test = blobs([1] * 250, dim=250, names=names, noise=0.01, seed=1)
  label = test.label.copy()
  wrong = np.isin(label, [3, 249])
  label[wrong] = 252 - label[wrong]  # each labelled as the other
  run_analysis(
    confusions, [source(train=train, test=test._replace(label=label))], tmp_path
  )
  told = capsys.readouterr().out
  assert 'the figure shows the 30 most confused of 250 classes' in told
  found = json.loads((tmp_path / 'confusions.json').read_text())
  assert found['summary'][0]['accuracy'] == pytest.approx(248 / 250)
  pairs = [(p['true'], p['predicted'], p['images']) for p in found['pairs']]
  assert sorted(pairs) == [
    ('class_249', 'class_3', 1), ('class_3', 'class_249', 1)
  ]  # fmt: skip
  assert 'confusions: the most frequent' in told
  (matrix,) = found['matrices']
  assert len(matrix['classes']) == 200 == len(matrix['per_class']['recall'])
  assert matrix['classes'][3] == 'class_3'
  assert matrix['classes'][-1] == 'class_249'
  assert matrix['counts'][3][-1] == matrix['counts'][-1][3] == 1
  picture = (tmp_path / 'confusions.svg').read_text()
  assert '<!-- class_249 -->' in picture and '<!-- class_240' not in picture
  with (tmp_path / 'confusions.csv').open() as file:
    assert len(list(csv.DictReader(file))) == 250


def test_one_class_and_one_image(tmp_path):
  run = source(train=blobs([1]), test=blobs([1]))
  run_analysis(confusions, [run], tmp_path)
  found = json.loads((tmp_path / 'confusions.json').read_text())
  assert found['summary'][0]['balanced accuracy'] == 1.0
  assert (tmp_path / 'confusions_mistakes.csv').read_text().strip() == ''


def test_very_long_names_are_shortened_where_they_are_shown(capsys):
  long = 'x' * 90 + 'end'
  figure, ax = style.plt.subplots()
  style.heatmap(
    ax,
    np.eye(2),
    [long, 'a\nb'],
    ['short', long],
    texts=[['1', '0'], ['0', '1']],
    limits=(0.0, 1.0),
  )
  cut = 'x' * 26 + '…' + 'x' * 10 + 'end'
  assert [text.get_text() for text in ax.get_yticklabels()] == [cut, r'a\nb']
  assert [text.get_text() for text in ax.get_xticklabels()] == ['short', cut]
  style.plt.close(figure)
  tables.show([{'class': long, 'n': 1}, {'class': 'a\nb', 'n': 2}])
  lines = capsys.readouterr().out.splitlines()
  assert [len(line) for line in lines] == [65, 65, 65]
  assert r'a\nb' in lines[2]


def test_signs_that_no_font_has_are_not_warned_of(recwarn):
  figure, ax = style.plt.subplots(figsize=(1, 1))
  ax.set_title('\N{SHRIMP}')
  result.render(Drawing(lambda: figure, []))
  assert not [str(w.message) for w in recwarn if 'Glyph' in str(w.message)]


@pytest.mark.parametrize('layout', ['constrained', None])
def test_figures_are_laid_out_as_savefig_does(layout):
  def draw():
    figure, ax = style.plt.subplots(figsize=(4, 3), layout=layout)
    ax.set(title='title', ylabel='a label', xticks=[0, 1])
    ax.text(1.2, 0.5, 'outside of the axes')
    return figure

  found = result.render(Drawing(draw, []))
  held = io.BytesIO()
  draw().savefig(held, format='png', bbox_inches='tight')
  style.plt.close('all')
  assert found.png == held.getvalue()
