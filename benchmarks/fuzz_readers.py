"""Every reader of files that others wrote: its seeds, its hostile files.

A reader is given the bytes of a file; it returns, or raises InputError.
"""

import contextlib
import functools
import io
import json
import os
import pathlib
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from benchmarks import fuzz_exports as exports
from benchmarks import fuzz_values as values
from configs import smoke
from plankton_jax.errors import InputError

Rng = np.random.Generator
TarMode = Literal['w', 'w:gz', 'w:bz2', 'w:xz']

_COLUMNS = (
  'object_id',
  'img_file_name',
  'img_rank',
  'object_annotation_status',
  'object_annotation_category',
  'object_annotation_hierarchy',
  'sample_id',
  'acq_id',
)


class Reader(NamedTuple):
  """One kind of file."""

  seed: Callable[[], bytes]  # a whole file
  vary: Callable[[Rng], bytes]  # well-formed, with content that is not
  read: Callable[[bytes, pathlib.Path], Any]  # in an empty folder


def picture(seed: int = 0, form: str = 'PNG', mode: str = 'L') -> bytes:
  """An encoded image that no other seed gives."""
  shape = (9, 11, len(mode)) if mode != 'L' else (9, 11)
  pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  stream = io.BytesIO()
  image = Image.frombytes(mode, (shape[1], shape[0]), pixels.tobytes())
  image.save(stream, form)
  return stream.getvalue()


def _any_picture(rng: Rng) -> bytes:
  form = rng.choice(['PNG', 'JPEG', 'TIFF', 'BMP'])
  mode = rng.choice(['L', 'RGB', 'RGBA'] if form in ('PNG', 'TIFF') else ['L'])
  return values.damage(rng, picture(int(rng.integers(9)), form, mode))


def _read_images(data: bytes, folder: pathlib.Path) -> None:
  """The image with sound ones in a tree: it is read, or named as skipped."""
  root = folder / 'images'
  for name in ('ant', 'bee'):
    (root / name).mkdir(parents=True)
    for k in range(4):
      (root / name / f'{k}.png').write_bytes(picture(hash(name) % 99 + k))
  (root / 'ant' / 'x.tif').write_bytes(data)
  found = load(folder, root)
  skipped = folder / 'run' / 'skipped.txt'
  listed = skipped.read_text() if skipped.exists() else ''
  if ('ant/x.tif' in found.ids) == listed.startswith('ant/x.tif\t'):
    raise AssertionError('an image neither read nor named as skipped')


def _tree(rng: Rng | None = None) -> bytes:
  """Names below a folder, a kind and a name each."""
  entries = [['image', f'{"ab"[k % 2]}/{k}.png'] for k in range(12)]
  if rng is not None:
    for _ in range(rng.integers(1, 4)):
      name = values.text(rng)[:200].replace('\0', '')
      kind = str(rng.choice(['image', 'image', 'text', 'link', 'fifo', 'none']))
      place = str(rng.choice(['', 'a/', 'c/', 'a/b/', f'{name}/']))
      entries.append([kind, f'{place}{name}{rng.choice(["", ".png", ".TIF"])}'])
  return json.dumps(entries).encode()


def _read_tree(data: bytes, folder: pathlib.Path) -> None:
  """Images are read or named as skipped, whatever else lies about them."""
  root = folder / 'images'
  root.mkdir()
  try:
    entries = [(str(kind), str(name)) for kind, name in json.loads(data)]
  except (ValueError, TypeError, RecursionError):
    return  # only how the case was packed
  for k, (kind, name) in enumerate(entries):
    file = root / name.lstrip('/').replace('..', '__')
    with contextlib.suppress(OSError, ValueError):
      file.parent.mkdir(parents=True, exist_ok=True)
      if kind == 'image':
        file.write_bytes(picture(k))
      elif kind == 'text':
        file.write_text(name, errors='replace')
      elif kind == 'link':
        file.symlink_to(str([root, file.parent, '/nowhere', file][k % 4]))
      elif kind == 'fifo':
        os.mkfifo(file)
      else:
        file.mkdir()
  load(folder, root)


