"""Embeddings in Parquet: shards as they come, killed, resumed, and read."""

import importlib.util
import inspect
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from analysis import embed
from analysis.files import folders, inputs, outputs, shards
from plankton_jax.data.sources import objects
from plankton_jax.errors import InputError
from tests import shades

ROOT = pathlib.Path(__file__).parents[1]
COUNT, ROWS = 23, 5
KILLED = f"""
import os, pathlib, signal, sys
from pyarrow import parquet
from analysis.files import shards
from kill_columns import columns

def half(table, path, **options):
  whole(table, path, **options)
  if table['id'][0].as_py() == 'i10':
    with open(path, 'r+b') as file:
      file.truncate(os.path.getsize(path) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

whole, parquet.write_table = parquet.write_table, half
shards.write(
  pathlib.Path(sys.argv[1]), count={COUNT}, rows={ROWS}, plan={{'of': 'a'}},
  make=columns, stamp=str,
  header={{'class_names': ['x', 'y', 'z'], 'step': 3}},
)
"""


def columns(rows):
  at = np.arange(COUNT)[rows]
  return {
    'id': [f'i{i}' for i in at],
    'class': [['x', '', 'y'][i % 3] for i in at],
    'embedding': np.stack([at, at**2], axis=1).astype(np.float32),
  }


def write(folder, made, plan='a', stamp=str):
  def make(rows):
    assert rows.stop <= COUNT
    made.append(rows.start)
    return columns(rows)

  header = {'class_names': ['x', 'y', 'z'], 'step': 3}
  there = shards.write(
    folder, count=COUNT, rows=ROWS, plan={'of': plan}, make=make, stamp=stamp,
    header=header,
  )  # fmt: skip
  shards.finish(folder)
  return there


def check(folder):
  rows = inputs.read_embeddings(folder)
  wanted = columns(slice(0, COUNT))
  np.testing.assert_array_equal(rows.embedding, wanted['embedding'])
  assert rows.id.tolist() == wanted['id'] and rows.class_names == tuple('xyz')
  names = np.array([*rows.class_names, ''])
  assert names[rows.label].tolist() == wanted['class']


def test_a_killed_writer_goes_on_where_it_was(tmp_path):
  folder = tmp_path / 'x.parquet'
  source = f'import numpy as np\nCOUNT = {COUNT}\n{inspect.getsource(columns)}'
  (tmp_path / 'kill_columns.py').write_text(source)
  run = subprocess.run(
    [sys.executable, '-c', KILLED, str(folder)],
    env=os.environ | {'PYTHONPATH': f'{ROOT}:{tmp_path}'},
    check=False,
  )
  assert run.returncode == -signal.SIGKILL
  there = sorted(folder.glob('part-*'))
  assert [path.name for path in there] == [
    'part-00000.parquet', 'part-00001.parquet',
  ]  # fmt: skip
  assert [parquet.read_table(path).num_rows for path in there] == [5, 5]
  assert list(folder.glob('.part-00002*'))  # half written, under another name
  with pytest.raises(InputError, match='not all shards are there; give the co'):
    inputs.read_embeddings(folder)
  made = []
  assert write(folder, made) == 2 and made == [10, 15, 20]
  check(folder)
  assert len(list(folder.iterdir())) == 5
  assert shards.read_header(folder)['step'] == 3
  assert parquet.read_table(folder).num_rows == COUNT  # as others read it


def test_shards_of_something_else_are_replaced(tmp_path):
  folder = tmp_path / 'x.parquet'
  folder.write_text('a file of an earlier run')
  made = []
  assert write(folder, made) == 0
  assert write(folder, made) == 0  # what was finished is made again
  assert len(made) == 10
  with pytest.raises(ZeroDivisionError):
    shards.write(
      folder,
      count=COUNT,
      rows=ROWS,
      plan={'of': 'b'},
      make=lambda rows: 1 / 0 if rows.start else columns(rows),
      stamp=str,
      header={},
    )
  assert [path.name for path in folder.glob('part*')] == ['part-00000.parquet']
  made.clear()
  assert write(folder, made, plan='a') == 0 and len(made) == 5
  check(folder)
  (folder / shards.UNFINISHED).write_text('')  # killed while it was emptied
  made.clear()
  assert write(folder, made) == 0 and len(made) == 5


