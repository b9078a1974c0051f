"""New images from files to tables and page, by an encoder of grey levels."""

import csv
import json
import re
import types

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from pyarrow import parquet

from analysis import predict
from analysis.files import folders, inputs, new_images, originals, outputs
from analysis.measures import labeller, openset, predictions
from analysis.page import predicted
from plankton_jax.data.ecotaxa import rules
from plankton_jax.data.ecotaxa import table as ecotaxa
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError
from tests import shades
from tests.analysis_runs import run as run_analysis

ODD = ('a b.png', 'Ünï çødé.png', 'semi;colon, "quoted".png', '<i>x</i>&.png')


@pytest.fixture(autouse=True)
def encoder(monkeypatch):
  shades.stand_in(monkeypatch)


def run(tmp_path, source=None, *, examples=None, acceptance=0.95):
  """Predicts into tmp_path/out; returns the predictions."""
  collected = []
  real = predictions.collect

  def collect(*given):
    collected.append(real(*given))
    return collected[-1]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(predictions, 'collect', collect)
    run_analysis(
      predict,
      [source or shades.run(tmp_path / 'run')],
      tmp_path / 'out',
      asked=predict.Asked(
        str(tmp_path / 'new'),
        examples=examples and str(examples),
        acceptance=acceptance,
      ),
    )
  return collected[-1]


def table(tmp_path, name='predictions'):
  with (tmp_path / 'out' / f'{name}.csv').open(encoding='utf-8') as file:
    return list(csv.DictReader(file))


def page(tmp_path):
  return (tmp_path / 'out/predictions.html').read_text(encoding='utf-8')


def test_images_are_labelled_or_unknown(tmp_path, capsys):
  for name, level in (('d', 33), ('l', 215), ('sub/m', 125)):
    shades.write(tmp_path / f'new/{name}.png', level)
  found = run(tmp_path)
  assert [(one.file, one.object_id, one.name) for one in found] == [
    ('d.png', 'd', 'dark'),
    ('l.png', 'l', 'light'),
    ('sub/m.png', 'sub/m', 'unknown'),
  ]
  assert found[0].nearest == 'dark' and found[0].second == 'light'
  assert found[0].confidence > 0.9
  assert found[0].confidence + found[0].second_confidence == pytest.approx(1.0)
  assert found[2].distance > found[2].threshold
  train = inputs.read_embeddings(tmp_path / 'run/embeddings/train.npz')
  (point,) = shades.embed(shades.grey(33)).astype(np.float64)
  far = np.linalg.norm(train.embedding.astype(np.float64) - point, axis=1)
  near = found[0].neighbours
  np.testing.assert_allclose([n.distance for n in near], np.sort(far)[:5])
  assert {n.name for n in near} == {'dark'}
  assert len({n.id for n in near}) == 5 and near[0].id in train.id
  told = capsys.readouterr().out
  assert '3 images, 1 unknown' in told
  assert told.splitlines()[-1].startswith(str(tmp_path / 'out'))


def test_tables_hold_what_was_predicted(tmp_path):
  for i, level in enumerate((30, 90, 210)):
    shades.write(tmp_path / f'new/{i}.png', level)
  found = run(tmp_path)
  rows = table(tmp_path)
  columns = parquet.read_table(tmp_path / 'out/predictions.parquet').to_pylist()
  for one, row, column in zip(found, rows, columns, strict=True):
    assert row == {name: str(value) for name, value in column.items()}
    assert column['class'] == one.name
    assert column['confidence'] == one.confidence
    assert column['neighbour_5'] == one.neighbours[4].id
    assert column['neighbour_5_distance'] == one.neighbours[4].distance
  by_class = {row['class']: row for row in table(tmp_path, 'classes')}
  assert list(by_class) == ['dark', 'light']
  assert by_class['dark']['labelled'] == '15'
  taken = [one.name for one in found]
  assert int(by_class['dark']['predicted']) == taken.count('dark')
  measures = json.loads((tmp_path / 'out/calibration.json').read_text())
  assert measures['accuracy'] == 1.0 and measures['test_images'] == 40
  assert measures['calibration_error'] < 0.05
  assert measures['calibration_error_at_1'] < 0.05
  assert measures['threshold'] == found[0].threshold


