"""Archives are read in place; hostile and broken ones are named in a line."""

import gzip
import re
import tarfile
import zipfile

import packing
import pytest

from plankton_jax.data.sources import archives
from plankton_jax.errors import InputError

FILES = {f'set/{k % 3}/{k}.bin': bytes([k]) * (700 + k) for k in range(12)}


def pack(path, files=FILES, links=()):
  if path.suffix == '.zip':
    return packing.pack_zip(path, files, links)
  mode = {'.gz': 'w:gz', '.tar': 'w', '.xz': 'w:xz'}[path.suffix]
  return packing.tar(path, files, mode, links)


@pytest.mark.parametrize('name', ['a.tar', 'a.tar.gz', 'a.tar.xz', 'a.zip'])
def test_every_kind_gives_what_went_in(tmp_path, name):
  path = pack(tmp_path / name)
  assert archives.listing(path) == (tuple(FILES), (), {})
  got = {c.name: c.data for c in archives.read(path, FILES)}
  assert got == FILES
  read = archives.listing(path, '7.bin').tables
  assert read == {'set/1/7.bin': FILES['set/1/7.bin']}
  some = ['set/1/4.bin', 'set/2/11.bin', 'nowhere']
  assert [c.name for c in archives.read(path, some)] == some[:2]
  assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize('name', ['a.tar', 'a.tar.gz', 'a.zip'])
def test_hostile_paths_and_links_are_refused_by_name(tmp_path, name):
  home = tmp_path / 'home'
  home.mkdir()
  hostile = {
    '../evil': b'x',
    'set/../../evil': b'x',
    '/etc/evil': b'x',
    'C:/evil': b'x',
    './set/good.bin': b'good',
    'set/a..b.bin': b'also good',
  }
  links = [('set/link', '/etc/passwd'), ('set/up', '../..')]
  path = pack(home / name, hostile, links)
  names, refused, _ = archives.listing(path)
  assert names == ('set/good.bin', 'set/a..b.bin')
  assert dict(refused) == {
    'set/link': 'a link',
    'set/up': 'a link',
    '../evil': 'a path that leads out of the archive',
    'set/../../evil': 'a path that leads out of the archive',
    '/etc/evil': 'an absolute path',
    'C:/evil': 'an absolute path',
  }
  wanted = [*names, *dict(refused)]
  assert [c.data for c in archives.read(path, wanted)] == [
    b'good',
    b'also good',
  ]
  assert list(tmp_path.iterdir()) == [home]


def test_hard_links_devices_and_giants_are_refused(tmp_path, monkeypatch):
  path = tmp_path / 'a.tar'
  with tarfile.open(path, 'w') as archive:
    for name, kind in (
      ('hard', tarfile.LNKTYPE),
      ('pipe', tarfile.FIFOTYPE),
      ('disk', tarfile.BLKTYPE),
    ):
      info = tarfile.TarInfo(name)
      info.type, info.linkname = kind, 'hard'
      archive.addfile(info)
  assert archives.listing(path).refused == (
    ('hard', 'a link'),
    ('pipe', 'not a file'),
    ('disk', 'not a file'),
  )
  monkeypatch.setattr(archives, 'MAX_BYTES', 2**20)
  giant = {'giant': bytes(2**20 + 1), 'fits': bytes(2**20)}
  for name in ('b.tar', 'b.zip'):
    names, refused, _ = archives.listing(pack(tmp_path / name, giant))
    assert names == ('fits',) and refused == (('giant', 'larger than 1 MiB'),)


@pytest.mark.parametrize('name', ['a.tar', 'a.tar.gz', 'a.zip'])
def test_a_cut_is_noticed_wherever_it_falls(tmp_path, name):
  path = pack(tmp_path / name)
  whole = path.read_bytes()
  # The last blocks of a tar are padding: its end mark is the first of them.
  end = len(whole) - 1
  if name == 'a.tar':
    end = max(i for i, byte in enumerate(whole) if byte) // 512 * 512 + 512
  for cut in [*range(1, end, 397 if end > 5000 else 31), end]:
    path.write_bytes(whole[:cut])
    with pytest.raises(InputError, match=re.escape(str(path))) as caught:
      list(archives.read(path, FILES))
    assert '\n' not in str(caught.value) and 'get it again' in str(caught.value)


def test_what_is_no_archive_is_one_line(tmp_path):
  with pytest.raises(InputError, match=r'a.tar: no such archive'):
    archives.listing(tmp_path / 'a.tar')
  path = tmp_path / 'page.tar'
  path.write_text('<html>log in first</html>' * 100)
  with pytest.raises(InputError, match=r'page.tar is not a tar, ') as caught:
    archives.listing(path)
  assert '\n' not in str(caught.value)