@pytest.mark.parametrize(
  'changed', [{'plan': {'of': 'b'}}, {'count': COUNT - 1}, {'rows': ROWS + 1}]
)
def test_shards_of_another_plan_are_never_taken(changed, tmp_path, monkeypatch):
  folder = tmp_path / 'x.parquet'
  plan = {'count': COUNT, 'rows': ROWS, 'plan': {'of': 'a'}, 'header': {}}
  begin = lambda **given: shards.write(
    folder, make=columns, stamp=str, **plan | given
  )
  assert begin() == 0 and begin() == 5
  assert begin(**changed) == 0 and begin() == 0
  shards.finish(folder)
  unlink = pathlib.Path.unlink

  def killed(path, **options):
    if path.name == 'part-00002.parquet':
      raise KeyboardInterrupt
    unlink(path, **options)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(pathlib.Path, 'unlink', killed)
    begin(**changed)
  # What is left of the old shards is neither read as all nor taken over.
  with pytest.raises(InputError, match='not all shards are there'):
    inputs.read_embeddings(folder)
  assert begin(**changed) == 0


def test_size_chooses_by_count_or_as_asked():
  assert shards.size(10**6, None) == 0
  assert shards.size(10**6 + 1, None) == shards.ROWS
  assert (shards.size(9, 0), shards.size(9, 9), shards.size(9, 8)) == (0, 0, 8)


def test_a_folder_in_shards_equals_one_file(tmp_path, monkeypatch, capsys):
  for i in range(7):
    shades.write(tmp_path / f'in/{"ab"[i % 2]}/{i}.png', 30 * i)
  (tmp_path / 'in/b/bad.png').write_bytes(b'no')
  shades.write(tmp_path / 'in/root.png', 5)
  place = str(tmp_path / 'in')
  out = tmp_path / 'sharded.parquet'
  encoder, seen = shades.Encoder(), []

  def failing(images, sizes=None, *, measures=None):
    seen.append(len(images))
    if len(seen) == 3:
      raise KeyboardInterrupt
    return shades.embed(images)

  monkeypatch.setattr(encoder, 'embed', failing)
  with pytest.raises(KeyboardInterrupt):
    embed.embed_folder(encoder, place, out, shard=3)
  shades.write(tmp_path / 'in/b/1.png', 200)  # of the second shard
  capsys.readouterr()
  embed.embed_folder(encoder, place, out, shard=3)
  assert seen == [3, 3, 2, 3, 2]  # that again, then the last; not the first
  assert '3 shards of 3 images, 1 of them written before' in (
    capsys.readouterr().out
  )
  embed.embed_folder(shades.Encoder(), place, tmp_path / 'whole.npz')
  whole = inputs.read_embeddings(tmp_path / 'whole.npz')
  found = inputs.read_embeddings(out)
  for name in inputs.Embeddings._fields:
    np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
  assert {'height', 'width'} <= set(parquet.read_table(out).column_names)
  # A file takes the folder's place again, and is read as it is.
  embed.embed_folder(encoder, place, out, shard=0)
  assert out.is_file()
  again = inputs.from_files([out]).splits['sharded']
  np.testing.assert_array_equal(again.embedding, whole.embedding)
  assert again.class_names == whole.class_names == ('a', 'b')


@pytest.mark.parametrize('place', ['export', 'export/a[1].adc'])
def test_the_stamp_of_an_export_or_bin_is_of_all_its_files(place, tmp_path):
  (tmp_path / 'export').mkdir()
  for name in ('a[1].adc', 'a[1].roi'):
    (tmp_path / 'export' / name).write_bytes(b'1')
  found = objects.Objects(
    str(tmp_path / place), ('a',), str.encode, objects.unlabelled(1), ()
  )
  before = folders.stamp(found)
  assert folders.stamp(found) == before
  changed = tmp_path / 'export/a[1].roi'
  changed.write_bytes(b'12')
  longer = folders.stamp(found)
  os.utime(changed, (1, 1))
  assert len({before, longer, folders.stamp(found)}) == 3


