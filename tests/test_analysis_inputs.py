import numpy as np
import pytest
from absl import app, flags
from absl.testing import flagsaver

from analysis.files import command, inputs, result
from plankton_jax.errors import InputError
from tests.analysis_runs import blobs, empty, save, source


@pytest.fixture
def run(monkeypatch):
  """Runs a command with flags; returns what it analysed and where to."""
  called = []
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  monkeypatch.setattr(app, 'run', lambda main, flags_parser: main(['analysis']))
  monkeypatch.setattr(result, 'write', lambda found, out: called.append(out))

  def call(folder=None, **values):
    def analyse(sources):
      called.append(sources)
      return result.Result()

    with flagsaver.flagsaver(**values), pytest.raises(SystemExit) as stop:
      command.run('analysis', analyse, folder=folder)
    if stop.value.code:
      raise stop.value
    return called[-2:]

  return call


def test_reads_what_was_saved(tmp_path):
  rows = blobs([3, 4])
  found = inputs.read_embeddings(save(tmp_path / 'test.npz', rows))
  np.testing.assert_array_equal(found.embedding, rows.embedding)
  np.testing.assert_array_equal(found.label, rows.label)
  np.testing.assert_array_equal(found.id, rows.id)
  assert found.class_names == rows.class_names


def test_reads_a_split_without_images(tmp_path):
  found = inputs.read_embeddings(save(tmp_path / 'val.npz', empty()))
  assert found.embedding.shape == (0, 6)


def with_nan(rows):
  rows = rows.copy()
  rows[4, 2], rows[6] = np.nan, np.inf
  return rows


@pytest.mark.parametrize(
  'replaced, told',
  [
    (
      {'embedding': with_nan(blobs([3, 4]).embedding)},
      r'2 of 7 rows are not finite, first row 4 \(id 0-',
    ),
    ({'id': np.array([{}] * 7, object)}, 'pickled objects, .* never loaded'),
    ({'embedding': np.zeros((6, 2), np.float32)}, r'\(6, 2\) .* do not fit'),
    ({'label': np.full(7, 9, np.int32)}, 'label has no name'),
    ({'label': np.full(7, -2, np.int32)}, 'label has no name'),
    ({'label': np.full(7, 2**32)}, 'label has no name'),
    ({'label': np.full(7, np.nan)}, 'label has no name'),
    ({'label': np.full(7, 0.5)}, 'label has no name'),
    ({'embedding': np.zeros((7, 0))}, r'embedding \(7, 0\) holds no numbers'),
    ({'embedding': np.full((7, 2), 1e300)}, '7 of 7 rows are not finite'),
    ({'id': np.array(['a'])}, r'id \(1,\) does not fit'),
    ({'id': np.full(7, b'\xff')}, 'id is no text'),
    ({'embedding': np.float32(1)}, r'embedding is float32 \(\)'),
    ({'embedding': np.zeros((7, 2), complex)}, 'embedding is complex128'),
    ({'embedding': np.full((7, 2), 'a')}, 'embedding is <U1'),
    ({'label': np.int32(1)}, r'label is int32 \(\)'),
    ({'label': np.zeros(7, 'M8[s]')}, 'label is datetime64'),
    ({'id': np.zeros(7, 'm8[s]')}, 'id is timedelta64'),
    ({'class_names': np.array('ab')}, r'class_names is <U2 \(\)'),
    ({'class_names': np.zeros(3, 'i4,f4')}, 'class_names is .*want text'),
  ],
)
def test_refuses_what_cannot_be_analysed(tmp_path, replaced, told):
  path = save(tmp_path / 'test.npz', blobs([3, 4]), **replaced)
  with pytest.raises(InputError, match=told):
    inputs.read_embeddings(path)


def test_refuses_files_that_are_no_embeddings(tmp_path):
  path = tmp_path / 'test.npz'
  with pytest.raises(InputError, match='no such embedding file'):
    inputs.read_embeddings(path)
  path.write_bytes(b'PK not really a zip')
  with pytest.raises(InputError, match='not a readable'):
    inputs.read_embeddings(path)
  np.savez(path, label=np.zeros(1, int))
  with pytest.raises(InputError, match="'embedding' is missing"):
    inputs.read_embeddings(path)
  np.savez(path, embedding=np.zeros((1, 2)), label=np.zeros(1, int))
  with pytest.raises(InputError, match="'class_names' is missing"):
    inputs.read_embeddings(path)


def test_a_compression_that_is_unknown_is_one_line(tmp_path):
  path = save(tmp_path / 'test.npz', blobs([3, 4]))
  data = bytearray(path.read_bytes())
  for signature, offset in ((b'PK\x03\x04', 8), (b'PK\x01\x02', 10)):
    at = data.find(signature)
    while at >= 0:
      data[at + offset] = 77
      at = data.find(signature, at + 1)
  path.write_bytes(data)
  with pytest.raises(InputError, match='compression') as error:
    inputs.read_embeddings(path)
  assert len(str(error.value).splitlines()) == 1


