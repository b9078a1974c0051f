"""Encoders that are used by their name, without a run."""

import importlib
import pathlib

import numpy as np
import pytest
import safetensors.numpy
from absl import flags
from absl.testing import flagsaver

from analysis import discover, embed, neighbors, predict, retrieval
from analysis.files import command, folders, inputs, originals
from plankton_jax import checkpoints
from plankton_jax.errors import InputError
from plankton_jax.files import encoder_folder
from plankton_jax.nn import transfer
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
    asked=predict.Asked(
      str(tmp_path / 'new'), examples=str(tmp_path / 'known'), acceptance=0.9
    ),
  )
  names = [row['class'] for row in found.tables['predictions.csv']]
  assert names == ['dark', 'light', 'unknown']
  near = found.tables['predictions.csv'][0]
  assert near['neighbour_1'].startswith('known/dark/')
  assert np.isfinite(near['threshold'])
  # Each example is left out of its centre: n / (n - 1) times as far.
  assert found.values['calibration.json']['temperature'] != 1.0
  assert found.notes == []
  page = (tmp_path / 'out' / 'predictions.html').read_text()
  assert 'No pictures of labelled images' not in page


def test_few_examples_judge_nothing_unknown(grey, tmp_path):
  _write(tmp_path / 'known', 1, dark=10, light=200)
  _write(tmp_path / 'new', 1, x=120)
  asked = predict.Asked(str(tmp_path / 'new'))
  found = run_analysis(
    predict,
    [grey],
    tmp_path / 'out',
    asked=asked._replace(examples=str(tmp_path / 'known')),
  )
  assert found.tables['predictions.csv'][0]['class'] in ('dark', 'light')
  assert any('Too few examples' in note for note in found.notes)
  with pytest.raises(InputError, match='--examples is missing'):
    predict.analyse([grey], asked)


def test_neighbours_of_a_folder_with_its_own_pictures(
  grey, tmp_path, monkeypatch
):
  drawn = lambda title, query, rows, read: read('light/0.png')
  monkeypatch.setattr(neighbors, 'draw', drawn)
  _write(tmp_path, 3, dark=10, light=200)
  query = str(tmp_path / 'dark' / '0.png')
  asked = {'images': str(tmp_path), 'query': query, 'count': 2}
  with flagsaver.flagsaver(**asked):
    found = neighbors.asked([grey])
  (rows,) = found.tables.values()
  assert [row['id'] for row in rows] == ['dark/0.png', 'dark/1.png']
  (figure,) = found.figures.values()
  assert figure.draw().tolist() == [[200] * 9] * 6
  with (
    flagsaver.flagsaver(query=query),
    pytest.raises(InputError, match='go together'),
  ):
    neighbors.asked([grey])


def test_a_folder_is_grouped_without_a_run(grey, tmp_path):
  _write(tmp_path / 'pile', 12, dark=10, light=180)
  with pytest.raises(InputError, match='--images is missing'):
    discover.analyse([grey])
  found = run_analysis(
    discover, [grey], tmp_path / 'out', images=str(tmp_path / 'pile')
  )
  lines = found.tables['groups.csv']
  assert [line['purity'] for line in lines] == [1.0] * len(lines)
  assert len(lines) >= 2 and 'nearest_class' not in lines[0]


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


def _embed(images):
  # Not within a flagsaver, which would take array_record's flags away again.
  workdir = pathlib.Path('runs/cruise')
  encoder = checkpoints.load_encoder('tiny')
  embed.embed_images(encoder, images, workdir, run=False)


@pytest.fixture
def collection(tmp_path, monkeypatch):
  """A folder of two classes, embedded without training; and its workdir."""
  monkeypatch.setenv('HOME', str(tmp_path))  # where images are cached
  monkeypatch.chdir(tmp_path)
  _write(tmp_path / 'cruise', 10, dark=10, light=150)
  _embed('cruise')
  return tmp_path / 'cruise', tmp_path / 'runs' / 'cruise'


def test_classes_that_the_encoder_has_seen_are_named(
  bundled, tmp_path, monkeypatch, caplog
):
  monkeypatch.setenv('HOME', str(tmp_path))
  encoder = checkpoints.load_encoder('tiny')
  seen = encoder.class_names[0]
  _write(tmp_path / 'known', 2, **{seen.upper(): 10, 'new': 150})
  embed.make_workdir(encoder, tmp_path / 'known', tmp_path / 'run')
  assert (
    'trained on 1 of the 2 classes, as their names say: measures of them are'
    f' too good ({seen.upper()})' in caplog.text
  )


