"""Listing, naming and hashing a tree of image files."""

import errno
import io
import os
import shutil

import numpy as np
import packing
import pytest
from PIL import Image

from plankton_jax.data import select
from plankton_jax.data.pixels.images import Preprocessing
from plankton_jax.data.sources import (
  contents,
  folder,
  ifcb,
  levels,
  objects,
)
from plankton_jax.data.sources import files as files_of
from plankton_jax.errors import InputError

SETTINGS = Preprocessing(size=8, resize='pad', channels=1)


def write(path, value=0, shape=(6, 8)):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(value).integers(0, 256, shape, np.uint8)
  Image.fromarray(pixels).save(path)
  return path


def test_classes_are_relative_paths_and_clutter_is_ignored(tmp_path):
  for name in (
    'Copepoda/Calanus/b.png',
    'Copepoda/Oithona/a b.JPG',
    'Copepoda/top.tiff',
    'Ünïcode/ж 1.bmp',
  ):
    write(tmp_path / name)
  for name in (
    'taxa.csv',
    'Copepoda/Thumbs.db',
    'Copepoda/.DS_Store',
    'Copepoda/._top.png',
    '.hidden/x.png',
    '__MACOSX/y.png',
  ):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b'clutter')
  images = folder.scan_classes(str(tmp_path)).images
  assert images.ids == (
    'Copepoda/Calanus/b.png',
    'Copepoda/Oithona/a b.JPG',
    'Copepoda/top.tiff',
    'Ünïcode/ж 1.bmp',
  )
  assert images.class_names == (
    'Copepoda',
    'Copepoda/Calanus',
    'Copepoda/Oithona',
    'Ünïcode',
  )
  np.testing.assert_array_equal(images.labels, [1, 2, 0, 3])


def test_links_are_followed_but_not_in_circles(tmp_path):
  root = tmp_path / 'root'
  write(root / 'a/x.png')
  write(tmp_path / 'elsewhere/y.png')
  (root / 'a/up').symlink_to(root)
  (root / 'b').symlink_to(tmp_path / 'elsewhere')
  (root / 'a/self').symlink_to(root / 'a/self')
  (root / 'a/self.png').symlink_to(root / 'a/self.png')
  (root / 'a/gone.png').symlink_to(root / 'nowhere.png')
  os.mkfifo(root / 'a/pipe.png')  # Opening it would wait for ever.
  images = folder.scan_classes(str(root)).images
  assert images.ids == ('a/gone.png', 'a/self.png', 'a/x.png', 'b/y.png')
  examples = list(folder.source(str(root)).examples())
  assert [e.image is None for e in examples] == [True, True, False, False]
  assert examples[0].reason == 'No such file or directory'


def test_a_folder_with_two_names_is_two_classes_but_walked_once(tmp_path):
  write(tmp_path / 'a/x.png')
  (tmp_path / 'b').symlink_to(tmp_path / 'a')
  images = folder.scan(str(tmp_path)).images
  assert images.ids == ('a/x.png', 'b/x.png')
  assert [*files_of.walk(tmp_path)] == [tmp_path / 'a/x.png']


def test_names_that_are_not_utf8_are_skipped(tmp_path):
  write(tmp_path / 'a/x.png')
  source = os.fsencode(tmp_path / 'a/x.png')
  try:
    os.link(source, os.fsencode(tmp_path) + b'/a/\xff.png')
  except OSError:
    pytest.skip('this file system takes UTF-8 names alone')
  images = folder.scan(str(tmp_path)).images
  assert images.ids == ('a/x.png',)
  assert images.skipped == (('a/\\xff.png', 'the file name is not UTF-8'),)


def test_what_cannot_be_a_data_set_is_named(tmp_path):
  with pytest.raises(InputError, match=r'data.path is empty'):
    folder.scan('')
  with pytest.raises(InputError, match='nowhere is not a folder'):
    folder.scan(str(tmp_path / 'nowhere'))
  (tmp_path / 'notes.txt').write_text('none')
  with pytest.raises(InputError, match=r'holds no image \(.bmp, '):
    folder.scan(str(tmp_path))
  write(tmp_path / 'a/x.png')
  packing.tree(tmp_path, {'b/c/x.zip': b''})
  with pytest.raises(InputError, match=r'/b/c holds no image, .*: unpack them'):
    folder.scan_classes(str(tmp_path))
  write(tmp_path / 'loose.png')
  with pytest.raises(InputError, match=r'loose.png lies in no class folder'):
    folder.scan_classes(str(tmp_path))


