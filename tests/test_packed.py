"""An archive of class folders is read as if it were unpacked."""

import os
import pathlib
import re
import tarfile
import zipfile

import packing
import pytest

from plankton_jax.data import select
from plankton_jax.data.ecotaxa import read as export
from plankton_jax.data.sources import (
  archives,
  contents,
  entries,
  flowcam,
  folder,
)
from plankton_jax.errors import InputError

IMAGES = {
  'ant/0.png': packing.picture(0),
  'ant/1.PNG': packing.picture(1),
  'ant/big/2.png': packing.picture(2),
  'Öhm/3': packing.picture(3),  # without an ending
  'bee/4.png': packing.picture(4),
}
CLUTTER = {
  'labels.csv': b'file,label',
  'bee/taxa.csv.gz': b'',
  'empty/notes.md': b'',
  'ant/Thumbs.db': b'',
  'ant/._0.png': b'x',
  '.old/x.png': b'x',
}
KINDS = ('zip', 'tar', 'tar.gz', 'tgz', 'tar.xz', 'tar.bz2')


def pack(path, files):
  if path.suffix == '.zip':
    return packing.pack_zip(path, files)
  packed = {'gz': 'w:gz', 'tgz': 'w:gz', 'xz': 'w:xz', 'bz2': 'w:bz2'}
  return packing.tar(path, files, packed.get(path.suffix[1:], 'w'))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('top', ['', 'My set/'])
def test_an_archive_gives_what_its_folder_gives(tmp_path, kind, top, caplog):
  files = {f'{top}{name}': data for name, data in (IMAGES | CLUTTER).items()}
  outside = {'__MACOSX/._x': b'', '__MACOSX/y.png': b'x', '.DS_Store': b''}
  packed = pack(tmp_path / f'set.{kind}', files | outside)
  plain = packing.tree(tmp_path / 'set', IMAGES | CLUTTER)
  found, expected = folder.scan(str(packed)), folder.scan(str(plain))
  assert found.images.ids == expected.images.ids == tuple(sorted(IMAGES))
  for name in ('class_names', 'skipped', 'left_aside', 'name'):
    assert getattr(found.images, name) == getattr(expected.images, name)
  assert (found.images.labels == expected.images.labels).all()
  assert (found.others, found.empty) == (expected.others, expected.empty)
  assert [d.replace(top, '') for d in found.doubts] == [*expected.doubts]
  data = {id: found.images.read(id) for id in found.images.ids}
  assert data == IMAGES
  source = folder.source(str(packed))
  assert source.fingerprint == folder.source(str(plain)).fingerprint
  ids = [example.id for example in source.examples() if example.image]
  assert ids == [*found.images.ids]
  assert select.objects(str(packed)).ids == found.images.ids
  assert {path.name for path in tmp_path.iterdir()} == {'set', packed.name}


def test_a_folder_that_holds_all_images_is_as_if_given(tmp_path):
  packed = packing.pack_zip(
    tmp_path / 'a.zip', {'ant/0.png': b'', 'x.txt': b''}
  )
  assert folder.scan(str(packed)).images.ids == ('0.png',)


@pytest.mark.parametrize('kind', ['zip', 'tar'])
def test_hostile_names_are_named_and_no_class(tmp_path, kind):
  hostile = {
    '../evil.png': b'x',
    '/etc/evil.png': b'x',
    'C:\\evil.png': b'x',
    'ant/../../evil.png': b'x',
    'ant\\5.png': packing.picture(5),  # as Windows writes it
  }
  images = folder.scan(
    str(pack(tmp_path / f'a.{kind}', IMAGES | hostile))
  ).images
  assert images.ids == tuple(sorted([*IMAGES, 'ant/5.png']))
  assert images.read('ant/5.png') == packing.picture(5)
  assert len(images.skipped) == 4
  assert {why for _, why in images.skipped} == {
    'a path that leads out of the archive',
    'an absolute path',
  }