def test_ecotaxa_takes_the_predictions(tmp_path):
  for name, level in (('d', 33), ('m', 125)):
    shades.write(tmp_path / f'new/{name}.png', level)
  known, unknown = run(tmp_path)
  path = tmp_path / 'out/ecotaxa_predictions.tsv'
  parsed = ecotaxa.parse(path.read_bytes(), path.name)
  assert not list(rules.problems(path.name, parsed))
  first, second = csv.DictReader(
    [
      line
      for i, line in enumerate(
        path.read_text(encoding='utf-8-sig').splitlines()
      )
      if i != 1
    ],
    delimiter='\t',
  )
  assert first['img_file_name'] == 'd.png' and first['object_id'] == 'd'
  assert first['object_annotation_category'] == known.name == 'dark'
  assert first['object_annotation_status'] == 'predicted'
  assert float(first['object_predicted_score']) == pytest.approx(
    known.confidence
  )
  assert first['object_neighbour_5'] == known.neighbours[4].id
  assert not unknown.known and second['object_annotation_category'] == ''


def test_odd_names_come_back_whole(tmp_path):
  for name in ODD:
    shades.write(tmp_path / 'new' / name, 30)
  run(tmp_path)
  assert [row['file'] for row in table(tmp_path)] == sorted(ODD)
  text = page(tmp_path)
  assert '<i>x' not in text and '&lt;i&gt;x' in text
  assert 'Ünï çødé.png' in text and 'Data: Someone 2015' in text
  assert not re.search(r'(src|href)="(https?:)?//', text)
  assert text.count('sha256-') == 1


def test_files_that_share_a_stem_keep_their_ending():
  files = ['a/1.jpg', 'a/1.png', 'b/1.png', 'c.d.png', 'e.f/g']
  assert new_images.object_ids(files) == [
    *('a/1.jpg', 'a/1.png', 'b/1', 'c.d', 'e.f/g')
  ]


@pytest.mark.parametrize('channels', [1, 3])
def test_grey_and_colour_are_embedded_alike(tmp_path, monkeypatch, channels):
  monkeypatch.setattr(
    folders, 'encoder', lambda _: shades.Encoder(channels=channels)
  )
  shades.write(tmp_path / 'new/colour.jpg', (28, 30, 34))
  shades.write(tmp_path / 'new/grey.bmp', 30)
  found = run(tmp_path)
  assert [one.name for one in found] == ['dark', 'dark']
  assert abs(found[0].distance - found[1].distance) < 0.5


def test_identical_images_get_identical_rows(tmp_path):
  for i in range(3):
    shades.write(tmp_path / f'new/{i}.png', 60)
  first, *others = run(tmp_path)
  for other in others:
    assert other[2:] == first[2:]


def test_unreadable_images_are_skipped_and_listed(tmp_path, capsys):
  shades.write(tmp_path / 'new/good.png', 30)
  (tmp_path / 'new/bad.png').write_bytes(b'\x89PNG')
  (tmp_path / 'new/none.jpg').write_bytes(b'')
  assert [one.file for one in run(tmp_path)] == ['good.png']
  listed = (tmp_path / 'out/skipped.txt').read_text().splitlines()
  assert listed == [
    'bad.png\tnot a PNG, JPEG, TIFF, BMP, GIF or WebP image',
    'none.jpg\tempty file',
  ]
  assert 'skipped bad.png: not a PNG' in capsys.readouterr().err
  assert '2 images could not be read' in page(tmp_path)
  for name in ('bad.png', 'none.jpg'):
    (tmp_path / 'new' / name).unlink()
  run(tmp_path)
  assert not (tmp_path / 'out/skipped.txt').exists()
  assert 'could not be read' not in page(tmp_path)


def test_examples_add_a_class_that_training_never_saw(tmp_path):
  for i in range(6):
    shades.write(tmp_path / f'new/{i}.png', 115 + 4 * i)
  shades.write(tmp_path / 'new/dark.png', 30)
  assert {one.name for one in run(tmp_path)[:6]} == {'unknown'}
  for i in range(4):
    shades.write(tmp_path / f'few/middle/{i}.png', 119 + 4 * i)
    shades.write(tmp_path / f'few/dark/{i}.png', 30 + i)
  found = run(tmp_path, examples=tmp_path / 'few')
  assert [one.name for one in found] == ['middle'] * 6 + ['dark']
  ids = {near.id for one in found[:6] for near in one.neighbours[:4]}
  assert ids == {f'few/middle/{i}.png' for i in range(4)}
  by_class = {row['class']: row for row in table(tmp_path, 'classes')}
  assert by_class['middle']['trained'] == 'False'
  assert by_class['middle']['labelled'] == '4'
  assert by_class['dark']['labelled'] == '19'
  measures = json.loads((tmp_path / 'out/calibration.json').read_text())
  assert measures['accuracy_without_new_classes'] == 1.0