@pytest.mark.parametrize(
  ('files', 'message'),
  [
    (
      ('x.HEIC', 'y.heic'),
      r'but other files \(2 of .heic\): convert them to PNG',
    ),
    (('a.7z', 'b.rar'), r'\(1 of .7z, 1 of .rar\): unpack them$'),
    (('a.zip', 'b.7z'), r'; a.zip: .* is not a zip archive, or is cut off'),
    (('odd.adc', 'odd.roi'), r'1 of .roi\): give IFCB bins, under their own'),
    (('notes',), r'but other files \(1 of no ending\)$'),
  ],
)
def test_files_that_are_no_images_are_named_with_the_remedy(
  tmp_path, files, message
):
  packing.tree(tmp_path, dict.fromkeys(files, b''))
  with pytest.raises(InputError, match=message):
    folder.scan(str(tmp_path))


def test_an_empty_class_says_what_its_folder_holds(tmp_path):
  write(tmp_path / 'a/x.png')
  packing.tree(tmp_path, {'b/x.heic': b'', 'b/c/y.heic': b''})
  with pytest.raises(InputError, match=r'/b/c holds.* \(1 of .heic\): convert'):
    folder.scan_classes(str(tmp_path))


def test_folders_that_hold_nothing_of_use_are_told_and_are_no_class(
  tmp_path, caplog
):
  write(tmp_path / 'a/x.png')
  (tmp_path / 'b/c').mkdir(parents=True)
  packing.tree(
    tmp_path, {'d/Thumbs.db': b'', 'd/desktop.ini': b'', 'e/notes.txt': b''}
  )
  listing = folder.scan_classes(str(tmp_path))
  assert listing.images.class_names == ('a',) and listing.others == {'.txt': 1}
  assert '3 folders hold no image, and are no class: b/c, d, e' in caplog.text


def test_hidden_folders_with_images_are_doubted(tmp_path):
  for name in ('a/x.png', '.5mm/deep/y.png', 'a/.old/z.png'):
    write(tmp_path / name)
  packing.tree(tmp_path, {'.git/notes': b''})
  listing = folder.scan_classes(str(tmp_path))
  assert listing.images.ids == ('a/x.png',)
  assert listing.doubts == (
    'hidden folders and figures of runs are passed over: .5mm, a/.old',
  )


def test_figures_of_a_run_are_no_images_of_its_folder(tmp_path, caplog):
  for name in ('a/x.png', 'runs/1/analysis/map.png', 'analysis/y.png'):
    write(tmp_path / name)
  packing.tree(tmp_path / 'runs/1', {'config.json': b'', 'split.json': b''})
  listing = folder.scan_classes(str(tmp_path))
  assert listing.images.ids == ('a/x.png', 'analysis/y.png')
  passed = 'hidden folders and figures of runs are passed over'
  assert listing.doubts == (f'{passed}: runs/1/analysis',)
  assert folder.objects(str(tmp_path)).ids == listing.images.ids
  assert f'{tmp_path}: {listing.doubts[0]}' in caplog.text
  assert len([*files_of.walk(tmp_path)]) == 4
  with pytest.raises(InputError, match=rf'holds no image .*; {passed}: ana'):
    folder.scan(str(tmp_path / 'runs/1'))


def test_images_without_an_ending_are_known_by_their_first_bytes(tmp_path):
  files = {'a/1': packing.picture(1), 'a/2.': packing.picture(2), 'a/3': b'x'}
  listing = folder.scan(str(packing.tree(tmp_path, files)))
  assert listing.images.ids == ('a/1', 'a/2.')
  assert listing.others == {'no ending': 1}