def load(folder: pathlib.Path, path: pathlib.Path, **fields: Any) -> Any:
  """`pipeline.load` of a folder, its cache and workdir in `folder`."""
  from plankton_jax.data import pipeline

  data = smoke.get_config().data.to_dict() | {
    'source': 'folder',
    'path': str(path),
    'size': 8,
    'unseen_classes': 0,
    'fractions': (0.5, 0.25, 0.25),
    'cache_dir': str(folder / 'cache'),
  }
  return pipeline.load(folder / 'run', seed=0, writes=True, **(data | fields))


def _members(rng: Rng | None) -> dict[str, bytes]:
  """Names and contents of an archive; hostile ones for a generator."""
  files = {f'set/{k % 3}/{k}.png': picture(k) for k in range(6)}
  files['set/taxa.csv'] = b'objid,taxon\n1,a\n'
  if rng is None:
    return files
  names = list(files)
  for _ in range(rng.integers(1, 4)):
    name = names[rng.integers(len(names))]
    content = files.pop(name, b'')
    if rng.random() < 0.5:
      name = rng.choice(
        ['../evil', '/etc/evil', 'C:\\evil', 'a/../../b', '.', 'a\\b',
         'a' * 300, 'set/\udcff.png', 'NUL\0.png', './././x', 'x/']
      )  # fmt: skip
    else:
      content = values.damage(rng, content or b'x')
    files[str(name)] = content
  return files


def _zip(files: dict[str, bytes]) -> bytes:
  stream = io.BytesIO()
  with warnings.catch_warnings(), zipfile.ZipFile(stream, 'w') as archive:
    warnings.simplefilter('ignore')  # a name twice
    for k, (name, data) in enumerate(files.items()):
      kind = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)[k % 3]
      name = name.encode('utf-8', 'replace').decode()
      archive.writestr(name, data, kind)
  return stream.getvalue()


def tar(files: dict[str, bytes], mode: TarMode = 'w') -> bytes:
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode=mode) as archive:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return stream.getvalue()


def _vary_tar(rng: Rng) -> bytes:
  modes: tuple[TarMode, ...] = get_args(TarMode)
  mode = modes[rng.integers(len(modes))]
  data = tar(_members(rng), mode)
  return values.sometimes_damaged(rng, data, whole=0.5)


def _vary_zip(rng: Rng) -> bytes:
  data = _zip(_members(rng))
  return values.sometimes_damaged(rng, data, whole=0.5)


def _read_archive(data: bytes, folder: pathlib.Path) -> None:
  from plankton_jax.data.sources import archives

  file = folder / 'archive'
  file.write_bytes(data)
  listing = archives.listing(file, 'taxa.csv')
  for content in archives.read(file, set(listing.names)):
    if content.data is None and not content.reason:
      raise AssertionError(f'{content.name} is neither read nor refused')
  if [path.name for path in folder.iterdir()] != ['archive']:
    raise AssertionError('an archive was unpacked')


def _table(rng: Rng | None) -> bytes:
  rows = [
    [f'o{n}', f'{n}.png', '0', 'validated', 'ab'[n % 2], 'living>a', 's', 'a']
    for n in range(8)
  ]
  lines = [list(_COLUMNS), *rows]
  if rng is not None:
    for _ in range(rng.integers(1, 5)):
      line = lines[rng.integers(len(lines))]
      if line and rng.random() < 0.8:
        line[rng.integers(len(line))] = values.text(rng)
      elif rng.random() < 0.5:
        line.append(values.text(rng))
      else:
        del line[rng.integers(len(line) + 1) :]
  text = '\r\n'.join('\t'.join(line) for line in lines) + '\r\n'
  return text.encode('utf-8', 'surrogatepass')


def _vary_table(rng: Rng) -> bytes:
  data = _table(rng)
  return values.sometimes_damaged(rng, data, whole=0.7)


def _export(rng: Rng | None) -> bytes:
  files = {f'{n}.png': picture(n) for n in range(8)}
  files = {'ecotaxa_1.tsv': _table(rng)} | files
  return _zip(files)


def _vary_export(rng: Rng) -> bytes:
  data = _export(rng)
  return values.sometimes_damaged(rng, data, whole=0.5)


def _read_export(data: bytes, folder: pathlib.Path) -> None:
  from plankton_jax.data.ecotaxa import read

  file = folder / 'export.zip'
  file.write_bytes(data)
  _use_export(read.export(str(file)))


