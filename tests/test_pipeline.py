"""From a folder, drawings or a TFDS set to decoded images with a split."""

import inspect
import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from configs import base
from plankton_jax.data import accounting, pipeline, records
from plankton_jax.data.drawn import plankton
from plankton_jax.data.pixels import cache, images
from plankton_jax.data.pixels.images import Preprocessing
from plankton_jax.data.sources import folder, objects
from plankton_jax.errors import InputError

FIELDS = {
  'source': 'folder',
  'path': '',
  'name': '',
  'data_dir': '',
  'class_level': 'auto',
  'per_class': 4,
  'labelled_status': ('validated',),
  'image_rank': 'lowest',
  'classes': (),
  'resize': 'pad',
  'size': 8,
  'channels': 1,
  'white': 0,
  'crop': (0, 0, 0, 0),
  'pixel_um': 0.0,
  'unseen_classes': ('d',),
  'fractions': (0.5, 0.25, 0.25),
  'group_by': '',
  'group_regex': '',
  'own_split': False,
  'rare': 'gallery',
  'on_bad_image': 'skip',
}
SUFFIXES = ('png', 'jpg', 'tif', 'bmp')
SETTINGS = Preprocessing(size=8, resize='pad', channels=1)


def pixels(value):
  """A picture of its own size, smooth enough to survive JPEG."""
  rng = np.random.default_rng(value)
  height, width = rng.integers(6, 20, 2)
  y, x = np.mgrid[:height, :width]
  slope = rng.uniform(-5, 5, 2)
  return np.clip(120 + slope[0] * y + slope[1] * x, 0, 255).astype(np.uint8)


@pytest.fixture
def root(tmp_path):
  """Classes a to d, eight images each, in every format and mode."""
  for i in range(32):
    file = tmp_path / 'images' / 'abcd'[i // 8] / f'{i:02}.{SUFFIXES[i % 4]}'
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels(i))
    if i % 8 == 4:
      image = image.convert('RGBA')
    elif i % 8 == 6:
      image = Image.fromarray(pixels(i).astype(np.uint16) * 257)
    elif i % 8 == 7:
      image = image.convert('P')
    image.save(file)
  return tmp_path / 'images'


def loader(tmp_path):
  """pipeline.load with caches and workdirs below tmp_path."""

  def load(workdir='work', seed=0, **changes):
    fields = {**FIELDS, 'path': str(tmp_path / 'images'), **changes}
    return pipeline.load(
      tmp_path / workdir,
      seed=seed,
      writes=True,
      cache_dir=str(tmp_path / 'cache'),
      **fields,
    )

  return load


@pytest.fixture
def load(tmp_path):
  return loader(tmp_path)


def ids(data, name):
  return data.ids[data.splits[name]].tolist()


def test_folder_of_every_format(root, load):
  data = load(unseen_classes=('b',))
  assert data.class_names == ('a', 'c', 'd', 'b') and data.num_seen == 3
  assert data.images.shape == (32, 8, 8, 1) and data.images.dtype == np.uint8
  assert data.labels.dtype == np.int32
  for row, name in enumerate(data.ids.tolist()):
    assert data.class_names[data.labels[row]] == name[0]
    original = data.originals.read(name)
    expected = pixels(int(name[2:4])).astype(int)
    lossy = name.endswith('jpg')
    np.testing.assert_allclose(original, expected, atol=8 if lossy else 0)
    fitted = images.fit(original, size=8, resize='pad', channels=1)
    np.testing.assert_array_equal(data.images[row], fitted)
  assert data.splits['unseen'].tolist() == list(range(8, 16))
  sizes = [len(data.splits[name]) for name in ('train', 'val', 'test')]
  assert sizes == [12, 6, 6]
  with pytest.raises(KeyError):
    data.originals.read('nowhere.png')


def test_second_load_decodes_nothing(root, load, monkeypatch):
  first = load()
  for module, name in ((records, 'write'), (cache, 'build')):
    monkeypatch.setattr(module, name, None)
  again = load()
  assert again.fingerprint == first.fingerprint
  np.testing.assert_array_equal(again.images, first.images)
  for name, rows in first.splits.items():
    np.testing.assert_array_equal(again.splits[name], rows)


