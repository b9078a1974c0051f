"""Encoders that are used by their name, without a run."""

import numpy as np
import pytest
import safetensors.numpy
from absl import flags
from absl.testing import flagsaver

from analysis import neighbors, predict
from analysis.files import command, folders, inputs, originals
from plankton_jax import checkpoints
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError
from plankton_jax.files import encoder_folder
from tests import shades, tiny_encoder
from tests.analysis_runs import run as run_analysis

if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()  # as a command has them


def test_a_name_is_a_folder_or_a_bundled_encoder(
  bundled, tmp_path, monkeypatch, make_config
):
  monkeypatch.chdir(tmp_path)
  assert encoder_folder.find('tiny') == bundled / 'tiny'
  assert encoder_folder.find(bundled / 'tiny') == bundled / 'tiny'
  assert encoder_folder.find('bundled/other') is None
  assert encoder_folder.find('../tiny') is None
  assert checkpoints.load_encoder('tiny').class_names == ('ant', 'bee')
  (tmp_path / 'tiny').mkdir()  # images, perhaps
  assert encoder_folder.find('tiny') == bundled / 'tiny'
  (tmp_path / 'tiny').rmdir()
  tiny_encoder.save(tmp_path / 'tiny', make_config(), ('cat',))
  assert checkpoints.load_encoder('tiny').class_names == ('cat',)


def test_a_missing_encoder_is_one_line_that_names_those_there(bundled):
  message = r'--encoder=large: no folder .* bundled: tiny$'
  with pytest.raises(InputError, match=message):
    encoder_folder.need('large', '--encoder')
  (bundled / 'tiny' / encoder_folder.WEIGHTS).unlink()
  with pytest.raises(InputError, match=r'bundled: none$'):
    encoder_folder.need('tiny', '--encoder')


def test_half_rounds_kernels_alone(tmp_path, make_config):
  config = make_config()
  whole = tiny_encoder.save(tmp_path / 'whole', config)
  half = tiny_encoder.save(tmp_path / 'half', config, half=True)
  stored = safetensors.numpy.load_file(half / encoder_folder.WEIGHTS)
  for name, array in stored.items():
    assert array.dtype == (np.float16 if array.ndim > 1 else np.float32), name
  assert {array.ndim for array in stored.values()} == {1, 2, 4}
  want, got = checkpoints.load_encoder(whole), checkpoints.load_encoder(half)
  kernel = got.variables['params']['encoder']['Dense_0']['kernel']
  assert kernel.dtype == np.float32
  exact = want.variables['params']['encoder']['Dense_0']['kernel']
  assert 0 < np.abs(kernel - exact).max() < 2**-11
  images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1), np.uint8)
  off = np.abs(want.embed(images) - got.embed(images)).max()
  assert 0 < off < 5e-3


def test_half_refuses_what_it_cannot_hold():
  with pytest.raises(InputError, match=r'kernel has 7e.04: too large'):
    encoder_folder._halved('kernel', np.full((2, 2), 7e4, np.float32))


@pytest.fixture
def grey(monkeypatch):
  """An encoder of grey levels, as a source and in place of any other."""
  monkeypatch.setattr(folders, 'encoder', lambda source: shades.Encoder())
  return inputs.Source('grey', {}, None, None, encoder='grey')


def _write(root, each, **levels):
  for name, level in levels.items():
    for i in range(each):
      shades.write(root / name / f'{i}.png', level + 3 * i)


def test_examples_alone_label_and_judge_new_images(grey, tmp_path):
  _write(tmp_path / 'known', 12, dark=10, light=200)
  for name, level in (('a', 20), ('b', 220), ('far', 120)):
    shades.write(tmp_path / 'new' / f'{name}.png', level)
  found = run_analysis(
    predict,
    [grey],
    tmp_path / 'out',
    images=str(tmp_path / 'new'),
    examples=str(tmp_path / 'known'),
    acceptance=0.9,
  )
  names = [row['class'] for row in found.tables['predictions.csv']]
  assert names == ['dark', 'light', 'unknown']
  near = found.tables['predictions.csv'][0]
  assert near['neighbour_1'].startswith('dark/')
  assert np.isfinite(near['threshold'])
  # Each example is left out of its centre: n / (n - 1) times as far.
  assert found.values['calibration.json']['temperature'] != 1.0
  assert found.notes == []
  page = (tmp_path / 'out' / 'predictions.html').read_text()
  assert 'No pictures of labelled images' not in page


def test_few_examples_judge_nothing_unknown(grey, tmp_path):
  _write(tmp_path / 'known', 1, dark=10, light=200)
  _write(tmp_path / 'new', 1, x=120)
  options = {'images': str(tmp_path / 'new'), 'acceptance': 0.95}
  found = run_analysis(
    predict,
    [grey],
    tmp_path / 'out',
    examples=str(tmp_path / 'known'),
    **options,
  )
  assert found.tables['predictions.csv'][0]['class'] in ('dark', 'light')
  assert any('Too few examples' in note for note in found.notes)
  with pytest.raises(InputError, match='--examples is missing'):
    predict.analyse([grey], examples=None, **options)


def test_neighbours_of_a_folder_with_its_own_pictures(grey, tmp_path):
  _write(tmp_path, 3, dark=10, light=200)
  query = str(tmp_path / 'dark' / '0.png')
  asked = {'images': str(tmp_path), 'query': query, 'count': 2}
  with flagsaver.flagsaver(**asked):
    found = neighbors.asked([grey])
  (rows,) = found.tables.values()
  assert [row['id'] for row in rows] == ['dark/0.png', 'dark/1.png']
  assert found.figures
  with (
    flagsaver.flagsaver(query=query),
    pytest.raises(InputError, match='go together'),
  ):
    neighbors.asked([grey])


def test_a_collected_source_reads_its_images(grey, tmp_path):
  _write(tmp_path, 1, dark=10)
  listing = folder.scan(str(tmp_path))
  source = folders.collect(grey, shades.Encoder(), listing, 'images')
  (key,) = source.splits['images'].id
  assert originals.reader(source)(key).tolist() == [[10] * 9] * 6


@flagsaver.flagsaver(encoder='tiny')
def test_an_encoder_is_a_source_where_the_command_embeds(bundled):
  (source,), out = command.given(untrained=True)
  assert source.encoder == bundled / 'tiny'
  assert str(out) == 'runs/tiny/analysis'
  assert command.one_run([source], 'predict') is source
  assert folders.encoder(source).step == 7
  with pytest.raises(InputError, match=r'analysis.embed --encoder=tiny'):
    command.given()
  with (
    flagsaver.flagsaver(workdir=['run']),
    pytest.raises(InputError, match='give --workdir=DIR, --encoder=NAME or'),
  ):
    command.given(untrained=True)