def test_names_and_members_that_only_tar_has(tmp_path):
  with tarfile.open(
    tmp_path / 'a.tar', 'w', encoding='latin-1', format=tarfile.GNU_FORMAT
  ) as archive:
    for name in ('ant/0.png', 'ant/é.png', 'bee/0.png'):
      file = packing.tree(tmp_path / 'files', {'x': packing.picture(0)}) / 'x'
      archive.add(file, name)
    link = tarfile.TarInfo('ant/link.png')
    link.type, link.linkname = tarfile.SYMTYPE, '0.png'
    archive.addfile(link)
  images = folder.scan(str(tmp_path / 'a.tar')).images
  assert images.ids == ('ant/0.png', 'bee/0.png')
  assert images.skipped == (
    ('ant/\\udce9.png', 'the file name is not UTF-8'),
    ('ant/link.png', 'a link'),
  )


def test_of_files_of_one_name_the_last_is_read(tmp_path):
  path = packing.pack_zip(tmp_path / 'a.zip', IMAGES)
  with (
    zipfile.ZipFile(path, 'a') as archive,
    pytest.warns(UserWarning, match='Duplicate name'),
  ):
    archive.writestr('ant/0.png', packing.picture(9))
    archive.writestr('bee/4.png', IMAGES['bee/4.png'])
  images = folder.scan(str(path)).images
  assert images.read('ant/0.png') == packing.picture(9)
  ((name, reason),) = images.skipped
  assert name == 'ant/0.png' and reason.startswith('another file of this name')


def test_archives_of_one_class_each_are_folders_of_their_names(tmp_path):
  inner = {
    'ant.zip': {'0.png': b'0', 'deep/1.png': b'1', '.x.png': b''},
    'bee.ZIP': {'bee/2.png': b'2', '2.png': b'', '__MACOSX/x.png': b''},
  }
  several = {
    name: packing.pack_zip(tmp_path / 'x', files).read_bytes()
    for name, files in inner.items()
  }
  several |= {'bad.zip': several['ant.zip'][:99], 'notes.txt': b''}
  ids = ('ant/0.png', 'ant/deep/1.png', 'bee/2.png')
  for place in (
    packing.tree(tmp_path / 'set', several),
    packing.pack_zip(tmp_path / 'set.zip', several),
  ):
    listing = folder.scan_classes(str(place))
    assert listing.images.ids == ids
    assert [listing.images.read(id) for id in ids] == [b'0', b'1', b'']
    assert listing.others == {'.txt': 1}
    assert [name for name, _ in listing.images.skipped] == [
      'bad.zip',
      'bee.ZIP/bee/2.png',
    ]
    assert select.objects(str(place)).ids == ids
  place, caches = tmp_path / 'set', tmp_path / 'caches'
  os.utime(place, (1e9, 1e9))
  seen = folder.fingerprint(folder.scan(str(place)).images, caches)
  packing.pack_zip(place / 'ant.zip', inner['ant.zip'] | {'0.png': b'3'})
  os.utime(place, (1e9, 1e9))
  assert folder.fingerprint(folder.scan(str(place)).images, caches) != seen


def test_archives_beside_images_are_told_and_not_read(tmp_path):
  inner = packing.pack_zip(tmp_path / 'x', IMAGES).read_bytes()
  files = {
    'ant/0.png': b'',
    'bee/1.png': b'',
    'set.zip': inner,
    'bad.tar.gz': b'',
    'x.csv.gz': b'',
  }
  for place in (
    packing.tree(tmp_path / 'set', files),
    packing.pack_zip(tmp_path / 'set.zip', files),
  ):
    listing = folder.scan(str(place))
    assert listing.images.ids == ('ant/0.png', 'bee/1.png')
    assert not listing.images.skipped
    assert listing.doubts == (
      'archives are not read, so unpack what others do not hold:'
      ' bad.tar.gz, set.zip',
    )
    assert listing.others == {'.gz': 2, '.zip': 1}


@pytest.mark.parametrize('kind', KINDS)
def test_an_archive_that_is_cut_off_is_one_line(tmp_path, kind):
  path = pack(tmp_path / f'a.{kind}', IMAGES)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
  for read in (folder.scan, select.objects):
    with pytest.raises(InputError, match=r'cut off or damaged') as caught:
      read(str(path))
    assert '\n' not in str(caught.value) and str(path) in str(caught.value)


def test_an_archive_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
  path = pack(tmp_path / 'a.tar', IMAGES)
  path.with_name('a.bin').touch()

  def refuse(*_):  # Root may read all there is.
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(pathlib.Path, 'open', refuse)
  for name in ('a.tar', 'a.bin'):
    with pytest.raises(InputError, match=r'Permission denied$|is not a folder'):
      folder.scan(str(path.with_name(name)))