def test_settings_have_caches_of_their_own(root, load, tmp_path, monkeypatch):
  load()
  monkeypatch.setattr(records, 'write', None)  # Records are shared.
  assert load(size=12).images.shape == (32, 12, 12, 1)
  assert load(channels=3).images.shape == (32, 8, 8, 3)
  assert not np.array_equal(load(resize='stretch').images, load().images)
  assert len(list((tmp_path / 'cache/decoded').iterdir())) == 4


def test_changed_data_never_meets_an_old_cache(root, load, tmp_path):
  first = load()
  Image.fromarray(pixels(99)).save(root / 'a/00.png')
  with pytest.raises(InputError, match='the same names have other contents'):
    load()
  second = load('other')
  assert second.fingerprint != first.fingerprint
  changed = (second.images != first.images).any((1, 2, 3))
  assert np.flatnonzero(changed).tolist() == [0]
  (root / 'a/00.png').unlink()
  with pytest.raises(InputError, match=r'1 images are missing \(a/00.png\)'):
    load()
  shutil.copy(root / 'a/04.png', root / 'a/new.png')
  with pytest.raises(InputError, match=r'missing .*1 images are new \(a/new'):
    load()


def test_bad_images_are_skipped_and_listed(root, load, tmp_path, monkeypatch):
  (root / 'a/bad.png').write_bytes(b'')
  (root / 'b/cut.jpg').write_bytes((root / 'b/09.jpg').read_bytes()[:-150])
  (root / 'c/text.jpg').write_text('station,depth\n')
  lines = []
  monkeypatch.setattr(
    accounting.log, 'warning', lambda m, *a: lines.append(m % a)
  )
  data = load()
  listed = (tmp_path / 'work/skipped.txt').read_text().splitlines()
  listed = dict(line.split('\t') for line in listed)
  assert listed.keys() == {'a/bad.png', 'b/cut.jpg', 'c/text.jpg'}
  assert listed['a/bad.png'] == 'empty file'
  assert listed['c/text.jpg'] == 'not a PNG, JPEG, TIFF, BMP, GIF or WebP image'
  assert not set(listed) & set(data.ids.tolist()) and len(data.ids) == 32
  assert len(lines) == 1 and all(name in lines[0] for name in listed)
  with pytest.raises(InputError, match=r"^a/bad.png: empty file; .*='skip'$"):
    load('other', on_bad_image='raise')
  for name in listed:
    (root / name).unlink()
  (tmp_path / 'work/split.json').unlink()
  load(on_bad_image='raise')
  assert not (tmp_path / 'work/skipped.txt').exists()


def test_duplicates_across_seen_and_unseen(root, load, tmp_path):
  shutil.copy(root / 'd/24.png', root / 'a/copy.png')
  Image.fromarray(pixels(0)).convert('RGB').save(root / 'b/same.bmp')
  for seed in range(4):
    data = load(f'work{seed}', seed=seed)
    kept = [name for rows in data.splits for name in ids(data, rows)]
    assert len(kept) == 33 and 'a/copy.png' not in kept
    side = {name: s for s in data.splits for name in ids(data, s)}
    assert side['a/00.png'] == side['b/same.bmp']
    skipped = (tmp_path / f'work{seed}/skipped.txt').read_text()
    assert skipped == 'a/copy.png\tsame pixels as an image of an unseen class\n'
  assert load('work0', seed=0).splits.keys() == data.splits.keys()


def test_groups_share_a_side(root, load):
  data = load(group_regex=r'(\d)\.')  # By the last digit, across classes.
  side = {name: s for s in data.splits for name in ids(data, s)}
  for digit in '0123456789':
    group = {s for n, s in side.items() if n[3] == digit and s != 'unseen'}
    assert len(group) == 1


