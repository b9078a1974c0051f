"""Encoders measured by few examples of classes that they have not seen."""

import csv
import math

import numpy as np
import pytest

from benchmarks import few_shot
from plankton_jax import checkpoints
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError
from tests import flagged, shades
from tests.analysis_runs import blobs


def test_scores_are_those_of_loops():
  rows = blobs([9, 7, 6], noise=0.8, seed=3)
  found = few_shot.measure(rows, shots=[2], draws=3)
  x, label = rows.embedding.astype(np.float64), rows.label
  assert [*found.accuracy] == ['centre 2', 'example 2']
  for draw in range(3):
    rng = np.random.default_rng((0, 2, draw))
    examples, others = few_shot.split(label, 2, rng)
    right = {'centre 2': [[], [], []], 'example 2': [[], [], []]}
    mine = [[j for j in examples if label[j] == c] for c in range(3)]
    for i in others:
      centres = [math.dist(x[i], x[own].mean(axis=0)) for own in mine]
      nearest = [min(math.dist(x[i], x[j]) for j in own) for own in mine]
      for way, far in (('centre 2', centres), ('example 2', nearest)):
        right[way][label[i]].append(np.argmin(far) == label[i])
    for way, found_right in right.items():
      want = np.mean([np.mean(own) for own in found_right])
      assert found.accuracy[way][draw] == pytest.approx(want)
  assert len({*found.accuracy['centre 2']}) > 1


def test_a_gain_is_the_mean_difference_of_classes():
  mine, better = (
    few_shot.measure(blobs([9, 7, 6], noise=noise, seed=3), shots=[], draws=1)
    for noise in (0.8, 0.4)
  )
  rows = blobs([9, 7, 6], noise=0.8, seed=3)
  for label, score in enumerate(mine.by_class):
    each = []
    for i in np.flatnonzero(rows.label == label):
      others = [j for j in range(22) if j != i]
      others.sort(key=lambda j: math.dist(rows.embedding[i], rows.embedding[j]))
      hits = [rows.label[j] == label for j in others[: (8, 6, 5)[label]]]
      precision = [np.mean(hits[: k + 1]) for k in range(len(hits))]
      each.append(np.mean(np.multiply(precision, hits)))
    assert score == pytest.approx(np.mean(each))
  first, second = few_shot.lines({'mine': mine, 'better': better})
  assert (first['gain'], first['gain ±']) == (0, 0)
  differences = np.subtract(better.by_class, mine.by_class)
  assert second['gain'] == pytest.approx(np.mean(differences))
  half = 4.303 * np.std(differences, ddof=1) / math.sqrt(3)
  assert second['gain ±'] == pytest.approx(half, rel=1e-3)
  assert 'gain' not in few_shot.lines({'mine': mine})[0]


def test_a_draw_takes_k_of_each_class_that_has_more():
  labels = np.repeat([0, 1, 2], [5, 3, 9])
  examples, others = few_shot.split(labels, 3, np.random.default_rng(0))
  assert np.bincount(labels[examples]).tolist() == [3, 0, 3]
  assert np.bincount(labels[others]).tolist() == [2, 0, 6]
  assert not set(examples) & set(others)
  examples, others = few_shot.split(labels, 9, np.random.default_rng(0))
  assert not len(examples) and not len(others)
  rows = blobs([3, 3])
  assert np.isnan(
    few_shot.measure(rows, shots=[3], draws=1).accuracy['centre 3']
  )


@pytest.fixture
def images(tmp_path):
  levels = {'x/dark': 10, 'light': 200, 'middle': 110, 'black': 0}
  for name, level in levels.items():
    for i in range(3):
      shades.write(tmp_path / 'images' / name / f'{i}.png', level + i)
  return tmp_path / 'images'


def test_classes_that_an_encoder_saw_are_left_out_or_refused(images):
  listing = folder.scan_classes(str(images)).images
  encoders = {'one': shades.Encoder()}  # trained on dark and light
  left = few_shot.unseen(listing, encoders)
  assert [name.split('/')[0] for name in left.ids] == ['black'] * 3 + [
    'middle'
  ] * 3
  assert [left.class_names[c] for c in np.unique(left.labels)] == [
    'black', 'middle',
  ]  # fmt: skip
  for wanted, message in (
    (['black', 'light'], 'one was trained on light'),
    (['black', 'nobody'], 'nobody is no class'),
    (['black'], 'fewer than two'),
  ):
    with pytest.raises(InputError, match=message):
      few_shot.unseen(listing, encoders, wanted)


def test_what_an_encoder_began_from_counts_too(images, bundled, make_config):
  encoder = shades.Encoder()
  encoder.config['encoder']['pretrained'] = 'tiny'  # has seen ant and bee
  for name in ('ant', 'owl'):
    shades.write(images / name / 'a.png', 3)
  listing = folder.scan_classes(str(images)).images
  left = few_shot.unseen(listing, {'one': encoder})
  names = {listing.class_names[c] for c in left.labels}
  assert names == {'black', 'middle', 'owl'}


def test_the_command_prints_and_writes_a_line_an_encoder(
  images, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(checkpoints, 'load_encoder', lambda _: shades.Encoder())
  out = tmp_path / 'out'
  asked = [f'--path={images}', '--encoders=a,b', '--shots=1,2', '--draws=2']
  values = flagged.parse(few_shot, *asked, f'--out={out}')
  few_shot.main(values)
  said = capsys.readouterr().out
  assert '6 images of 2 unseen classes' in said
  with (out / 'few_shot.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['encoder'] for row in rows] == ['a', 'b']
  assert float(rows[0]['MAP@R']) == float(rows[0]['centre 1']) == 1.0
  for wrong in (['--shots=0'], ['--encoders='], ['--draws=0']):
    bad = flagged.parse(few_shot, *asked, *wrong)
    with pytest.raises(InputError):
      few_shot.main(bad)