def test_sets_of_other_formats_are_told_what_to_do(tmp_path):
  packing.tree(
    tmp_path, {'z/.zgroup': b'', 'z/images/0.0': b'', 'list.csv': b'x.png,a'}
  )
  with pytest.raises(InputError, match=r'1 of .zarr\): export their images as'):
    folder.scan(str(tmp_path / 'z'))
  with pytest.raises(InputError, match='not a folder: if it lists images, '):
    folder.scan(str(tmp_path / 'list.csv'))
  write(tmp_path / 'x.png')
  with pytest.raises(InputError, match=r'x.png lies .*; or, of a list of imag'):
    folder.scan_classes(str(tmp_path))


def test_folders_too_deep_are_one_short_line(tmp_path, monkeypatch):
  def too_long(*_):
    raise OSError(errno.ENAMETOOLONG, 'File name too long')

  write(tmp_path / 'a/x.png')
  monkeypatch.setattr(os, 'scandir', too_long)
  with pytest.raises(InputError, match=r'File name too long$'):
    folder.scan(str(tmp_path))


def test_splits_without_classes_are_no_classes(tmp_path):
  for name in ('Train/1.png', 'test/2.png'):
    write(tmp_path / name)
  with pytest.raises(InputError, match='Train and test themselves: put them'):
    folder.scan(str(tmp_path), class_level='auto')
  assert folder.scan(str(tmp_path)).images.class_names == ('Train', 'test')


@pytest.mark.parametrize('path', ['~no_such_user/x', 'a' * 5000])
def test_places_that_cannot_be_are_one_line(path):
  for read in (folder.scan, select.objects, ifcb.objects):
    with pytest.raises(InputError, match=r'^data.path: ') as error:
      read(path)
    assert len(str(error.value)) < 200


def test_16_bit_images_are_found_whatever_they_are_called(tmp_path):
  deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60
  for name, form in (('x.jpg', 'PNG'), ('y.bmp', 'TIFF')):
    stream = io.BytesIO()
    Image.fromarray(deep).save(stream, form)
    (tmp_path / name).write_bytes(stream.getvalue())
  images = folder.scan(str(tmp_path)).images
  assert objects.find_white(images) == 4095
  decoded = objects.decoded(images, SETTINGS, desc='test')
  for one in decoded:
    expected = np.floor(deep / 4095 * 255 + 0.5)
    np.testing.assert_array_equal(one.pixels[..., 0], expected)


def test_fingerprint_follows_names_and_contents(tmp_path):
  def fingerprint():
    return folder.fingerprint(folder.scan(str(tmp_path)).images)

  write(tmp_path / 'a/x.png', 1)
  write(tmp_path / 'b/y.png', 2)
  seen = [fingerprint()]
  assert fingerprint() == seen[0]
  write(tmp_path / 'b/y.png', 3)
  seen.append(fingerprint())
  (tmp_path / 'b/y.png').rename(tmp_path / 'b/z.png')
  seen.append(fingerprint())
  write(tmp_path / 'c/w.png', 4)
  seen.append(fingerprint())
  (tmp_path / 'c').rename(tmp_path / 'd')
  seen.append(fingerprint())
  assert len(set(seen)) == 5