def test_labelled_leaves_out_rows_without_label():
  rows = blobs([3, 4])
  rows.label[2] = -1
  some = source(test=rows, unseen=empty())
  found, notes = inputs.labelled(some, 'test')
  assert notes == ['run, test: 1 rows have no label: left out']
  assert len(found.embedding) == len(found.id) == 6 and found.label.min() == 0
  assert rows.id[2] not in found.id
  assert inputs.labelled(some, 'unseen') == (
    None,
    ['run, unseen: no labelled images: skipped'],
  )
  assert inputs.labelled(some, 'val') == (
    None,
    ['run has no val split: skipped'],
  )


def test_measured_takes_test_and_unseen_or_every_file(tmp_path):
  run = source(workdir=tmp_path)
  assert list(inputs.measured(run)[0]) == ['test', 'unseen']
  files = source(mine=blobs([2, 2]), test=blobs([2, 2]))
  assert list(inputs.measured(files)[0]) == ['mine', 'test']


def test_main_reads_workdirs(run, tmp_path, monkeypatch):
  for parent in ('a', 'b'):
    work = tmp_path / parent / 'run'
    work.parent.mkdir()
    source(workdir=work)
    save(work / 'embeddings' / 'test.npz', blobs([3, 4]))
  first, second = tmp_path / 'a' / 'run', tmp_path / 'b' / 'run'
  sources, out = run(workdir=[str(first), str(second)])
  assert [s.name for s in sources] == ['a/run', 'b/run']
  assert list(sources[0].splits) == ['test']
  assert sources[0].config['citation'] == 'Someone 2015'
  assert out == first / 'analysis'
  _, out = run(folder='predict', workdir=[str(first)])
  assert out == first / 'analysis' / 'predict'
  _, out = run(folder='predict', workdir=[str(first)], out='x')
  assert str(out) == 'x'
  monkeypatch.setenv('HOME', str(tmp_path))
  sources, out = run(workdir=['~/a/run'], out='~/x')
  assert sources[0].workdir == first and out == tmp_path / 'x'


def test_main_reads_files_by_their_names(run, tmp_path):
  path = save(tmp_path / 'mine.npz', blobs([3, 4]))
  (files,), out = run(embeddings=[str(path)], out=str(tmp_path / 'out'))
  assert files.name == 'mine' and list(files.splits) == ['mine']
  assert files.workdir is None and files.config is None
  assert out == tmp_path / 'out'


def test_main_tells_bad_input_in_one_line(run, tmp_path, capsys):
  bare = tmp_path / 'bare'
  source(workdir=bare)
  same = tmp_path / 'same'
  source(workdir=same)
  save(same / 'embeddings' / 'test.npz', blobs([3, 4]))
  for values, told in (
    ({}, 'give --workdir=DIR or --embeddings=FILE.npz'),
    ({'workdir': ['a'], 'embeddings': ['b']}, 'give --workdir=DIR or'),
    ({'workdir': [str(tmp_path)]}, 'not a workdir'),
    ({'workdir': [str(bare)]}, 'python -m analysis.embed --workdir='),
    ({'workdir': [str(same), str(same)]}, 'a second workdir named'),
  ):
    with pytest.raises(SystemExit) as stop:
      run(**values)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and told in error
    assert error.count('\n') == 1


def test_anyones_file_needs_the_embeddings_alone(tmp_path):
  path = tmp_path / 'dino.npz'
  embedding = np.eye(3, 4)
  np.savez(path, embedding=embedding, odd=np.array([{}], object))
  found = inputs.read_embeddings(path)
  assert found.embedding.dtype == np.float32
  assert found.label.tolist() == [-1] * 3 and found.class_names == ()
  assert found.id.tolist() == ['0', '1', '2']
  names = np.array(['bee', '', 'ant'])
  np.savez(path, embedding=embedding, label=names)
  found = inputs.read_embeddings(path)
  assert found.class_names == ('ant', 'bee')
  assert found.label.tolist() == [1, -1, 0]
  names = np.array([' ant', 'NaN', 'ant '])  # of pandas, and of hands
  np.savez(path, embedding=embedding.astype(np.float16), label=names)
  found = inputs.read_embeddings(path)
  assert found.class_names == ('ant',) and found.label.tolist() == [0, -1, 0]
  np.savez(path, features=embedding, labels=names)
  with pytest.raises(InputError, match=r'it has features, labels\): give'):
    inputs.read_embeddings(path)


def test_one_file_may_hold_several_splits(tmp_path):
  path = tmp_path / 'dino.npz'
  rows = blobs([3, 4])
  split = np.array(['train'] * 4 + ['val'] * 2 + [''])
  save(path, rows, split=split)
  found = inputs.from_files([path])
  assert list(found.splits) == ['train', 'val']
  np.testing.assert_array_equal(found.splits['val'].id, rows.id[4:6])
  with pytest.raises(InputError, match='a second file or split named val'):
    inputs.from_files([path, save(tmp_path / 'val.npz', rows)])
  save(path, rows, split=split[:3])
  with pytest.raises(InputError, match=r'split \(3,\) does not fit label'):
    inputs.from_files([path])
  save(path, rows, split=np.zeros(7))
  with pytest.raises(InputError, match='split is float64'):
    inputs.from_files([path])