def test_archives_that_are_no_archive_or_one_of_several_parts(tmp_path):
  for name, data, message in (
    ('a.zip', b'PK', r'a\.zip is not a zip archive, or is cut off'),
    ('a.tar.gz', b'', r'a\.tar\.gz is not a tar, tar\.gz or zip archive'),
    ('a.7z', b'', r'a\.7z is not a folder: unpack it$'),
    ('b.z01', b'', r'b\.z01 is not a folder: unpack it$'),
    ('b.zip', b'', r'b\.zip is the last of several parts: join them'),
    ('c.zip', packing.pack_zip(tmp_path / 'x', {}).read_bytes(), 'no image'),
    ('d.xlsx', b'', r'd\.xlsx is not a folder: if it lists images, '),
    ('d.ods', b'', r'd\.ods is not .*, save it as \.xlsx or \.csv: '),
  ):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
      folder.scan(str(tmp_path / name))
    assert '\n' not in str(caught.value)


def test_images_that_cannot_be_unpacked_are_named(tmp_path, monkeypatch):
  path = packing.pack_zip(tmp_path / 'a.zip', IMAGES)
  data = bytearray(path.read_bytes())
  at = data.index(packing.picture(0))
  data[at + 20] ^= 255
  for mark, offset in ((b'PK\3\4', 6), (b'PK\1\2', 8)):  # of the second image
    start = data.index(mark, data.index(mark) + 1)
    data[start + offset] |= 1  # encrypted
  path.write_bytes(data)
  monkeypatch.setattr('plankton_jax.data.sources.archives.MAX_BYTES', 2**20)
  with zipfile.ZipFile(path, 'a', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('bee/bomb.png', bytes(2**20 + 1))
  lost = {
    e.id: e.reason for e in folder.source(str(path)).examples() if e.reason
  }
  assert {id: reason[:9] for id, reason in lost.items()} == {
    'ant/0.png': 'damaged i',
    'ant/1.PNG': 'encrypted',
    'bee/bomb.png': 'larger th',
  }
  tar = pack(tmp_path / 'a.tgz', {'bee/bomb.png': bytes(2**20 + 1), **IMAGES})
  images = folder.scan(str(tar)).images
  assert images.skipped == (('bee/bomb.png', 'larger than 1 MiB'),)
  monkeypatch.setattr(entries, '_LARGEST', 500)
  tar = tar.rename(tmp_path / 'b.tgz')  # is opened anew
  with pytest.raises(InputError, match=r'larger than 0 GiB unpacked: unpack'):
    folder.scan(str(tar))


def test_an_archive_is_hashed_once_as_long_as_it_is_the_same(
  tmp_path, monkeypatch
):
  path = pack(tmp_path / 'a.tar', IMAGES)
  os.utime(path, (1e9, 1e9))
  caches = tmp_path / 'caches'
  found = folder.scan(str(path)).images
  first = folder.fingerprint(found, caches)

  def read(id):
    raise AssertionError(id)

  again = found._replace(read=read)
  assert folder.fingerprint(again, caches) == first
  os.utime(path, (1e9, 1e9 + 1))
  with pytest.raises(AssertionError, match='ant'):
    folder.fingerprint(again, caches)
  assert contents.digests(path, found.ids, None, found.read) == [
    entries.find(path).files[id].digest() for id in found.ids
  ]


def test_readers_in_turn_unpack_an_archive_once(tmp_path, monkeypatch):
  opened = []
  in_tar = archives.in_tar
  monkeypatch.setattr(
    archives, 'in_tar', lambda path: opened.append(path) or in_tar(path)
  )
  packed = pack(tmp_path / 'set.tgz', IMAGES | CLUTTER)
  assert len(select.objects(str(packed)).ids) == len(IMAGES)
  assert opened == [packed]
  kept = ('ant/0.png', 'bee/4.png')
  pack(packed, {name: IMAGES[name] for name in kept})
  found = select.objects(str(packed))
  assert found.ids == kept and opened == [packed] * 2
  assert found.read('bee/4.png') == IMAGES['bee/4.png']


def test_collages_in_an_archive_are_no_images(tmp_path):
  listed = b'1\nnum-fields|2\nid|int\ncollage_file|str\n'
  assert flowcam.begins_list(listed)
  files = {'run/run.lst': listed, 'run/collage.tif': b''}
  path = packing.pack_zip(tmp_path / 'run.zip', files)
  with pytest.raises(
    InputError, match=r'list of a FlowCam, .*: unpack the arch'
  ):
    folder.objects(str(path), field='--images')


def test_an_archive_of_tar_archives_is_told_to_be_unpacked(tmp_path):
  inner = pack(tmp_path / 'x.tar.gz', IMAGES).read_bytes()
  path = packing.pack_zip(tmp_path / 'a.zip', {'x.tar.gz': inner})
  with pytest.raises(InputError, match=r'\(1 of .gz\): unpack them$'):
    folder.scan(str(path))
  with pytest.raises(InputError, match=r'; unpack x.tar.gz$'):
    export.export(str(path))


def test_tables_that_cannot_be_read_beside_images_are_told(tmp_path, caplog):
  for name, said in (('a.txt', False), ('a.csv', True), ('a.xlsx', True)):
    path = packing.pack_zip(
      tmp_path / f'{name}.zip', {name: b'x', '0.png': b''}
    )
    caplog.clear()
    assert select.objects(str(path)).ids == ('0.png',)
    assert (f'{name}.zip holds no table' in caplog.text) == said


def test_bins_and_exports_may_be_tar_archives(tmp_path):
  table = b'object_id\timg_file_name\nx\t0.png\n'
  files = {'export/ecotaxa.tsv': table, 'export/0.png': packing.picture(0)}
  found = select.objects(str(pack(tmp_path / 'a.tar.gz', files)))
  assert found.ids == ('//x',) and found.read('//x') == packing.picture(0)
  name = 'D20130526T095207_IFCB013'
  bins = {f'{name}{e}': b'' for e in ('.adc', '.hdr', '.roi')}
  found = select.objects(str(pack(tmp_path / 'b.tar', bins)))
  assert not found.ids and not found.skipped
  place = packing.tree(tmp_path / 'bins', bins | {'bad.zip': b'PK'})
  ((name, reason),) = select.objects(str(place)).skipped
  assert name == 'bad.zip' and 'not a zip archive' in reason


BOXES = {
  'COCO': (
    'frames.json',
    b'{"images": [], "annotations": [], "categories": []}',
  ),
  'LabelMe': ('a/1.json', b'{"shapes": [], "imagePath": "1.png"}'),
  'VIA': ('via.json', b'{"1.png": {"regions": [{"shape_attributes": {}}]}}'),
  'Pascal VOC': ('a/1.xml', b'<annotation><object><bndbox>'),
  'CVAT': ('a.xml', b'<annotations><image><box label="x" '),
  'YOLO': ('labels/1.txt', b'0 0.5 0.25 0.1 1\r\n12 .5 0.25 1.0 1e-2\n'),
}


@pytest.mark.parametrize('kind', BOXES)
def test_sets_of_boxes_are_told_to_be_cropped(tmp_path, kind, caplog):
  name, data = BOXES[kind]
  files = {'a/1.png': b'', 'train/2.png': b'', 'a/classes.txt': b'0\n1\n'}
  files['a/notes.txt'] = b'class and depths:\n0 0.5 0.25 0.1 1\n'
  place = packing.tree(tmp_path / 'set', files | {name: data})
  said = re.escape(
    f'{name} draws boxes within images ({kind}), which are passed'
  )
  for read in (folder.objects, folder.scan_classes):
    caplog.clear()
    read(str(place))
    assert re.search(said, caplog.text)
  (place / '2.png').write_bytes(b'')
  with pytest.raises(InputError, match=rf'lies in no class folder.*; {said}'):
    folder.scan_classes(str(place))
  with pytest.raises(InputError, match=rf'holds no table .*; {said}'):
    export.export(str(place))
  (place / name).unlink()
  assert not folder.scan(str(place)).boxes


def test_splits_of_frames_are_told_to_be_cropped(tmp_path):
  files = {'images/train/1.jpg': b'', 'images/val/2.jpg': b''}
  files['labels/train/1.txt'] = BOXES['YOLO'][1]
  path = packing.pack_zip(tmp_path / 'set.zip', files)
  with pytest.raises(
    InputError, match=r'themselves: .*; labels/train/1.txt dra'
  ):
    folder.scan(str(path), class_level='auto')