def test_rare_classes_are_gallery_rows_where_a_run_has_them(tmp_path):
  for i in range(3):
    shades.write(tmp_path / f'new/{i}.png', 119 + 4 * i)
  source = shades.run(tmp_path / 'run')
  names = ('dark', 'light', 'middle')
  rare = shades.rows('rare', 4, names, seed=5)
  keep = rare.label == 2
  source.splits['rare'] = inputs.take(rare, keep)
  found = run(tmp_path, source)
  assert [one.name for one in found] == ['middle'] * 3
  assert {near.name for near in found[0].neighbours[:4]} == {'middle'}
  by_class = {row['class']: row for row in table(tmp_path, 'classes')}
  assert by_class['middle']['trained'] == 'False'
  assert by_class['middle']['labelled'] == '4'
  gallery, added, _ = labeller.gallery(source, None)
  assert set(gallery.label[added]) == {2} and len(added) == 4


def test_examples_that_cost_accuracy_are_told(tmp_path):
  shades.write(tmp_path / 'new/a.png', 30)
  for i in range(3):
    shades.write(tmp_path / f'few/darkish/{i}.png', 38 + i)
  run(tmp_path, examples=tmp_path / 'few')
  measures = json.loads((tmp_path / 'out/calibration.json').read_text())
  assert measures['accuracy_without_new_classes'] == 1.0
  assert measures['accuracy'] < 0.95
  assert 'without those from examples 100.0 % would be right' in page(tmp_path)
  assert table(tmp_path, 'classes')[1]['trained'] == 'False'


def test_one_image_one_class_and_missing_splits(tmp_path, capsys):
  shades.write(tmp_path / 'new/a.png', 200)
  source = shades.run(tmp_path / 'run', ('dark',))
  train = {'train': source.splits['train']}
  (one,) = run(tmp_path, source._replace(splits=train))
  assert (one.name, one.confidence, one.second) == ('dark', 1.0, '')
  assert one.threshold == np.inf
  told = capsys.readouterr().out
  assert 'No val images: confidence is not calibrated' in told
  assert 'No test images' in told and 'No test images' in page(tmp_path)
  few = shades.run(tmp_path / 'few', val=3)
  run(tmp_path, few)
  assert 'Too few validation images for thresholds at 95%' in page(tmp_path)


def test_bad_folders_and_flags_are_told_in_one_line(tmp_path):
  shades.run(tmp_path / 'run')
  (tmp_path / 'new').mkdir()
  with pytest.raises(InputError, match='new holds no image'):
    run(tmp_path)
  (tmp_path / 'new/a.png').write_bytes(b'no')
  with pytest.raises(InputError, match='none of the 1 images'):
    run(tmp_path)
  shades.write(tmp_path / 'new/a.png', 3)
  with pytest.raises(InputError, match=r'--acceptance=1.0: give a share'):
    run(tmp_path, acceptance=1.0)
  with pytest.raises(InputError, match=r'--examples: .*none is not a folder'):
    run(tmp_path, examples=tmp_path / 'none')
  shades.write(tmp_path / 'few/loose.png', 3)
  with pytest.raises(InputError, match=r'loose.png lies in no class folder'):
    run(tmp_path, examples=tmp_path / 'few')
  source = shades.run(tmp_path / 'run')
  source.splits.pop('train')
  with pytest.raises(InputError, match='no labelled train images'):
    run(tmp_path, source)
  assert not (tmp_path / 'out').exists()


def test_flags_reach_the_analysis(tmp_path, monkeypatch):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  called = []
  monkeypatch.setattr(
    predict, 'analyse', lambda sources, asked: called.append(asked)
  )
  source = shades.run(tmp_path / 'run')
  with pytest.raises(InputError, match='--images is missing'):
    predict.asked([source])
  with (
    flagsaver.flagsaver(images='new', export='x'),
    pytest.raises(InputError, match='--images and --export exclude'),
  ):
    predict.asked([source])
  with pytest.raises(InputError, match='takes one --workdir'):
    predict.asked([source, source])
  with flagsaver.flagsaver(images='new', acceptance=0.9):
    predict.asked([source])
  with flagsaver.flagsaver(images='new', out='x', examples='few'):
    predict.asked([source])
  with flagsaver.flagsaver(export='x.zip', overwrite_validated=True):
    predict.asked([source])
  one, other, third = called
  assert one == predict.Asked(images='new', acceptance=0.9)
  assert other == predict.Asked(images='new', examples='few')
  assert third == predict.Asked(export='x.zip', overwrite_validated=True)