def test_a_labelled_folder_becomes_a_workdir(bundled, collection):
  images, workdir = collection
  (source,) = inputs.from_workdirs([workdir])
  counts = {name: len(rows.id) for name, rows in source.splits.items()}
  assert counts == {'train': 12, 'val': 4, 'test': 4, 'unseen': 0}
  test = source.splits['test']
  assert test.class_names == ('dark', 'light')
  read = originals.reader(source)
  for key, label, row in zip(test.id, test.label, test.embedding, strict=True):
    assert key.startswith(test.class_names[label])
    pixels = originals.read(images / key)
    np.testing.assert_array_equal(read(key), pixels)
    encoder = checkpoints.load_encoder('tiny')
    want = folders.embed_one(encoder, pixels)
    np.testing.assert_allclose(row, want, atol=1e-5)
  # Every analysis takes it; its encoder has no head of these classes.
  encoder = folders.encoder(source)
  assert encoder.scores(test.embedding) is None
  assert encoder.class_names == ('ant', 'bee')
  found = retrieval.analyse([source])
  assert 'test' in str(found.tables)


def test_a_workdir_is_made_once_and_never_over_another(bundled, collection):
  _, workdir = collection
  before = (workdir / 'split.json').read_bytes()
  _embed('cruise')
  assert (workdir / 'split.json').read_bytes() == before
  _write(pathlib.Path('other/cruise'), 4, dark=10, light=150)
  with pytest.raises(InputError, match=r'runs/cruise holds something else'):
    _embed('other/cruise')


def test_an_export_becomes_a_workdir(bundled, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  fields = ('img_file_name', 'object_id', 'object_annotation_category')
  lines = ['\t'.join((*fields, 'object_annotation_status'))]
  for i in range(12):
    name = ('ant', 'owl')[i % 2]
    shades.write(tmp_path / 'export' / f'{i}.png', 20 * i)
    lines.append(f'{i}.png\to{i}\t{name}\tvalidated')
  (tmp_path / 'export' / 'ecotaxa_export.tsv').write_text('\n'.join(lines))
  encoder = checkpoints.load_encoder('tiny')
  out = tmp_path / 'run'
  images = str(tmp_path / 'export')
  embed.embed_images(encoder, images, out, run=False, pixel_um=50.0)
  (source,) = inputs.from_workdirs([out])
  rows = inputs.together('run', source.splits)
  assert sorted(rows.name) == ['ant'] * 6 + ['owl'] * 6
  assert source.config['data']['source'] == 'ecotaxa'
  with np.load(out / 'embeddings' / 'test.npz') as arrays:
    assert set(arrays['pixel_um']) == {50.0}


def test_images_without_classes_go_to_a_file(bundled, tmp_path):
  shades.write(tmp_path / 'pile' / 'a.png', 90)
  asked = {'encoder': 'tiny', 'images': str(tmp_path / 'pile')}
  with (
    flagsaver.flagsaver(**asked, out=str(tmp_path / 'run')),
    pytest.raises(InputError, match=r'no class folder.*give --out=FILE\.npz'),
  ):
    embed.main([])
  with flagsaver.flagsaver(**asked, out=str(tmp_path / 'pile.npz')):
    embed.main([])
  rows = inputs.read_embeddings(tmp_path / 'pile.npz')
  assert rows.id.tolist() == ['a.png'] and rows.label.tolist() == [-1]


@pytest.mark.parametrize(
  ('asked', 'message'),
  [
    ({}, 'give --workdir'),
    ({'encoder': 'tiny', 'workdir': ['run']}, 'give --workdir'),
    ({'encoder': 'tiny'}, '--images is missing'),
    ({'encoder': 'huge', 'images': 'x'}, '--encoder=huge: no folder'),
  ],
)
def test_embed_refuses_flags_that_do_not_fit(bundled, asked, message):
  with (
    flagsaver.flagsaver(**asked),
    pytest.raises(InputError, match=message),
  ):
    embed.main([])


def test_plankton_is_small_described_and_begun_from():
  folder = encoder_folder.BUNDLED / 'plankton'
  assert (folder / encoder_folder.WEIGHTS).stat().st_size <= 6e6
  card = (folder / 'README.md').read_text()
  for said in (
    'DOI 10.7289/v5d21vjd', '## Intended use', '## Limits', '## Licence',
    'python -m benchmarks.starting_encoder', '| test | 0.',
  ):  # fmt: skip
    assert said in card, said
  assert len(transfer.seen_classes('plankton')) == 95
  for name in ('finetune', 'best'):
    config = importlib.import_module(f'configs.{name}').get_config().to_dict()
    transfer.check(config)