def test_damage_inside(tmp_path):
  path = pack(tmp_path / 'a.zip')
  data = bytearray(path.read_bytes())
  data[data.index(bytes([5]) * 700)] ^= 1
  path.write_bytes(data)
  bad = [c for c in archives.read(path, FILES) if c.data is None]
  assert [c.name for c in bad] == ['set/2/5.bin']
  assert 'damaged in the archive (Bad CRC-32' in bad[0].reason
  path = pack(tmp_path / 'a.tar')
  data = bytearray(path.read_bytes())
  data[data.index(b'set/0/6.bin')] ^= 1  # A header's checksum fails.
  path.write_bytes(data)
  with pytest.raises(InputError, match=r'damaged after set/2/5.bin'):
    archives.listing(path)
  (tmp_path / 'a.tar.gz').write_bytes(gzip.compress(bytes(data)))
  with pytest.raises(InputError, match=r'damaged after set/2/5.bin'):
    archives.listing(tmp_path / 'a.tar.gz')


def test_encrypted_entries_are_refused(tmp_path):
  path = pack(tmp_path / 'a.zip')
  with zipfile.ZipFile(path) as archive:
    info = archive.infolist()[0]
  info.flag_bits |= 1
  assert archives.zip_refusal(info).startswith('encrypted: unpack')


def test_files_that_zip_cannot_unpack_are_named(tmp_path):
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('sound', b'1' * 500)
    archive.writestr('lzma', bytes(range(256)) * 9, zipfile.ZIP_LZMA)
    archive.writestr('method', b'3' * 500)
    place = {info.filename: info.header_offset for info in archive.infolist()}
  data = bytearray(path.read_bytes())
  start = place['lzma'] + 30 + len('lzma') + 9  # behind its properties
  data[start : start + 60] = bytes(60)
  data[data.index(b'PK\1\2', data.rindex(b'lzma')) + 10] = 93
  path.write_bytes(data)
  sound, lzma, method = archives.read(path, ['sound', 'lzma', 'method'])
  assert sound.data == b'1' * 500
  assert lzma.data is None
  assert lzma.reason.startswith('damaged in the archive (')
  assert method.data is None
  assert 'pack it again by Deflate' in method.reason


def test_a_zip_whose_directory_is_nonsense_is_refused_in_a_line(tmp_path):
  path = pack(tmp_path / 'a.zip')
  data = bytearray(path.read_bytes())
  first = data.index(b'PK\1\2')
  name = int.from_bytes(data[first + 28 : first + 30], 'little')
  data[first + 30 : first + 32] = (4).to_bytes(2, 'little')  # an extra field
  data[first + 46 + name : first + 46 + name] = b'\1\0\0\0'
  at = first + 20
  data[at : at + 8] = b'\xff' * 8  # its sizes are said to be in the field
  path.write_bytes(data)
  with pytest.raises(InputError) as refused:
    archives.listing(path)
  assert '\n' not in str(refused.value)


def test_a_file_in_a_zip_without_a_name_is_refused(tmp_path):
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('sound', b'1')
    archive.writestr('QQQ', b'2')
  # A name ends at its first NUL.
  path.write_bytes(path.read_bytes().replace(b'QQQ', b'\0QQ'))
  found = archives.listing(path)
  assert found.names == ('sound',)
  assert found.refused == (('', 'no file name'),)


@pytest.mark.parametrize('name', ['a.tar', 'a.zip'])
def test_folders_in_an_archive_are_no_files(tmp_path, name):
  (tmp_path / 'set').mkdir()
  (tmp_path / 'set/x.bin').write_bytes(b'x')
  path = tmp_path / name
  # Both writers make an entry of the folder, too.
  if name == 'a.zip':
    with zipfile.ZipFile(path, 'w') as archive:
      archive.write(tmp_path / 'set', 'set')
      archive.write(tmp_path / 'set/x.bin', 'set/x.bin')
  else:
    with tarfile.open(path, 'w') as archive:
      archive.add(tmp_path / 'set', 'set')
  assert archives.listing(path) == (('set/x.bin',), (), {})
  assert [c.data for c in archives.read(path, ['set/x.bin'])] == [b'x']


def test_a_damaged_table_in_an_archive_is_refused(tmp_path):
  path = pack(tmp_path / 'a.zip', {'set/t.csv': b'name,taxon\n' * 9})
  data = bytearray(path.read_bytes())
  data[data.index(b'taxon')] ^= 1
  path.write_bytes(data)
  found = archives.listing(path, 't.csv')
  assert not found.tables
  ((name, reason),) = found.refused
  assert name == 'set/t.csv' and 'Bad CRC-32' in reason