def _read_table(data: bytes, folder: pathlib.Path) -> None:
  from plankton_jax.data.ecotaxa import read

  (folder / 'ecotaxa.tsv').write_bytes(data)
  _use_export(read.export(str(folder)))


def _use_export(export: Any) -> None:
  for item in export.objects:
    item.id.encode()
    export.files.digest(item.image)
    try:
      export.files.read(item.image)
    except ValueError as error:  # the reason that skipped.txt gives
      values.one_line(error)


def _arrays(rng: Rng | None) -> dict[str, Any]:
  arrays = {
    'embedding': np.eye(6, 4, dtype=np.float32),
    'label': np.arange(6, dtype=np.int32) % 2,
    'id': np.array([f'a/{k}' for k in range(6)]),
    'class_names': np.array(['a', 'b']),
    'split': np.array(['train', 'test', ''] * 2),
  }
  if rng is not None:
    name = str(rng.choice(list(arrays)))
    if rng.random() < 0.2:
      del arrays[name]
    else:
      arrays[name] = values.array(rng)
  return arrays


def _npz(rng: Rng | None = None) -> bytes:
  stream = io.BytesIO()
  np.savez(stream, **_arrays(rng))
  return stream.getvalue()


def _vary_npz(rng: Rng) -> bytes:
  data = _npz(rng)
  return values.sometimes_damaged(rng, data, whole=0.6)


def _read_npz(data: bytes, folder: pathlib.Path) -> None:
  from analysis.files import inputs

  file = folder / 'test.npz'
  file.write_bytes(data)
  for rows in inputs.read_splits(file).values():
    if not np.isfinite(rows.embedding).all():
      raise AssertionError('embeddings that are not finite were let through')


def _safetensors(arrays: dict, header: dict | None, rng: Rng | None) -> bytes:
  """A file whose header may lie."""
  offset, table, data = 0, {}, b''
  for name, array in arrays.items():
    raw = np.ascontiguousarray(array).tobytes()
    table[name] = {
      'dtype': 'F32',
      'shape': list(array.shape),
      'data_offsets': [offset, offset + len(raw)],
    }
    offset, data = offset + len(raw), data + raw
  if header is not None:
    table['__metadata__'] = header
  if rng is not None:
    entry = str(rng.choice(list(table)))
    if rng.random() < 0.3 and entry != '__metadata__':
      table[entry]['dtype'] = str(
        rng.choice(['F8_E4M3', 'F8_E5M2', 'BF16', 'F16', 'F64', 'BOOL', 'X'])
      )
    else:
      table[entry] = values.vary_json(rng, table[entry])
  text = json.dumps(table).encode()
  return struct.pack('<Q', len(text)) + text + data


@functools.cache
def _variables() -> dict[str, Any]:
  """The arrays of the network that `_config` makes."""
  import jax

  from plankton_jax.nn import encoders
  from plankton_jax.train.state import INIT, init_encoder, make_key

  config = _config()
  data = config['data']
  fresh = init_encoder(
    make_key(0, INIT),
    encoder=encoders.make(**config['encoder']),
    image_shape=(data['size'], data['size'], data['channels']),
  )
  return jax.device_get(
    {
      'params': {'encoder': fresh['params'], 'objective': {}},
      'batch_stats': fresh['batch_stats'],
    }
  )


def _encoder(rng: Rng | None = None) -> bytes:
  import flax.traverse_util

  arrays = flax.traverse_util.flatten_dict(_variables(), sep='/')
  header = {
    'config': json.dumps(_config()),
    'class_names': json.dumps(['a', 'b']),
    'step': '7',
  }
  if rng is not None and rng.random() < 0.5:
    name = str(rng.choice(list(header)))
    header[name] = json.dumps(values.vary_json(rng, json.loads(header[name])))
    rng = None
  return _safetensors(arrays, header, rng)


def _pretrained(rng: Rng | None = None) -> bytes:
  arrays = {
    'conv1.weight': np.ones((2, 3, 7, 7), np.float32),
    'layer1.0.conv1.weight': np.ones((2, 2, 3, 3), np.float32),
  }
  return _safetensors(arrays, None, rng)