def test_only_changed_files_are_read_again(tmp_path, monkeypatch):
  root, caches = tmp_path / 'images', tmp_path / 'caches'
  for value, name in enumerate(('a/x.png', 'b/y.png', 'b/z.png')):
    write(root / name, value)
    os.utime(root / name, (1e9, 1e9))
  (root / 'b/gone.png').symlink_to('nowhere')
  read = []

  def digest(path):
    read.append(path.name)
    return files_of.digest(path)

  monkeypatch.setattr(contents, 'digest', digest)

  def fingerprint(root=root):
    read.clear()
    found = folder.scan(str(root)).images
    kept = folder.fingerprint(found, caches)
    again = sorted(read)
    assert kept == folder.fingerprint(found)  # of all that is there now
    return again

  assert fingerprint() == ['gone.png', 'x.png', 'y.png', 'z.png']
  assert fingerprint() == ['gone.png']
  write(root / 'b/y.png', 7)  # at a time that may not have passed yet
  assert fingerprint() == fingerprint() == ['gone.png', 'y.png']
  os.utime(root / 'b/y.png', (1e9, 1e9 + 1))
  assert fingerprint() == ['gone.png', 'y.png']
  (root / 'b/z.png').write_bytes(b'of another size')
  os.utime(root / 'b/z.png', (1e9, 1e9))
  assert fingerprint() == ['gone.png', 'z.png']
  (root / 'a/x.png').rename(root / 'a/w.png')
  write(root / 'c/v.png', 8)
  os.utime(root / 'c/v.png', (1e9, 1e9))
  assert fingerprint() == ['gone.png', 'v.png', 'w.png']
  assert fingerprint() == ['gone.png']
  (kept,) = (caches / 'contents').iterdir()
  like = tmp_path / 'other/c/v.png'  # another image of its name, size and time
  packing.tree(tmp_path, {like: (root / 'c/v.png').read_bytes()[::-1]})
  os.utime(like, (1e9, 1e9))
  assert fingerprint(tmp_path / 'other') == ['v.png']
  kept.write_bytes(kept.read_bytes()[:200])  # torn
  assert len(fingerprint()) == 5
  shutil.rmtree(kept.parent)
  kept.parent.write_text('no folder')  # nothing can be kept there
  assert len(fingerprint()) == 5


def test_decoded_gives_pixels_or_the_reason_in_order(tmp_path):
  for value, name in enumerate(('c.png', 'a.png', 'z/b.png')):
    write(tmp_path / name, value, shape=(8, 8))
  (tmp_path / 'bad.png').write_bytes(b'\x89PNG')
  (tmp_path / 'gone.png').symlink_to('nowhere')
  images = folder.scan(str(tmp_path)).images
  assert images.ids == ('a.png', 'bad.png', 'c.png', 'gone.png', 'z/b.png')
  assert images.labels.tolist() == [-1, -1, -1, -1, 0]
  got = list(objects.decoded(images, SETTINGS, desc='decode'))
  assert got.pop(3) == 'No such file or directory'
  assert got.pop(1) == 'not a PNG, JPEG, TIFF, BMP, GIF or WebP image'
  for one, value in zip(got, (1, 0, 2), strict=True):
    expected = np.random.default_rng(value).integers(0, 256, (8, 8), np.uint8)
    np.testing.assert_array_equal(one.pixels[..., 0], expected)
    assert (one.height, one.width) == expected.shape


def tree(root, tops, classes=('ant', 'bee'), count=6):
  """`count` images of each class below each folder on top."""
  number = 0
  for top in tops:
    for name in classes:
      for i in range(count):
        write(root / top / name / f'{i}.png', number)
        number += 1
  return str(root)


@pytest.mark.parametrize(
  ('tops', 'said'),
  [
    (('train', 'val', 'test'), 'test, train, val are splits'),
    (('Training', 'VALID'), 'Training, VALID are splits'),
    (('2006', '2007', '2014'), '2006 to 2014 are years'),
    (('1999',), '1999 are years'),
  ],
)
def test_usual_folders_on_top_are_no_classes(tmp_path, tops, said):
  path = tree(tmp_path, tops)
  listing = folder.scan_classes(path, class_level='auto')
  images = listing.images
  assert images.class_names == ('ant', 'bee')
  assert said in listing.understood
  assert "data.class_level='path' reads each folder" in listing.understood
  for name, label in zip(images.ids, images.labels, strict=True):
    assert name.split('/')[1] == images.class_names[label]
  plain = folder.scan_classes(path, class_level='path')
  other = plain.images
  assert other.class_names == tuple(
    sorted(f'{top}/{name}' for top in tops for name in ('ant', 'bee'))
  )
  assert not plain.understood
  assert folder.fingerprint(other) != folder.fingerprint(images)
  # The first version's hash of the reading of every folder.
  assert folder.fingerprint(other) == folder.fingerprint(
    folder.scan(path).images
  )


@pytest.mark.parametrize(
  ('tops', 'classes'),
  [
    (('train', 'copepod'), ('ant',)),
    (('train',), ('ant', 'bee')),
    (('2006', 'other'), ('ant',)),
    (('20061', '2007'), ('ant',)),
  ],
)
def test_other_folders_on_top_are_part_of_the_class(tmp_path, tops, classes):
  listing = folder.scan(tree(tmp_path, tops, classes), class_level='auto')
  images = listing.images
  assert len(images.class_names) == len(tops) * len(classes)
  assert not listing.understood