def test_the_seed_decides(root, load):
  first, again = load('w1', seed=3), load('w2', seed=3)
  other = load('w3', seed=4)
  assert ids(first, 'train') == ids(again, 'train') != ids(other, 'train')
  with pytest.raises(InputError, match='data seed = 3, not 4'):
    load('w1', seed=4)
  with pytest.raises(InputError, match='data group_regex = , not x'):
    load('w1', seed=3, group_regex='x')
  with pytest.raises(
    InputError, match=r"unseen_classes = \['d'\], not \['a'\]"
  ):
    load('w1', seed=3, unseen_classes=('a',))
  with pytest.raises(
    InputError, match=r'data fractions = \[0.5, 0.25, 0.25\],'
  ):
    load('w1', seed=3, fractions=(0.5, 0.3, 0.2))
  with pytest.raises(InputError, match='data rare = gallery, not drop'):
    load('w1', seed=3, rare='drop')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'source': 'web'}, "data.source='web' must be one of 'synthetic', "),
    ({'path': ''}, 'data.path is empty'),
    ({'path': '/nowhere'}, '/nowhere is not a folder'),
    ({'source': 'tfds', 'own_split': True}, "own_split needs data.source='f"),
    ({'fractions': (0.5, 0.5)}, 'data.fractions'),
    ({'group_regex': '['}, 'data.group_regex'),
    ({'unseen_classes': ('e',)}, "no class 'e'"),
    ({'unseen_classes': ('a', 'b', 'c')}, '1 of 4 classes'),
    ({'source': 'synthetic', 'per_class': 0}, 'data.per_class'),
    ({'source': 'tfds'}, 'data.name is empty'),
  ],
)
def test_bad_fields_are_one_line(root, load, tmp_path, changes, message):
  with pytest.raises(InputError, match=message) as caught:
    load(**changes)
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'cache').exists()  # Found before any work.


def test_one_text_file_renamed_and_too_few_images(root, load, tmp_path):
  for name in '012':
    (root / f'a/0{name}.png').unlink(missing_ok=True)
  for file in (root / 'a').glob('0[2-7]*'):
    file.unlink()
  data = load()
  assert data.class_names == ('b', 'c', 'd', 'a') and data.num_seen == 2
  assert [data.class_names[n] for n in data.labels[data.splits['rare']]] == [
    'a'
  ]
  for letter in 'bc':
    for file in sorted((root / letter).iterdir())[2:]:
      file.unlink()
  with pytest.raises(InputError, match=r"class 'a' has too few images .*\(1\)"):
    load('none')
  lonely = tmp_path / 'lonely'
  (lonely / 'x').mkdir(parents=True)
  (lonely / 'x/text.jpg').write_text('not an image')
  with pytest.raises(InputError, match=r'only one class \(x\)'):
    load(path=str(lonely))
  (lonely / 'y').mkdir()
  (lonely / 'y/text.jpg').write_text('not an image')
  with pytest.raises(InputError, match=r'none of the 2 images in .*x/text.jpg'):
    load(path=str(lonely), unseen_classes=0)


@pytest.mark.parametrize('rare', ['gallery', 'other', 'drop'])
def test_every_object_is_accounted_for(root, load, tmp_path, rare, caplog):
  for file in sorted((root / 'a').iterdir())[3:]:
    file.unlink()
  for file in sorted((root / 'b').iterdir())[2:]:
    file.unlink()
  for i in range(40, 52):
    (root / 'e').mkdir(exist_ok=True)
    Image.fromarray(pixels(i)).save(root / f'e/{i}.png')
  (root / 'c/bad.png').write_bytes(b'')
  shutil.copy(root / 'd/24.png', root / 'e/copy.png')
  caplog.set_level(logging.INFO)
  data = load(rare=rare)
  found = json.loads((tmp_path / 'work/accounting.json').read_text())
  files = [path for path in root.rglob('*') if path.is_file()]
  kept, left = sum(found['kept'].values()), sum(found['left_out'].values())
  assert found['read'] == kept + left == len(files) == 35
  few = {'of a class with too few images': 5} if rare == 'drop' else {}
  assert found['left_out'] == {
    'empty file': 1,
    'same pixels as an image of an unseen class': 1,
    **few,
  }
  assert found['kept'] == {name: len(n) for name, n in data.splits.items()}
  listed = (tmp_path / 'work/skipped.txt').read_text().splitlines()
  assert len(listed) == left
  names = {
    'gallery': ('c', 'e', 'd', 'a', 'b'),
    'other': ('c', 'e', 'other', 'd'),
    'drop': ('c', 'e', 'd'),
  }
  assert data.class_names == names[rare]
  trained = np.unique(data.labels[data.splits['train']])
  assert trained.tolist() == [*range(data.num_seen)]
  for name, rows in data.splits.items():
    for row in rows:
      letter = str(data.ids[row])[0]
      if rare == 'other' and letter in 'ab':
        letter = 'other'
      assert data.class_names[data.labels[row]] == letter, name
  table = caplog.text.partition('split.json:')[2]
  assert f'35 read = {kept} kept + {left} left out' in table
  assert 'a (3), b (2)' in table and f"data.rare='{rare}'" in table
  # A second run reads the same from the split that it finds.
  again = load(rare=rare)
  assert again.class_names == data.class_names
  np.testing.assert_array_equal(again.labels, data.labels)
  assert json.loads((tmp_path / 'work/accounting.json').read_text()) == found


