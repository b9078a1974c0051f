"""Hostile files end in one line; none is ever unpickled."""

import io
import itertools
import pathlib
import pickle
import time
import zipfile

import numpy as np
import pytest

from benchmarks import fuzz, fuzz_readers
from benchmarks.fuzz_readers import READERS
from plankton_jax.errors import InputError
from plankton_jax.nn import pretrained
from plankton_jax.nn.backbone import Published

# The rest is for the campaign: `python -m benchmarks.fuzz --reader=NAME`.
CASES = {'images': 10, 'folder': 20, 'checkpoint': 15, 'overrides': 6}


# Orbax's own tasks may still run when a damaged file has ended the reading.
_LATE = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=_LATE) if name == 'checkpoint' else name
    for name in READERS
  ],
)
def test_hostile_files_are_read_or_refused_in_one_line(name):
  reader = READERS[name]
  some = itertools.islice(fuzz.cases(reader, seed=0), CASES.get(name, 100))
  found = fuzz.run(reader, some)
  assert not found.faults
  assert found.cases == found.read + found.refused


@pytest.mark.parametrize('name', READERS)
def test_a_whole_file_is_read(name):
  # Or nothing of it would ever be fuzzed.
  assert fuzz.refusal(READERS[name], READERS[name].seed()) == ''


@pytest.mark.parametrize(
  ('error', 'fault'),
  [
    (InputError('one line'), False),
    (InputError('two\nlines'), True),
    (InputError(''), True),
    (KeyError('name'), True),
  ],
)
def test_anything_but_one_line_is_a_fault(error, fault):
  def read(data, folder):
    raise error

  reader = fuzz_readers.Reader(lambda: b'', lambda rng: b'', read)
  found = fuzz.run(reader, iter([b'first', b'second']))
  assert (found.cases, found.read) == (2, 0)
  assert found.refused == (0 if fault else 2)
  assert list(found.faults.values()) == ([b'first'] if fault else [])


def test_the_time_begins_with_the_first_case():
  def slow():
    time.sleep(0.2)  # as a reader that first makes a network
    yield from itertools.count()

  assert len(list(fuzz.within(slow(), seconds=0.1))) > 1


def test_a_case_that_hangs_is_a_fault(monkeypatch):
  def read(data, folder):
    while True:
      pass

  monkeypatch.setattr(fuzz, 'SLOW', 1)
  reader = fuzz_readers.Reader(lambda: b'', lambda rng: b'', read)
  (what,) = fuzz.run(reader, iter([b''])).faults
  assert 'TimeoutError' in what


class Trap:
  """Unpickled, it creates a file."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self._path,)


def _pickles(trap):
  """Files that a careless reader would unpickle, by what they look like."""
  objects = np.array([Trap(trap)] * 6, object)
  npy, npz, torch = io.BytesIO(), io.BytesIO(), io.BytesIO()
  np.save(npy, objects, allow_pickle=True)
  good = {
    'embedding': np.eye(6, 4, dtype=np.float32),
    'label': np.arange(6) % 2,
    'id': objects,
    'class_names': np.array(['a', 'b']),
  }
  np.savez(npz, **good)
  with zipfile.ZipFile(torch, 'w') as archive:  # the form of torch.save
    archive.writestr('archive/data.pkl', pickle.dumps(Trap(trap)))
    archive.writestr('archive/version', '3\n')
  return {
    'pickle': pickle.dumps(Trap(trap)),
    'old pickle': pickle.dumps(Trap(trap), protocol=0),
    'npy': npy.getvalue(),
    'npz': npz.getvalue(),
    'torch': torch.getvalue(),
  }


@pytest.mark.parametrize(
  'kind', ['pickle', 'old pickle', 'npy', 'npz', 'torch']
)
def test_no_reader_unpickles(kind, tmp_path):
  trap = tmp_path / 'fired'
  data = _pickles(trap)[kind]
  for name, reader in READERS.items():
    if name not in ('overrides', 'checkpoint'):
      fuzz.run(reader, iter([data]))
      assert not trap.exists(), name


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.safetensors', '.bin'])
def test_no_weights_are_unpickled(suffix, tmp_path):
  trap = tmp_path / 'fired'
  resnet = Published('ResNet', {}, 'conv1', 'layer1.0.conv1.weight', 'fc.*')
  for data in _pickles(trap).values():
    file = tmp_path / f'weights{suffix}'
    file.write_bytes(data)
    with pytest.raises(InputError):
      pretrained.read(file, resnet)
    assert not trap.exists()


# Orbax leaves a coroutine behind when it meets a damaged file.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_no_file_of_a_checkpoint_is_unpickled(tmp_path):
  trap = tmp_path / 'fired'
  data = _pickles(trap)['pickle']
  reader, files = READERS['checkpoint'], fuzz_readers.checkpoint()
  for name in files:
    fuzz.run(reader, iter([fuzz_readers.tar(files | {name: data})]))
    assert not trap.exists(), name


def test_no_file_of_the_cache_is_unpickled(tmp_path):
  images = tmp_path / 'images'
  for k, name in enumerate(['ant', 'bee'] * 4):
    (images / name).mkdir(parents=True, exist_ok=True)
    (images / name / f'{k}.png').write_bytes(fuzz_readers.picture(k))
  fuzz_readers.load(tmp_path, images)
  trap = tmp_path / 'fired'
  files = [p for p in (tmp_path / 'cache').rglob('*.npy')]
  assert files
  for file in files:
    whole = file.read_bytes()
    file.write_bytes(_pickles(trap)['npy'])
    with pytest.raises((InputError, ValueError)):
      fuzz_readers.load(tmp_path, images)
    assert not trap.exists(), file
    file.write_bytes(whole)


def test_the_trap_fires(tmp_path):
  for kind, data in _pickles(tmp_path / 'fired').items():
    trap = tmp_path / 'fired'
    trap.unlink(missing_ok=True)
    if kind == 'npy':
      np.load(io.BytesIO(data), allow_pickle=True)
    elif kind == 'npz':
      np.load(io.BytesIO(data), allow_pickle=True)['id']
    elif kind == 'torch':
      pickle.loads(zipfile.ZipFile(io.BytesIO(data)).read('archive/data.pkl'))
    else:
      pickle.loads(data)
    assert trap.exists(), kind
