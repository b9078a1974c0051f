"""The decoded cache: whole or absent, one for each content and setting."""

import threading

import numpy as np
import pytest

from plankton_jax.data import records, workers
from plankton_jax.data.pixels import cache, images
from plankton_jax.data.pixels.images import Preprocessing
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

SETTINGS = Preprocessing(size=8, resize='pad', channels=1, white=255)


def build(directory, given, skipped=()):
  cache.build(directory, given, skipped, SETTINGS)


def pixels(value, shape=(8, 8)):
  return np.random.default_rng(value).integers(0, 256, shape, np.uint8)


def record(value, label=0, **kwargs):
  data = images.encode(pixels(value, **kwargs))
  return records.Record(f'{value:03}.png', label, data)


@pytest.mark.parametrize('fewest', [1, 9999])
def test_rows_follow_the_records_without_the_bad_ones(
  tmp_path, monkeypatch, fewest
):
  monkeypatch.setattr(workers, 'FEWEST', fewest)
  given = [record(value, value % 3) for value in range(2100)]
  given[4] = given[4]._replace(image=given[4].image[:60])
  given[70] = given[70]._replace(label=-1)
  given[1500] = given[1500]._replace(image=b'')
  build(tmp_path / 'c', given, [('gone', 'empty file')])
  got = cache.read(tmp_path / 'c')
  rows = [row for row in range(2100) if row not in (4, 70, 1500)]
  assert got.rows.tolist() == rows
  assert got.ids.tolist() == [f'{row:03}.png' for row in rows]
  assert got.labels.tolist() == [row % 3 for row in rows]
  assert got.labels.dtype == np.int32
  np.testing.assert_array_equal(
    got.images[..., 0], [pixels(row) for row in rows]
  )
  assert isinstance(got.images, np.memmap)
  left_out = ['gone', '004.png', '070.png', '1500.png']
  assert [name for name, _ in got.skipped] == left_out
  assert got.skipped[0][1] == 'empty file' and got.skipped[2][1] == 'no label'


def test_digests_are_of_the_original_pixels(tmp_path):
  # One pixel of a large image vanishes at 8 px, yet they are two images.
  large = pixels(0, (400, 400))
  changed = large.copy()
  changed[200, 200] ^= 1
  given = [
    records.Record(str(i), 0, images.encode(p))
    for i, p in enumerate((large, changed, large))
  ]
  build(tmp_path / 'c', given)
  got = cache.read(tmp_path / 'c')
  np.testing.assert_array_equal(got.images[0], got.images[1])
  assert got.digests[0] == got.digests[2] != got.digests[1]


def test_nothing_readable_or_ids_twice(tmp_path):
  empty = records.Record('x.png', 0, b'')
  with pytest.raises(InputError, match=r'none of the 1 .* x.png: empty file'):
    build(tmp_path / 'c', [empty])
  with pytest.raises(InputError, match='ids of the data set are not unique'):
    build(tmp_path / 'c', [record(1), record(1)])
  assert list(tmp_path.iterdir()) == []


class Failing(list):
  """Records of which the last cannot be read, also in another process."""

  def __getitem__(self, rows):
    if rows.stop == 200:
      raise OSError('disk gone')
    return super().__getitem__(rows)


@pytest.mark.parametrize('fewest', [1, 2000])
def test_a_crash_midway_leaves_nothing(tmp_path, monkeypatch, fewest):
  monkeypatch.setattr(workers, 'FEWEST', fewest)
  given = Failing(record(value) for value in range(200))
  with pytest.raises(OSError, match='disk gone'):
    build(tmp_path / 'c', given)
  assert list(tmp_path.iterdir()) == []


def test_two_builders_at_once_agree(tmp_path):
  given = [record(value) for value in range(100)]
  barrier = threading.Barrier(2)
  errors = []

  def run():
    barrier.wait()
    try:
      build(tmp_path / 'c', given)
    except Exception as error:
      errors.append(error)

  builders = [threading.Thread(target=run) for _ in range(2)]
  for builder in builders:
    builder.start()
  for builder in builders:
    builder.join()
  assert errors == []
  assert [path.name for path in tmp_path.iterdir()] == ['c']
  assert cache.read(tmp_path / 'c').rows.tolist() == list(range(100))


def test_the_key_tells_contents_settings_and_version_apart(monkeypatch):
  keys = {
    cache.key(fingerprint, Preprocessing(size, resize, channels, white, crop))
    for crop in ((0, 0, 0, 0), (0, 1, 0, 0))
    for white in (0, 255)
    for fingerprint in ('a', 'b')
    for size in (32, 64)
    for resize in ('pad', 'stretch')
    for channels in (1, 3)
  }
  first = cache.key('a', SETTINGS)
  assert len(keys) == 64 and first == cache.key('a', SETTINGS)
  monkeypatch.setattr(images, 'VERSION', images.VERSION + 1)
  assert first != cache.key('a', SETTINGS)


def test_directories_and_text_appear_whole(tmp_path):
  with atomic.directory(tmp_path / 'd') as building:
    (building / 'x').write_text('1')
    assert not (tmp_path / 'd').exists()
  with atomic.directory(tmp_path / 'd') as building:  # Second: the first stays.
    (building / 'x').write_text('2')
  assert (tmp_path / 'd/x').read_text() == '1'
  atomic.text(tmp_path / 't', 'ж')
  with pytest.raises(UnicodeEncodeError):
    atomic.text(tmp_path / 't', 'half \ud800')
  assert (tmp_path / 't').read_text(encoding='utf-8') == 'ж'
  assert sorted(path.name for path in tmp_path.iterdir()) == ['d', 't']