def test_classes_not_chosen_are_accounted_for(root, load, tmp_path):
  load(classes=('a', 'b', 'd'))
  found = json.loads((tmp_path / 'work/accounting.json').read_text())
  assert found['left_out'] == {'of a class that data.classes does not name': 8}
  assert found['read'] == 32 == 8 + sum(found['kept'].values())


def test_a_folder_s_own_split(load, tmp_path, caplog):
  number = 0
  sizes = {'train': (5, 4, 3, 1), 'val': (2, 1, 1, 1), 'test': (3, 2, 1, 0)}
  for side, counts in sizes.items():
    for letter, count in zip('abcd', counts, strict=True):
      for i in range(count):
        file = tmp_path / 'images' / side / letter / f'{i}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(file)
        number += 1
  data = load(unseen_classes=('c',), own_split=True)
  assert data.class_names == ('a', 'b', 'c', 'd') and data.num_seen == 2
  for side, counts in sizes.items():
    assert all(name.startswith(side) for name in ids(data, side))
    assert len(data.splits[side]) == sum(counts[:2])
  assert len(data.splits['unseen']) == 5
  assert ids(data, 'rare') == ['train/d/0.png', 'val/d/0.png']
  found = json.loads((tmp_path / 'work/accounting.json').read_text())
  assert found['read'] == sum(found['kept'].values()) == number
  assert 'too good' not in caplog.text
  other = load('other', unseen_classes=('c',))
  assert other.class_names == ('a', 'b', 'c', 'd')
  assert {i.split('/')[0] for i in ids(other, 'train')} == {*sizes}
  with pytest.raises(InputError, match='own_split = True, not False'):
    load(unseen_classes=('c',))
  with pytest.raises(InputError, match=r"own_split needs data.source='folder'"):
    load('other', own_split=True, class_level='path')
  for side, letter in (('test', 'a'), ('val', 'b'), ('train', 'b')):
    target = tmp_path / f'images/{side}/{letter}/copy.png'
    shutil.copy(tmp_path / f'images/train/{letter}/0.png', target)
  load('copies', unseen_classes=('c',), own_split=True)
  assert '2 images of val and test are in train, too' in caplog.text
  shutil.rmtree(tmp_path / 'images/val')
  with pytest.raises(InputError, match="there is no folder 'val'"):
    load('third', unseen_classes=(), own_split=True)