def test_a_workdir_may_hold_shards(tmp_path):
  run = shades.run(tmp_path / 'run')
  place = tmp_path / 'run/embeddings'
  (place / 'train.npz').unlink()
  train = run.splits['train']
  make = lambda part: outputs.columns(inputs.take(train, part))
  header = {'class_names': ['dark', 'light'], 'step': 7}
  shards.write(
    place / 'train.parquet',
    count=len(train.id), rows=8, plan={}, make=make, stamp=str, header=header,
  )  # fmt: skip
  with pytest.raises(InputError, match='not all shards are there'):
    inputs.from_workdirs([tmp_path / 'run'])
  shards.finish(place / 'train.parquet')
  (source,) = inputs.from_workdirs([tmp_path / 'run'])
  for found, wanted in zip(source.splits['train'], train, strict=True):
    np.testing.assert_array_equal(found, wanted)
  assert inputs.step(source) == 7


@pytest.mark.skipif(
  importlib.util.find_spec('lancedb') is None, reason='needs lancedb'
)
def test_the_page_hands_shards_over_to_lancedb(tmp_path):
  write(tmp_path / 'new.parquet', [])
  page = (ROOT / 'docs/scale.md').read_text()
  (example,) = re.findall(
    r'^```python\n(import lancedb\n.*?)^```$', page, re.M | re.S
  )
  run = subprocess.run(
    [sys.executable, '-c', example],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  # The query is (0, 0); rows are (i, i²).
  assert run.stdout.strip() == "['i0', 'i1', 'i2']"


def table(path, **columns):
  parquet.write_table(pyarrow.table(columns), path)
  return path


def floats(rows):
  return pyarrow.array(rows, pyarrow.list_(pyarrow.float32()))


def test_anyones_parquet_is_read_and_checked(tmp_path):
  path = tmp_path / 'x.parquet'
  rows = inputs.read_embeddings(table(path, embedding=[[1.0, 2.0], [3.0, 4.0]]))
  assert rows.embedding.tolist() == [[1, 2], [3, 4]]
  assert rows.id.tolist() == ['0', '1'] and rows.label.tolist() == [-1, -1]
  names = pyarrow.array(['b', None, 'a']).dictionary_encode()
  three = [[1.0], [2.0], [3.0]]
  rows = inputs.read_embeddings(
    table(path, embedding=three, **{'class': names}, id=[3, 5, 4])
  )
  assert rows.class_names == ('a', 'b') and rows.label.tolist() == [1, -1, 0]
  assert rows.id.tolist() == ['3', '5', '4']
  large = pyarrow.array(three, pyarrow.large_list(pyarrow.float64()))  # Polars'
  rows = inputs.read_embeddings(
    table(path, embedding=large, label=['b', 'None', ' a'])
  )
  assert rows.class_names == ('a', 'b') and rows.label.tolist() == [1, -1, 0]
  assert rows.embedding.tolist() == three
  halves = inputs.read_splits(
    table(path, embedding=three, split=['a', 'b', 'a'])
  )
  found = {name: rows.embedding.tolist() for name, rows in halves.items()}
  assert found == {'a': [[1], [3]], 'b': [[2]]}
  none = inputs.read_embeddings(table(path, embedding=floats([])))
  assert none.embedding.shape == (0, 0)
  for match, columns in {
    "column 'embedding' is missing": {'id': [1]},
    'differ in length': {'embedding': [[1.0], [1.0, 2.0]]},
    r'differ in length: \[None\]': {'embedding': floats([None])},
    'want lists of numbers': {'embedding': [1.0]},
    'list<.*: string>; want lists': {'embedding': [['a']]},
    'not finite': {'embedding': [[1.0], [np.nan]]},
  }.items():
    with pytest.raises(InputError, match=match):
      inputs.read_embeddings(table(path, **columns))
  whole = table(path, embedding=three * 50).read_bytes()
  torn = whole[:8] + bytes(60) + whole[68:]  # of which the columns are known
  for damaged in (b'PAR1 not', torn):
    path.write_bytes(damaged)
    with pytest.raises(InputError, match='not readable Parquet'):
      inputs.read_embeddings(path)
  with pytest.raises(InputError, match='no such embedding file'):
    inputs.read_embeddings(tmp_path / 'y.parquet')
