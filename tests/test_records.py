"""Records without TensorFlow: what goes in comes out; prepared TFDS sets."""

import contextlib
import importlib.util
import io
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from plankton_jax.data import records
from plankton_jax.data.pixels import images
from plankton_jax.data.sources import source
from plankton_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]


def pixels(value):
  return np.random.default_rng(value).integers(0, 256, (5, 7), np.uint8)


def source_of(examples, names=('a', 'b')):
  return source.Source(
    'somewhere',
    '00',
    names,
    lambda: iter(examples),
    len(examples),
    (('z', 'known'),),
  )


def test_records_keep_order_bytes_ids_and_what_was_skipped(tmp_path):
  examples = [
    source.Example(f'b/ж {i}.png', i % 2, images.encode(pixels(i)))
    for i in range(20)
  ]
  broken = source.Example('a/bad.png', 0, None, 'empty file')
  given = [broken, *examples[:7], broken, *examples[7:]]
  final = tmp_path / 'set'
  records.write(final, source_of(given))
  opened = records.read(final)
  assert len(opened) == 20
  for row in np.random.default_rng(0).permutation(20):
    wanted = examples[row]
    assert opened[row] == (wanted.id, wanted.label, wanted.image)
  again = pickle.loads(pickle.dumps(opened))
  for rows in (slice(None), slice(3, 9), slice(9, 3), slice(7, None, -3)):
    found = [(x.id, x.label, x.image) for x in examples[rows]]
    assert opened[rows] == again[rows] == found
  assert opened[-1] == opened[19]
  with pytest.raises(IndexError):
    opened[20]
  bad = ('a/bad.png', 'empty file')
  assert records.skipped(final) == [('z', 'known'), bad, bad]
  assert [path.name for path in tmp_path.iterdir()] == ['set']


def test_a_failed_write_leaves_nothing(tmp_path):
  def failing():
    yield source.Example('a/0', 0, images.encode(pixels(0)))
    raise RuntimeError('power cut')

  broken = source.Source('x', '00', ('a',), failing, 1, ())
  with pytest.raises(RuntimeError, match='power cut'):
    records.write(tmp_path / 'set', broken)
  assert list(tmp_path.iterdir()) == []


def test_nothing_readable_is_one_line(tmp_path):
  bad = [source.Example('a/x.jpg', 0, None, 'empty file')]
  with pytest.raises(InputError, match='none of the 2 images in somewhere'):
    records.write(tmp_path / 'set', source_of(bad))
  assert list(tmp_path.iterdir()) == []


class TwoSplits(tfds.core.GeneratorBasedBuilder):
  """A prepared data set as others make them: shuffled, without ids."""

  VERSION = tfds.core.Version('2.1.0')
  features = {  # noqa: RUF012
    'image': tfds.features.Image(shape=(None, None, 1)),
    'label': tfds.features.ClassLabel(names=['q', 'p']),
  }

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(self.features)
    )

  def _split_generators(self, dl_manager):
    return {
      'train': self._generate_examples(range(9)),
      'test': self._generate_examples([9, 10]),
    }

  def _generate_examples(self, values):
    for value in values:
      fields = {'image': images.encode(pixels(value)), 'label': value % 2}
      yield value, {name: fields[name] for name in self.features}


class NoLabel(TwoSplits):
  features = {  # noqa: RUF012
    'image': tfds.features.Image(shape=(None, None, 1))
  }


def prepare(builder_class, tmp_path, file_format='array_record'):
  builder = builder_class(data_dir=str(tmp_path), file_format=file_format)
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare()


def test_prepared_sets_join_their_splits(tmp_path):
  prepare(TwoSplits, tmp_path)
  builder = records.prepared('two_splits', str(tmp_path))
  assert records.class_names(builder) == ('q', 'p')
  opened = records.Records(builder)
  ids = [opened[row].id for row in range(len(opened))]
  assert ids == ['test/0', 'test/1', *(f'train/{i}' for i in range(9))]
  original = {pixels(value).tobytes(): value for value in range(11)}
  values = []
  for row in range(11):
    value = original[images.decode(opened[row].image).tobytes()]
    assert opened[row].label == value % 2
    values.append(value)
  assert opened[:] == [opened[row] for row in range(11)]
  assert opened[1:4] == [opened[row] for row in (1, 2, 3)]
  assert sorted(values[:2]) == [9, 10] and sorted(values[2:]) == [*range(9)]
  assert records.fingerprint(builder) == records.fingerprint(builder)
  file = next((tmp_path / 'two_splits/2.1.0').glob('*train*'))
  before = records.fingerprint(builder)
  file.write_bytes(file.read_bytes() + b'0')
  assert records.fingerprint(builder) != before