def test_16_bit_images_share_the_white_of_their_set(load, tmp_path, caplog):
  """12-bit images: as TIFF, as 16-bit PNG and dark ones, all by 4095."""
  rng = np.random.default_rng(0)
  given = {}
  for i in range(24):
    top = 4095 if i % 3 else 900
    deep = rng.integers(0, top + 1, (8, 8)).astype(np.uint16)
    name = f'{"ab"[i // 12]}/{i:02}.{("tif", "png")[i % 2]}'
    (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(deep).save(tmp_path / 'images' / name)
    given[name] = deep
  caplog.set_level(logging.INFO)
  data = load(unseen_classes=())
  assert '16-bit images: 4095 becomes white' in caplog.text
  listing = folder.scan(str(tmp_path / 'images')).images
  again = objects.decoded(listing, SETTINGS, desc='test')
  for row, one in enumerate(again):
    expected = np.floor(given[data.ids[row]] / 4095 * 255 + 0.5)
    np.testing.assert_array_equal(data.images[row, ..., 0], expected)
    np.testing.assert_array_equal(one.pixels[..., 0], expected)
    original = data.originals.read(str(data.ids[row]))
    np.testing.assert_array_equal(original, expected)
  assert data.white == 4095
  # Given the white that was found, nothing is rebuilt.
  same = load('work', unseen_classes=(), white=data.white)
  assert same.images.filename == data.images.filename and same.white == 4095
  # Images embedded later that hold no value as high are scaled alike.
  for name in data.ids.tolist():
    if given[name].max() > 900:
      (tmp_path / 'images' / name).unlink()
  listing = folder.scan(str(tmp_path / 'images')).images
  settings = SETTINGS._replace(white=data.white)
  dark = objects.decoded(listing, settings, desc='test')
  row = {name: k for k, name in enumerate(data.ids.tolist())}
  for name, one in zip(listing.ids, dark, strict=True):
    np.testing.assert_array_equal(one.pixels, data.images[row[name]])
  for name, deep in given.items():
    Image.fromarray(deep).save(tmp_path / 'images' / name)
  old = load('old', unseen_classes=(), white=65535)
  expected = np.floor(given['a/00.tif'] / 65535 * 255 + 0.5)
  np.testing.assert_array_equal(old.images[0, ..., 0], expected)


def test_files_of_other_kinds_are_counted(root, load, tmp_path):
  for name in ('a/x.heic', 'a/y.HEIC', 'b/notes.txt', 'README'):
    (root / name).write_text('x')
  load()
  found = json.loads((tmp_path / 'work/accounting.json').read_text())
  assert found['left_out'] == {
    'file of .heic': 2,
    'file of .txt': 1,
    'file of no ending': 1,
  }
  assert found['read'] == 36 == 4 + sum(found['kept'].values())


@pytest.mark.parametrize('bar', [0, 31])
def test_scale_bars_are_warned_of_and_cropped(load, tmp_path, caplog, bar):
  caption = np.random.default_rng(99).integers(0, 2, (31, 40), np.uint8) * 255
  plain = {}
  for i in range(40):
    height, width = np.random.default_rng(i).integers(40, 80, 2)
    pixels = np.full((height, width), 255, np.uint8)
    pixels[5:35, 3:30] = np.random.default_rng(i).integers(0, 200, (30, 27))
    name = f'{"ab"[i % 2]}/{i:02}.png'
    plain[name] = pixels
    if bar and i % 10:
      foot = np.full((31, width), 255, np.uint8)
      foot[:, : min(width, 40)] = caption[:, :width]
      pixels = np.concatenate([pixels, foot])
    (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(tmp_path / 'images' / name)
  load(unseen_classes=())
  assert ('data.crop=(0, 0, 31, 0)' in caplog.text) == bool(bar)
  if not bar:
    return
  caplog.clear()
  data = load('cropped', unseen_classes=(), crop=(0, 0, 31, 0))
  assert 'data.crop' not in caplog.text
  name = 'b/01.png'
  np.testing.assert_array_equal(data.originals.read(name), plain[name])
  listing = folder.scan(str(tmp_path / 'images')).images
  settings = SETTINGS._replace(crop=(0, 0, 31, 0))
  again = objects.decoded(listing, settings, desc='test')
  for row, one in enumerate(again):
    np.testing.assert_array_equal(one.pixels, data.images[row])
    # What was cut off is no part of the object.
    size = data.originals.read(str(data.ids[row])).shape
    assert (one.height, one.width) == size
    assert (data.measures['height'][row], data.measures['width'][row]) == size


def test_images_cropped_away_are_named(root, load, tmp_path):
  Image.fromarray(pixels(60)[:3]).save(root / 'a/flat.png')
  load(crop=(1, 0, 2, 0))
  listed = (tmp_path / 'work/skipped.txt').read_text()
  assert listed.startswith('a/flat.png\t') and 'data.crop leaves none' in listed


def test_unseen_classes_are_drawn_from_those_with_enough_images(
  root, load, tmp_path
):
  for letter in 'ac':
    for file in sorted((root / letter).iterdir())[3:]:
      file.unlink()
  for file in sorted((root / 'd').iterdir())[4:]:  # four are enough
    file.unlink()
  (root / 'e').mkdir()
  for i in range(40, 48):
    Image.fromarray(pixels(i)).save(root / f'e/{i}.png')
  drawn = set()
  for seed in range(6):
    data = load(f'work{seed}', unseen_classes=1, seed=seed)
    unseen = {i[0] for i in ids(data, 'unseen')}
    assert len(unseen) == 1
    drawn |= unseen
  assert drawn == set('bde')
  # A split that was drawn otherwise before is kept.
  file = tmp_path / 'old/split.json'
  load('old', unseen_classes=('a',))
  assert {i[0] for i in ids(load('old', unseen_classes=1), 'unseen')} == {'a'}
  assert json.loads(file.read_text())['settings']['unseen_classes'] == ['a']
  with pytest.raises(InputError, match='unseen_classes = '):
    load('old', unseen_classes=2)


def test_two_classes_to_train_on_are_left(root, load, caplog):
  for letter in 'acd':
    for file in sorted((root / letter).iterdir())[2:]:
      file.unlink()
  (root / 'e').mkdir()
  for i in range(40, 48):
    Image.fromarray(pixels(i)).save(root / f'e/{i}.png')
  data = load(unseen_classes=2)
  assert data.class_names == ('b', 'e', 'a', 'c', 'd') and data.num_seen == 2
  assert not len(data.splits['unseen'])
  assert {i[0] for i in ids(data, 'rare')} == set('acd')
  assert 'only 0 can be held out' in caplog.text
  assert load(unseen_classes=2).class_names == data.class_names
  assert load(unseen_classes=9).class_names == data.class_names


def test_original_sizes_are_kept(root, load):
  Image.fromarray(pixels(0)).rotate(90, expand=True).save(root / 'a/t.png')
  (root / 'a/bad.png').write_bytes(b'')
  data = load(crop=(1, 0, 2, 0), pixel_um=3.5)
  assert data.measures.keys() == {'height', 'width', 'pixel_um'}
  for row, id in enumerate(data.ids.tolist()):
    with Image.open(root / id) as image:
      assert data.measures['width'][row] == image.width
      assert data.measures['height'][row] == image.height - 3
  assert (data.measures['pixel_um'] == 3.5).all()
  assert all(values.dtype == np.float32 for values in data.measures.values())
  assert load('other').measures.keys() == {'height', 'width'}


def test_drawn_images(load, tmp_path):
  data = load(source='synthetic', unseen_classes=3, seed=2)
  assert sorted(data.class_names) == list(plankton.CLASS_NAMES)
  assert data.num_seen == len(plankton.CLASS_NAMES) - 3
  assert len(data.images) == 4 * len(plankton.CLASS_NAMES)
  assert data.white == 0  # none is of 16 bits
  name = str(data.ids[5])
  drawn = plankton.draw(name.split('/')[0], int(name[-6:]), seed=2)
  np.testing.assert_array_equal(data.originals.read(name), drawn)
  other = load('other', source='synthetic', unseen_classes=3, seed=3)
  assert other.fingerprint != data.fingerprint


def test_a_prepared_tfds_set(root, load, tmp_path):
  source = load()
  written = next((tmp_path / 'cache/records').iterdir())
  data = load(
    'tfds',
    source='tfds',
    name='plankton_images',
    data_dir=str(written),
  )
  assert data.class_names == source.class_names
  np.testing.assert_array_equal(data.images, source.images)
  np.testing.assert_array_equal(data.ids, source.ids)
  np.testing.assert_array_equal(data.splits['val'], source.splits['val'])
  name = str(data.ids[3])
  np.testing.assert_array_equal(
    data.originals.read(name), source.originals.read(name)
  )


def test_a_cache_dir_that_cannot_be(root, load, tmp_path):
  (tmp_path / 'cache').write_text('a file')
  with pytest.raises(InputError, match=r'data.cache_dir: .*cache: File exists'):
    load()


def test_chosen_classes_alone(root, load, monkeypatch):
  everything = load()
  data = load('some', classes=('d', 'b', 'a'))
  assert data.class_names == ('a', 'b', 'd') and data.num_seen == 2
  kept = [i for i, id in enumerate(everything.ids) if id[0] in 'abd']
  assert data.ids.tolist() == everything.ids[kept].tolist()
  assert (data.images == everything.images[kept]).all()
  for id, label in zip(data.ids, data.labels, strict=True):
    assert data.class_names[label] == id[0]
    original = data.originals.read(str(id))
    assert (original == everything.originals.read(str(id))).all()
  assert data.fingerprint != everything.fingerprint
  assert load('others', classes=('a', 'c', 'd')).fingerprint != data.fingerprint


def test_no_field_has_a_default():
  parameters = inspect.signature(pipeline.load).parameters.values()
  assert all(p.default is p.empty for p in parameters)
  assert {p.name for p in parameters} == {
    'workdir', 'seed', 'writes', 'cache_dir', *FIELDS
  }  # fmt: skip
  assert set(base.get_config().data) == {'cache_dir', *FIELDS}


def test_import_is_light():
  program = """
import sys
import plankton_jax.data.ecotaxa.source
import plankton_jax.data.pipeline
heavy = {'tensorflow_datasets', 'jax', 'scipy', 'tensorflow', 'openpyxl'}
assert heavy.isdisjoint(sys.modules), heavy & {*sys.modules}
"""
  subprocess.run([sys.executable, '-c', program], check=True, timeout=60)
