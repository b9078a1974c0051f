import os
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from plankton_jax import doctor, host
from plankton_jax.data.sources import inspection


def _save(root, name, seed, size=(20, 30)):
  path = root / name
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
  Image.fromarray(pixels).save(path)


@pytest.fixture
def good(tmp_path):
  root = tmp_path / 'good'
  for i in range(20):
    _save(root, f'ant/{i}.png', i)
  for i in range(25):
    _save(root, f'bee/{i}.png', 100 + i, size=(60, 10))
  return root


def test_a_good_folder_has_nothing_to_put_right(good):
  contents, notes, problems = inspection.inspect(str(good))
  assert contents == [
    '45 images in 2 classes',
    'longer side 30 to 60 px, median 60 px',
    '       25  bee',
    '       20  ant',
  ]
  assert notes == problems == []


def test_other_files_and_folders_on_top_are_said(good, tmp_path):
  root = tmp_path / 'sides'
  for side in ('train', 'test'):
    (root / side).mkdir(parents=True)
    for name in ('ant', 'bee'):
      (good / name).rename(root / side / name)
      shutil.copytree(root / side / name, good / name)
  (root / 'train/ant/x.heic').write_bytes(b'x')
  contents, *_ = inspection.inspect(str(root))
  assert contents[0] == '90 images in 2 classes'
  assert contents[1].startswith('test, train are splits, the folders in them')
  assert contents[-1] == '1 files of .heic were left aside'


def test_every_fault_is_counted_and_named(good):
  _save(good, 'ant/again.png', 3)
  _save(good, 'bee/ant.png', 5)
  _save(good, 'loose.png', 500)
  for i in (0, 1, 2):
    _save(good, f'cat/{i}.png', 600 + i)
  _save(good, 'cat/copy.png', 600)  # four images, three of them different
  for i in range(4):
    _save(good, f'dog/{i}.png', 700 + i)
  (good / 'eel').mkdir()
  (good / 'eel/1.heic').write_bytes(b'')
  (good / 'fox').mkdir()
  (good / 'ant/broken.png').write_bytes(b'')
  (good / 'ant/cut.png').write_bytes((good / 'ant/0.png').read_bytes()[:200])
  (good / 'ant/gone.png').symlink_to(good / 'nowhere.png')
  _, notes, problems = inspection.inspect(str(good))
  assert [line.partition(':')[0] for line in problems] == [
    '3 files cannot be read',
    '1 images lie in no class folder',
    '1 folders hold no image that is read',
    '1 images stand in several classes',
  ]
  assert 'ant/broken.png: empty file' in problems[0]
  assert 'ant/gone.png: No such file' in problems[0]
  assert problems[1].endswith(': loose.png')
  assert problems[2].endswith(': eel')
  assert problems[3].endswith(': ant/5.png = bee/ant.png')
  assert notes == [
    '1 folders hold no image, and are no class: fox',
    '1 classes have fewer than 4 different images, too few to train on'
    ' (data.rare): cat (3)',
    '2 images have copies in their class: ant/3.png = ant/again.png,'
    ' cat/0.png = cat/copy.png',
    '1 classes have fewer than 20 different images: dog (4)',
  ]


def test_no_folder_ends_in_a_traceback(tmp_path, monkeypatch):
  def problem(path):
    (line,) = inspection.inspect(str(path)).problems
    return line

  (tmp_path / 'file').write_text('')
  (tmp_path / 'empty').mkdir()
  assert 'is not a folder' in problem(tmp_path / 'nowhere')
  assert 'is not a folder' in problem(tmp_path / 'file')
  assert 'holds no image' in problem(tmp_path / 'empty')
  assert 'empty' in problem('')
  assert '~nobody-of-this-name' in problem('~nobody-of-this-name/images')
  assert problem('a\0b')

  # Root may read all there is: the refusal is played.
  def refuse(*_):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(os, 'scandir', refuse)
  assert 'Permission denied' in problem(tmp_path)


def test_a_folder_of_broken_files_alone(tmp_path):
  for name in ('a', 'b'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'x.png').write_bytes(b'no')
  contents, _, problems = inspection.inspect(str(tmp_path))
  assert contents[0] == '0 images in 2 classes'
  assert problems[0].startswith('2 files cannot be read')


@pytest.fixture
def examine(monkeypatch, capsys):
  """Runs the command on a folder, its throughput left out: (code, text)."""
  monkeypatch.setattr(host, 'show_log', lambda level: None)
  left_out = lambda config, seconds: iter([f'{seconds} s are left out'])
  monkeypatch.setattr(doctor, 'throughput', left_out)
  monkeypatch.setattr(doctor, 'SECONDS', types.SimpleNamespace(value=2.5))

  def run(path):
    monkeypatch.setattr(doctor, 'PATH', types.SimpleNamespace(value=path))
    return doctor.main(['doctor']), capsys.readouterr().out

  return run


def test_the_exit_code_says_whether_the_folder_is_good(examine, good):
  code, said = examine(str(good))
  assert code == 0 and said.endswith('to put right\n  nothing\n')
  (good / 'ant/0.png').write_bytes(b'no')
  code, said = examine(str(good))
  assert code == 1 and 'ant/0.png: not a PNG' in said


def test_the_machine_alone_is_no_fault(examine):
  code, said = examine(None)
  assert code == 0
  assert f'{os.cpu_count()} cores, ' in said
  assert 'device 0: ' in said and 'folder' not in said
  assert '\nthroughput\n  2.5 s are left out\n' in said
  import jax

  assert f'  jax {jax.__version__}\n' in said


def test_caches_are_sized_and_tried(tmp_path, make_config):
  (tmp_path / 'data').mkdir()
  (tmp_path / 'data/a').write_bytes(bytes(3 * 2**20))
  (tmp_path / 'file').write_text('in the way')
  lines = doctor.caches(
    make_config(
      data__cache_dir=str(tmp_path / 'data'),
      compilation_cache_dir=str(tmp_path / 'file/cache'),
    )
  )
  assert list(lines) == [
    f'data.cache_dir {tmp_path}/data: 3.0 MiB, writable',
    f'compilation_cache_dir {tmp_path}/file/cache: 0.0 MiB,'
    ' NOT writable: set config.compilation_cache_dir',
  ]


def test_throughput_is_measured_or_its_failure_said(make_config, monkeypatch):
  monkeypatch.setattr(host, 'use_compilation_cache', lambda name: None)
  first, second = doctor.throughput(make_config(), seconds=0.0)
  assert 'images/s: resnet10 of width 4, 16 px, batches of 18' in first
  assert first.endswith(' s a step over 1')
  assert second.startswith('compiled in ')
  (line,) = doctor.throughput(make_config(encoder__name='resnet1'), seconds=0.0)
  assert line.startswith("failed: InputError: encoder.name='resnet1'")