def test_pictures_of_the_least_certain_come_first(tmp_path, monkeypatch):
  monkeypatch.setattr(predicted, 'SHOWN', 2)
  levels = (30, 31, 110, 118, 126, 55)
  for i, level in enumerate(levels):
    shades.write(tmp_path / f'new/{i}.png', level)
  found = run(tmp_path)
  order = [one.file for one in predictions.uncertain(found)]
  unknown = [one for one in found if not one.known]
  beyond = sorted(unknown, key=lambda one: one.threshold - one.distance)
  assert order[: len(beyond)] == [one.file for one in beyond]
  rest = [one.confidence for one in found if one.known]
  assert [o.confidence for o in predictions.uncertain(found) if o.known] == (
    sorted(rest)
  )
  text = page(tmp_path)
  assert len(unknown) == 4 and 'The first 2; all 4 are' in text
  listed = re.findall(r'title="(\d\.png)"', text)
  assert listed[:2] == order[:2]
  assert listed[2:] == order[4:]


def test_page_without_pictures_of_the_collection(tmp_path, monkeypatch):
  def none(source):
    raise InputError('its images are gone')

  monkeypatch.setattr(originals, 'reader', none)
  shades.write(tmp_path / 'new/a.png', 30)
  run(tmp_path)
  assert 'No pictures of labelled images: its images are gone' in page(tmp_path)
  assert page(tmp_path).count('data-picture="-1" role') == 5


def test_a_class_called_unknown_is_no_novelty(tmp_path):
  shades.write(tmp_path / 'new/a.png', 30)
  source = shades.run(tmp_path / 'run')
  for split, rows in source.splits.items():
    source.splits[split] = rows._replace(class_names=('unknown', 'light'))
  (one,) = run(tmp_path, source)
  assert one.name == 'unknown' and one.known
  assert 'Unknown <span class="count">0<' in page(tmp_path)
  assert openset.no_class(('ant',)) == 'unknown'
  for name in ('unknown', 'Unknown', ' UNKNOWN_'):
    assert openset.no_class((name, 'ant')) == 'unknown (no class)'
  assert openset.no_class(('unknown_fish',)) == 'unknown'


def test_blocks_give_what_all_at_once_gives(tmp_path, monkeypatch):
  rng = np.random.default_rng(0)
  levels = rng.integers(0, 256, 11)
  for i, level in enumerate(levels):
    shades.write(tmp_path / f'{i:02}.png', level)
  (tmp_path / '03.png').write_bytes(b'')
  (tmp_path / '10.png').write_bytes(b'')
  listing = folder.scan(str(tmp_path)).images
  wanted = shades.embed(shades.grey(*np.delete(levels, [3, 10])))
  for block in (1, 3, 9, 100):
    monkeypatch.setattr(folders, 'BLOCK', block)
    found = folders.embed(shades.Encoder(), listing)
    np.testing.assert_array_equal(found.rows.embedding, wanted)
    assert found.rows.id.tolist() == [
      f'{i:02}.png' for i in range(11) if i not in (3, 10)
    ]
    assert [name for name, _ in found.skipped] == ['03.png', '10.png']


@pytest.mark.parametrize(
  ('run_um', 'given_um', 'pixel'),
  [(0.0, None, np.nan), (7.0, None, 7.0), (7.0, 2.5, 2.5)],
)
def test_a_folders_images_are_embedded_with_their_sizes(
  tmp_path, monkeypatch, capsys, run_um, given_um, pixel
):
  sizes = [(4, 9), (6, 5), (3, 3), (8, 2)]
  for i, shape in enumerate(sizes):
    shades.write(tmp_path / f'{i}.png', 50 * i, shape=shape)
  (tmp_path / '1.png').write_bytes(b'')
  seen = []

  class Encoder(shades.Encoder):
    def embed(self, images, sizes=None, *, measures=None):
      assert all(len(x) == len(images) for x in measures.values())
      seen.append(np.stack([measures['height'], measures['width']], axis=1))
      np.testing.assert_array_equal(measures['pixel_um'], pixel)
      return super().embed(images)

  encoder = Encoder()
  encoder.config['data']['pixel_um'] = run_um
  encoder.size_unit = 'µm'
  monkeypatch.setattr(folders, 'BLOCK', 2)
  listing = folder.scan(str(tmp_path)).images
  found = folders.embed(encoder, listing, pixel_um=given_um)
  assert np.concatenate(seen).tolist() == [[4, 9], [3, 3], [8, 2]]
  assert found.measures['height'].tolist() == [4, 3, 8]
  assert found.measures['width'].tolist() == [9, 3, 2]
  np.testing.assert_array_equal(found.measures['pixel_um'], [pixel] * 3)
  warned = 'unknown size; give --pixel_um' in capsys.readouterr().err
  assert warned == np.isnan(pixel)
  with pytest.raises(InputError, match=r'--pixel_um=-1\.0 must be positive'):
    folders.embed(encoder, listing, pixel_um=-1.0)