class Numbered(TwoSplits):
  """A prepared data set whose ids are numbers, among other features."""

  features = {  # noqa: RUF012
    'label': tfds.features.ClassLabel(names=['q', 'p']),
    'id': tfds.features.Scalar(np.int64),
    'sizes': tfds.features.Tensor(shape=(2,), dtype=np.float32),
    'image': tfds.features.Image(shape=(None, None, 1)),
  }

  def _generate_examples(self, values):
    for value in values:
      fields = {'image': images.encode(pixels(value)), 'label': value % 2}
      yield value, {**fields, 'id': 7 * value, 'sizes': (1.5, value)}


def test_ids_that_are_no_text_and_other_features(tmp_path):
  prepare(Numbered, tmp_path)
  opened = records.Records(records.prepared('numbered', str(tmp_path)))
  found = {opened[row].id: opened[row] for row in range(11)}
  assert found.keys() == {str(7 * value) for value in range(11)}
  for value in range(11):
    record = found[str(7 * value)]
    assert record.label == value % 2
    assert record.image == images.encode(pixels(value))


def test_prepared_sets_that_cannot_be_used(tmp_path):
  with pytest.raises(InputError, match=r'data.name is empty'):
    records.prepared('', str(tmp_path))
  with pytest.raises(InputError, match=r"no prepared TFDS data set 'none"):
    records.prepared('nonesuch', str(tmp_path))
  with pytest.raises(
    InputError, match=r"no prepared .*'two_splits' in .*: set"
  ):
    records.prepared('two_splits', str(tmp_path))
  prepare(NoLabel, tmp_path)
  with pytest.raises(InputError, match=r'lacks an Image .* it has image'):
    records.prepared('no_label', str(tmp_path))
  with pytest.raises(InputError, match=r'data.public planktonset1 \('):
    records.prepared('planktonset1', str(tmp_path))
  prepare(TwoSplits, tmp_path, 'parquet')
  with pytest.raises(
    InputError, match=r'is stored as parquet: .*file_format=.array_record'
  ):
    records.prepared('two_splits', str(tmp_path))


def test_no_tensorflow_is_imported(tmp_path):
  program = f"""
import sys
from pathlib import Path
from plankton_jax.data import records
from plankton_jax.data.drawn import plankton
source = plankton.source(1, 0)
records.write(Path({str(tmp_path / 'set')!r}), source)
assert len(records.read(Path({str(tmp_path / 'set')!r}))) == len(
  source.class_names)
assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules
"""
  subprocess.run([sys.executable, '-c', program], check=True, timeout=60)


@pytest.mark.skipif(
  importlib.util.find_spec('apache_beam') is None, reason='needs apache-beam'
)
@pytest.mark.filterwarnings('default')  # it keeps protobuf at an older release
def test_the_page_prepares_images_by_beam(tmp_path):
  for i in range(6):
    path = tmp_path / 'FOLDER' / 'ab'[i % 2] / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(i)).save(path)
  page = (ROOT / 'docs/scale.md').read_text()
  (example,) = re.findall(
    r'^```python\n(import pathlib\n\nimport apache_beam.*?)^```$',
    page,
    re.M | re.S,
  )
  (tmp_path / 'plankton.py').write_text(example)
  subprocess.run([sys.executable, 'plankton.py'], cwd=tmp_path, check=True)
  builder = records.prepared('plankton', str(tmp_path / 'DATA'))
  assert records.class_names(builder) == ('a', 'b')
  for one in records.Records(builder):
    assert one.image == (tmp_path / 'FOLDER' / one.id).read_bytes()
    assert 'ab'[one.label] == one.id[0]
  assert records.count(builder) == 6