def _damaged_half(make: Callable, rng: Rng) -> bytes:
  data = make(rng)
  return values.sometimes_damaged(rng, data, whole=0.6)


def _read_encoder(data: bytes, folder: pathlib.Path) -> None:
  from plankton_jax import checkpoints

  (folder / 'encoder.safetensors').write_bytes(data)
  checkpoints.load_encoder(folder)


def _read_pretrained(data: bytes, folder: pathlib.Path) -> None:
  from plankton_jax.nn import pretrained
  from plankton_jax.nn.backbone import Published

  file = folder / 'weights.safetensors'
  file.write_bytes(data)
  resnet = Published('ResNet', {}, 'conv1', 'layer1.0.conv1.weight', 'fc.*')
  pretrained.read(file, resnet)


def _config() -> dict[str, Any]:
  """A run whose data is not there: it ends before anything is read."""
  config = smoke.get_config()
  config.data.source = 'folder'
  config.data.path = '/nowhere'
  config.compilation_cache_dir = ''
  return config.to_dict()


def _json_seed(make: Callable[[], Any]) -> Callable[[], bytes]:
  return lambda: json.dumps(make(), indent=1).encode()


def _vary_json(make: Callable[[], Any], rng: Rng) -> bytes:
  tree = json.loads(json.dumps(make()))
  for _ in range(rng.integers(1, 4)):
    tree = values.vary_json(rng, tree)
  data = json.dumps(tree, ensure_ascii=False).encode('utf-8', 'surrogatepass')
  return values.sometimes_damaged(rng, data, whole=0.7)


def _read_config(data: bytes, folder: pathlib.Path) -> None:
  from plankton_jax.train import loop

  (folder / 'config.json').write_bytes(data)
  try:
    loop.train_and_evaluate(_config(), folder)
  except InputError as error:
    if '/nowhere' in str(error):  # the config was as begun with
      return
    raise


@functools.cache
def _split_folder() -> pathlib.Path:
  """Images and their cache, made once in a process; and a split of them."""
  import tempfile

  folder = pathlib.Path(tempfile.mkdtemp(prefix='fuzz_split_'))
  for name in ('ant', 'bee'):
    (folder / 'images' / name).mkdir(parents=True)
    for k in range(6):
      file = folder / 'images' / name / f'{k}.png'
      file.write_bytes(picture(10 * len(name) + k + (name == 'bee') * 50))
  load(folder, folder / 'images')
  return folder


def _split() -> Any:
  return json.loads((_split_folder() / 'run' / 'split.json').read_text())


def _read_split(data: bytes, folder: pathlib.Path) -> None:
  del folder
  place = _split_folder()
  (place / 'run' / 'split.json').write_bytes(data)
  try:
    found = load(place, place / 'images')
  finally:
    (place / 'run' / 'split.json').unlink()
    load(place, place / 'images')
  for rows in found.splits.values():
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(found.ids):
      raise AssertionError('a split names rows that there are not')


def _log(rng: Rng | None = None) -> bytes:
  rows = [
    {'split': s, 'step': k, 'epoch': k / 9, 'stage': 0, 'loss': 0.1, 'd_ap': 1}
    for k in range(1, 6)
    for s in ('train', 'val')
  ]
  if rng is not None:
    for _ in range(rng.integers(1, 4)):
      at = rng.integers(len(rows))
      rows[at] = values.vary_json(rng, rows[at])
  text = '\n'.join(json.dumps(row) for row in rows) + '\n'
  return text.encode()


def _read_log(data: bytes, folder: pathlib.Path) -> None:
  from plankton_jax.train import log

  file = folder / 'metrics.jsonl'
  file.write_bytes(data)
  for rows in log.read(file).by_split.values():
    if [row['step'] for row in rows] != sorted({row['step'] for row in rows}):
      raise AssertionError('rows that are not in order of step')
  log._drop_after(file, 3)  # as a run that is resumed there