def test_the_encoder_is_that_of_the_embeddings(tmp_path, monkeypatch):
  monkeypatch.undo()  # the real `folders.encoder`
  from plankton_jax import checkpoints

  asked = []

  def load(workdir, step):
    asked.append(step)
    if step == 9:
      raise InputError(f'{workdir}: no checkpoint of step 9')
    return shades.Encoder()

  monkeypatch.setattr(checkpoints, 'load_encoder', load)
  source = shades.run(tmp_path / 'run')
  folders.encoder(source)  # noted by no step
  path = tmp_path / 'run/embeddings/train.npz'
  outputs.write(path, source.splits['train'], 7)
  folders.encoder(source)
  assert asked == [None, 7]
  outputs.write(path, source.splits['train'], 9)
  with pytest.raises(InputError, match=r'of step 9; run python -m analysis.em'):
    folders.encoder(source)
  with pytest.raises(InputError, match='no train embeddings; run python -m'):
    folders.encoder(source._replace(splits={}))


def test_embeddings_as_parquet(tmp_path):
  rows = shades.rows('x', 3, ('dark', 'light'))
  rows.label[1] = -1
  outputs.write(tmp_path / 'x.parquet', rows, 7)
  found = parquet.read_table(tmp_path / 'x.parquet')
  assert found['id'].to_pylist() == rows.id.tolist()
  assert found['class'].to_pylist() == ['dark', '', 'dark'] + ['light'] * 3
  np.testing.assert_array_equal(
    np.stack(found['embedding'].to_numpy()), rows.embedding
  )
  with pytest.raises(InputError, match=r'x.csv: give a name that ends in .npz'):
    outputs.write(tmp_path / 'x.csv', rows, 7)


def test_splits_are_told_in_the_gallerys_labels(tmp_path):
  source = shades.run(tmp_path / 'run', ('light', 'dark'))
  rows, added, _ = labeller.gallery(source, None)
  assert rows.class_names == ('dark', 'light') and not added.size
  for i in range(len(rows.id)):
    assert rows.id[i].startswith(rows.class_names[rows.label[i]])
  test, _ = labeller.split(source, 'test', ('light',))
  assert set(test.label) == {0} and len(test.id) == 20
  assert all(key.startswith('light/') for key in test.id)
  assert labeller.split(source, 'test', ('other',)) == (None, [])
  other = types.SimpleNamespace(rows=rows._replace(embedding=np.ones((30, 5))))
  other.of = types.SimpleNamespace(name='few')
  with pytest.raises(InputError, match='embed all by one run'):
    labeller.gallery(source, other)


def test_embedding_files_hold_what_is_known_of_each_image(tmp_path):
  rows = inputs.Embeddings(
    np.eye(3, 4, dtype=np.float32),
    np.array([0, 1, -1], np.int32),
    np.array(['x', 'y', 'z']),
    ('a', 'b'),
  )
  measures = {
    'height': np.array([3, 4, 5]),
    'object_area': np.array([1.5, np.nan, 2.0]),
    'pixel_um': np.full(3, np.nan),
    'label': np.array([7.0, 7.0, 7.0]),
  }
  for ending in ('npz', 'parquet'):
    outputs.write(tmp_path / f'x.{ending}', rows, 7, measures)
  with np.load(tmp_path / 'x.npz', allow_pickle=False) as found:
    assert set(found.files) == {
      *('embedding', 'label', 'id', 'class_names', 'step'),
      *('height', 'object_area'),
    }
    np.testing.assert_array_equal(found['label'], rows.label)
    np.testing.assert_array_equal(found['height'], [3, 4, 5])
    np.testing.assert_array_equal(found['object_area'], [1.5, np.nan, 2])
    assert found['height'].dtype == np.float32
  assert inputs.read_embeddings(tmp_path / 'x.npz').id.tolist() == [*'xyz']
  table = parquet.read_table(tmp_path / 'x.parquet')
  assert table.column_names == [
    *('id', 'class', 'embedding', 'height', 'object_area')
  ]
  assert table['object_area'][0].as_py() == 1.5