def test_folders_of_images_alone_are_classes_whatever_they_are_called(tmp_path):
  for name in ('train', 'val', '2006'):
    write(tmp_path / name / 'a.png')
  images = folder.scan(str(tmp_path), class_level='auto').images
  assert images.class_names == ('2006', 'train', 'val')


def test_the_innermost_folder_alone(tmp_path):
  path = tree(tmp_path, ('north', 'south/deep'))
  images = folder.scan(path, class_level='last').images
  assert images.class_names == ('ant', 'bee')
  with pytest.raises(InputError, match="class_level='top' must be one of"):
    folder.scan(path, class_level='top')


@pytest.mark.parametrize(
  ('tops', 'said'),
  [
    (('set/all/train', 'set/all/test'), 'set/all/test, set/all/train are spl'),
    (('cruise/2006', 'cruise/2007'), 'cruise/2006 to cruise/2007 are years'),
  ],
)
def test_splits_and_years_in_a_folder_that_holds_all(tmp_path, tops, said):
  listing = folder.scan(tree(tmp_path, tops), class_level='auto')
  images = listing.images
  assert images.class_names == ('ant', 'bee')
  assert said in listing.understood and not listing.doubts
  sides = [levels.side(name) for name in images.ids]
  assert set(sides) == ({'train', 'test'} if 'train' in tops[0] else {''})


def test_folders_of_one_name_in_several_are_doubted(tmp_path):
  path = tree(tmp_path, ('north', 'south'), count=1)
  (doubt,) = folder.scan(path, class_level='auto').doubts
  assert doubt.startswith('2 folders of one name are classes of their own')
  assert "north/ant and south/ant; data.class_level='last' joins" in doubt
  assert not folder.scan(path, class_level='path').doubts
  tree(tmp_path, ('east',), ('cow', 'dog', 'eel', 'fox'), count=1)
  assert not folder.scan(path, class_level='auto').doubts  # the fewer


def test_folders_that_differ_by_unicode_form_are_one_class(tmp_path):
  for number, name in enumerate(('\u00e9', 'e\u0301', 'u\u0308')):
    write(tmp_path / name / 'a.png', number)
  listing = folder.scan_classes(str(tmp_path), class_level='auto')
  images = listing.images
  assert images.class_names == ('u\u0308', '\u00e9')
  assert images.ids == (
    'e\u0301/a.png',
    'u\u0308/a.png',
    '\u00e9/a.png',
  )
  assert images.labels.tolist() == [1, 0, 1]
  (doubt,) = listing.doubts
  assert doubt.endswith('Unicode form alone are one class: \u00e9')


def test_folders_that_systems_make_are_ignored(tmp_path):
  for name in ('ant', '@eaDir', '$RECYCLE.BIN', 'lost+found'):
    write(tmp_path / name / 'a.png')
  (tmp_path / 'System Volume Information').mkdir()
  listing = folder.scan_classes(str(tmp_path))
  images = listing.images
  assert images.class_names == ('ant',) and not listing.empty


def test_the_side_that_a_folder_stands_for():
  names = ('train/a/x.png', 'Validation/a/x.png', 'TEST/x.png', 'trains/x.png')
  assert [levels.side(name) for name in names] == ['train', 'val', 'test', '']


def test_names_with_line_breaks_stay_in_one_line(tmp_path):
  write(tmp_path / 'a' / '0.png')
  packing.tree(tmp_path, {'x\ny/z.zip': b''})
  with pytest.raises(InputError, match=r'x\\ny holds no image, but') as error:
    folder.source(str(tmp_path))
  assert '\n' not in str(error.value)
  (tmp_path / 'x\ny/z.zip').unlink()
  write(tmp_path / 'loo\r\tse\u2028.png')
  with pytest.raises(InputError, match=r'loo\\r\\tse\\u2028.png lies in no'):
    folder.source(str(tmp_path))