@functools.cache
def checkpoint() -> dict[str, bytes]:
  """The files of a small workdir's checkpoint."""
  import tempfile

  import jax.numpy as jnp

  from plankton_jax.train import store
  from plankton_jax.train.state import TrainState

  folder = pathlib.Path(tempfile.mkdtemp(prefix='fuzz_checkpoint_'))
  state = TrainState(
    step=jnp.int32(3), **_variables(), opt_state={'mu': jnp.ones((3, 2))}
  )
  with store.open_manager(folder) as manager:
    store.save(
      manager,
      state,
      meta={'config': _config(), 'class_names': ['a', 'b'], 'progress': {}},
      splits={'train': np.arange(3)},
      measure=0.5,
    )
    manager.wait_until_finished()
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def _vary_checkpoint(rng: Rng) -> bytes:
  files = dict(checkpoint())
  for _ in range(rng.integers(1, 3)):
    name = list(files)[rng.integers(len(files))]
    choice = rng.random()
    if choice < 0.2:
      del files[name]
    elif choice < 0.5:
      files[name] = files[name][: rng.integers(len(files[name]) + 1)]
    else:
      files[name] = values.damage(rng, files[name] or b'x')
  return tar(files)


def _read_checkpoint(data: bytes, folder: pathlib.Path) -> None:
  from plankton_jax import checkpoints

  try:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
      archive.extractall(folder, filter='data')
  except (tarfile.TarError, EOFError, OSError, ValueError):
    return  # only how the case was packed
  checkpoints.load_encoder(folder)


def _overrides(rng: Rng | None = None) -> bytes:
  fields = ['epochs=3', 'data.size=32', 'batch.sampling=sqrt']
  if rng is not None:
    tree = smoke.get_config().to_dict()
    section = str(rng.choice(['data', 'batch', 'encoder', 'optimizer', '']))
    within = tree.get(section, tree)
    name = str(rng.choice([*within, 'nothing', '', 'a.b', '__class__']))
    field = f'{section}.{name}' if section else name
    fields.append(f'{field}={values.text(rng)}')
  return '\n'.join(fields).encode('utf-8', 'replace')


def _read_overrides(data: bytes, folder: pathlib.Path) -> None:
  """In a process of its own, to the help that ends before any data."""
  text = data.decode('utf-8', 'replace').replace('\0', '?')
  fields = text[:100_000].split('\n')  # the system takes no more
  run = subprocess.run(
    [
      sys.executable,
      'launch.py',
      '--config=configs/smoke.py',
      f'--workdir={folder / "run"}',
      *(f'--config.{field}' for field in fields),
      '--help',
    ],
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
    errors='replace',
    check=False,
  )
  if run.returncode == 0:
    return
  if run.returncode != 2 or not run.stderr.startswith('error: '):
    last = (run.stderr.strip().splitlines() or ['nothing said'])[-1]
    raise AssertionError(f'status {run.returncode}: {last}')
  raise InputError(run.stderr.rstrip('\n').removeprefix('error: '))


_bound = functools.partial

READERS = {
  'images': Reader(picture, _any_picture, _read_images),
  'folder': Reader(_tree, _tree, _read_tree),
  'zip': Reader(lambda: _zip(_members(None)), _vary_zip, _read_archive),
  'tar': Reader(lambda: tar(_members(None)), _vary_tar, _read_archive),
  'ecotaxa': Reader(lambda: _export(None), _vary_export, _read_export),
  'tsv': Reader(lambda: _table(None), _vary_table, _read_table),
  'ifcb': Reader(exports.bin_files, exports.vary_bin, exports.read_bin),
  'taxa': Reader(exports.taxa, exports.vary_taxa, exports.read_taxa),
  'published taxa': Reader(
    exports.published, exports.vary_published, exports.read_published
  ),
  'update': Reader(
    _json_seed(exports.updates), exports.vary_updates, exports.read_updates
  ),
  'npz': Reader(_npz, _vary_npz, _read_npz),
  'encoder': Reader(_encoder, _bound(_damaged_half, _encoder), _read_encoder),
  'pretrained': Reader(
    _pretrained, _bound(_damaged_half, _pretrained), _read_pretrained
  ),
  'overrides': Reader(_overrides, _overrides, _read_overrides),
  'config': Reader(
    _json_seed(_config), _bound(_vary_json, _config), _read_config
  ),
  'split': Reader(_json_seed(_split), _bound(_vary_json, _split), _read_split),
  'metrics': Reader(_log, _bound(_damaged_half, _log), _read_log),
  'checkpoint': Reader(
    lambda: tar(checkpoint()), _vary_checkpoint, _read_checkpoint
  ),
}
