import functools
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import safetensors.numpy
from test_pretrained import of_type

from configs import arcface, smoke
from plankton_jax import checkpoints
from plankton_jax.encoder import Encoder
from plankton_jax.errors import InputError
from plankton_jax.export import card, programs
from plankton_jax.files import encoder_folder
from plankton_jax.nn import embedding
from plankton_jax.train import evaluation
from tests import tiny_encoder

NAMES = ('Acantharea', 'Copepoda', 'Ötzi')

# What a process without the project does with an exported file.
RUN = {
  'stablehlo': """
import jax
call = jax.export.deserialize(bytearray(open(sys.argv[1], 'rb').read())).call
""",
  'onnx': """
import onnxruntime
session = onnxruntime.InferenceSession(
  sys.argv[1], providers=['CPUExecutionProvider']
)
names = [one.name for one in session.get_inputs()]
call = lambda *arrays: session.run(None, dict(zip(names, arrays)))[0]
""",
}
SCRIPT = """
import sys
import numpy as np
{}
arrays = np.load(sys.argv[2]).values()
out = [call(*(x[part] for x in arrays)) for part in (slice(5), slice(5, None))]
out = np.concatenate(out)
np.save(sys.argv[3], out)
assert not [name for name in sys.modules if name.startswith('plankton_jax')]
"""


def _encoder(get_config=smoke.get_config, **fields):
  """An encoder whose every array is random, statistics included."""
  config = get_config()
  config.data.size = 24
  config.data.path = '/home/someone/plankton/images'
  config.citation = 'Somebody 2015, DOI 10.0/0'
  config.encoder.update(
    {'name': 'resnet10', 'width': 4, 'embedding_dim': 6} | fields
  )
  config.data.channels = 3 if fields.get('stem') == 'imagenet' else 1
  config = config.to_dict()
  params, batch_stats = tiny_encoder.draw(config)
  prototypes = tiny_encoder.make_prototypes(len(NAMES), 6)
  objective = (
    {'prototypes': prototypes} if get_config is not smoke.get_config else {}
  )
  return Encoder(
    {'encoder': params, 'objective': objective},
    batch_stats,
    config,
    NAMES,
    120,
  )


def _images(encoder, count=9):
  shape = (count, *programs.inputs(encoder)['images'].shape[1:])
  return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def _elsewhere(format, file, arrays, tmp_path):
  """The embeddings that a process without the project computes."""
  np.savez(tmp_path / 'arrays.npz', *arrays)
  arguments = [file, tmp_path / 'arrays.npz', tmp_path / 'out.npy']
  subprocess.run(
    [sys.executable, '-c', SCRIPT.format(RUN[format]), *map(str, arguments)],
    cwd=tmp_path,
    check=True,
  )
  return np.load(tmp_path / 'out.npy')


def _need_converter():
  for name in ('jax2onnx', 'onnxruntime'):
    pytest.importorskip(name)


@pytest.mark.parametrize('format', ['stablehlo', 'onnx'])
@pytest.mark.parametrize(('stem', 'poses'), [('quarter', 8), ('imagenet', 1)])
def test_a_process_without_the_project_embeds_alike(
  format, stem, poses, tmp_path
):
  if format == 'onnx':
    _need_converter()
  encoder = _encoder(stem=stem, poses=poses)
  file = tmp_path / 'encoder'
  assert programs.WRITERS[format](encoder, file) < 1e-5
  images = _images(encoder)
  got = _elsewhere(format, file, [images], tmp_path)
  want = encoder.embed(images)
  assert np.abs(want[0] - want[1]).max() > 1e-3
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('format', ['stablehlo', 'onnx'])
def test_measures_are_a_second_input(format, tmp_path):
  if format == 'onnx':
    _need_converter()
  encoder = _encoder(stem='half', poses=8, size=True, measures=('angle',))
  stats = encoder.variables['batch_stats'][embedding.MEASURES]
  stats['in_um'] = np.array(True)
  file = tmp_path / 'encoder'
  assert programs.WRITERS[format](encoder, file) < 1e-5
  images = np.repeat(_images(encoder, 1), 9, axis=0)
  known = {
    'height': [40, 40, 4, 0, np.nan, 9e4, 40, 1, np.nan],
    'width': [40, 80, 8, 10, 30, 1, 40, 1, np.nan],
    'pixel_um': [10, 10, 10, 1, 2, 3, np.nan, 0.1, np.nan],
    'angle': [0, -1.5, 3, np.nan, 1, 1e9, 2, -7, np.nan],
  }
  given = np.stack([known[name] for name in encoder.takes], axis=1)
  arrays = [images, given.astype(np.float32)]
  got = _elsewhere(format, file, arrays, tmp_path)
  known = {name: np.array(values) for name, values in known.items()}
  want = encoder.embed(images, measures=known)
  np.testing.assert_allclose(got, want, atol=1e-5)
  # Only the measures differ, and each of them counts.
  assert np.abs(want[1:] - want[:1]).max(axis=1).min() > 1e-3


def test_what_the_converter_lacks_is_named(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise NotImplementedError('no plugin for stack')

  fake = types.SimpleNamespace(to_onnx=refuse)
  for name in ('jax2onnx', 'onnx', 'onnxruntime'):
    monkeypatch.setitem(sys.modules, name, fake)
  with pytest.raises(InputError, match=r'no plugin for stack\); .*stablehlo'):
    programs.write_onnx(_encoder(), tmp_path / 'a.onnx')
  assert list(tmp_path.iterdir()) == []


def test_onnx_says_what_it_is(tmp_path):
  _need_converter()
  import onnx as onnx_format

  encoder = _encoder(stem='half', dtype='bfloat16')
  programs.write_onnx(encoder, tmp_path / 'a.onnx')
  model = onnx_format.load(tmp_path / 'a.onnx')
  found = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
  assert found['class_names'] == list(NAMES)
  assert found['config']['encoder']['width'] == 4
  assert [x.name for x in model.graph.input] == ['images']
  assert found['measures'] == [] and found['size_unit'] == ''
  assert [x.name for x in model.graph.output] == ['embeddings']


def test_without_the_converter_the_remedy_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'jax2onnx', None)
  with pytest.raises(InputError, match=r'jax2onnx; .*requirements-export\.txt'):
    programs.write_onnx(_encoder(), tmp_path / 'a.onnx')
  assert not list(tmp_path.iterdir())


def test_a_model_that_embeds_otherwise_is_refused():
  encoder = _encoder()
  images = _images(encoder, 1)
  right = lambda x: encoder.embed(x)
  assert programs.check(encoder, right, 'none') < 1e-6
  for wrong in (
    lambda x: right(x) + 2e-5,
    lambda x: right(x) * np.nan,
    lambda x: right(x[:, ::-1]),
  ):
    assert wrong(images).shape == (1, 6)
    with pytest.raises(InputError, match=r'that a converter made is .* off'):
      programs.check(encoder, wrong, 'a converter')


@pytest.mark.parametrize('get_config', [smoke.get_config, arcface.get_config])
def test_a_folder_handed_on_embeds_bit_for_bit(get_config, tmp_path):
  sized = get_config is arcface.get_config
  encoder = _encoder(get_config, size=sized)
  out = tmp_path / 'handed on'
  encoder.config = encoder_folder.without_paths(encoder.config)
  encoder.save(out, card=card.write(encoder, tmp_path, license=''))
  loaded = checkpoints.load_encoder(out)
  images = _images(encoder)
  sizes = np.random.default_rng(2).integers(10, 200, (len(images), 2))
  embeddings = encoder.embed(images, sizes)
  np.testing.assert_array_equal(loaded.embed(images, sizes), embeddings)
  assert (loaded.embed(images) != embeddings).any() == sized
  said = 'takes height, width, pixel_um, as far as they are known'
  text = (out / 'README.md').read_text()
  assert (said in text) == ('Sizes are in px.' in text) == sized
  assert (loaded.class_names, loaded.step) == (NAMES, 120)
  assert loaded.config['data']['path'] == 'images'
  saved = json.loads(json.dumps(encoder.config['encoder']))
  assert loaded.config['encoder'] == saved
  if get_config is smoke.get_config:
    assert loaded.scores(embeddings) is None
  else:
    np.testing.assert_array_equal(
      loaded.scores(embeddings), encoder.scores(embeddings)
    )
  assert checkpoints.load_encoder(out, step=120).step == 120
  with pytest.raises(InputError, match='no checkpoint of step 7; it holds 120'):
    checkpoints.load_encoder(out, step=7)
  with pytest.raises(InputError, match='exists; choose a new --out'):
    encoder.save(out, card='')
  (out / encoder_folder.WEIGHTS).write_bytes(b'\xff' * 30)
  with pytest.raises(InputError, match='not a readable encoder'):
    checkpoints.load_encoder(out)


def _contents(**changes):
  """The bytes of a folder's weights with parts of the header replaced."""
  encoder = _encoder()
  header = {
    'config': json.dumps(encoder.config),
    'class_names': json.dumps(NAMES),
    'step': '120',
  }
  arrays = {'params/encoder/Dense_0/kernel': np.zeros((2, 6), np.float32)}
  arrays |= changes.pop('arrays', {})
  header = {k: v for k, v in (header | changes).items() if v is not None}
  return safetensors.numpy.save(arrays, header)


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    (lambda: b'', ''),
    (lambda: b'\xff' * 30, ''),
    (lambda: _contents()[:-4], ''),
    (lambda: of_type('F8_E5M2'), "'a' is of type F8_E5M2"),
    (lambda: of_type('F32', 4), "no 'config' in its header"),
    (lambda: _contents(step=None), "no 'step' in its header"),
    (lambda: _contents(step='"7"'), 'step: of type str, not int'),
    (lambda: _contents(step='true'), 'step: of type bool, not int'),
    (lambda: _contents(config='[1'), 'config: '),
    (lambda: _contents(config='[]'), 'config: of type list, not dict'),
    (lambda: _contents(config='{}'), "its config has no 'data'"),
    (lambda: _contents(class_names='[1]'), 'class_names are not strings'),
    (
      lambda: _contents(arrays={'params/encoder': np.zeros(2)}),
      'both an array and a folder',
    ),
    (
      lambda: _contents(arrays={'other/a': np.zeros(2)}),
      'other arrays beside',
    ),
    (
      lambda: _contents(
        arrays={'params/a': np.zeros(2), 'params/a/b': np.zeros(2)}
      ),
      'array',
    ),
  ],
)
def test_a_folder_of_anything_else_is_one_line(content, reason, tmp_path):
  (tmp_path / encoder_folder.WEIGHTS).write_bytes(content())
  with pytest.raises(InputError) as error:
    checkpoints.load_encoder(tmp_path)
  text = str(error.value)
  assert 'not a readable encoder (' in text and 'export it again' in text
  assert reason in text and '\n' not in text


def test_what_the_card_says_of_measures_is_what_evaluation_does(tmp_path):
  text = card.write(_encoder(), tmp_path, license='')
  assert f'at most {evaluation._RETRIEVAL_IMAGES:,} of' in text
  lines = [
    {'split': 'val', 'step': 120, 'recall_at_1': 0.75, 'map_at_r': None},
    {'split': 'test', 'step': 120, 'recall_at_1': float('nan')},
  ]
  (tmp_path / 'metrics.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )
  text = card.write(_encoder(), tmp_path, license='')
  assert '| val | 0.750 | – |' in text
  assert '| test | – | – |' in text


def test_the_card_holds_data_classes_licence_measures_and_config(tmp_path):
  encoder = _encoder()
  lines = [
    {'split': 'val', 'step': 60, 'recall_at_1': 0.1, 'map_at_r': 0.2},
    {'split': 'val', 'step': 120, 'recall_at_1': 0.75, 'map_at_r': 0.5},
    {'split': 'train', 'step': 120, 'loss': 1.0},
    {'split': 'test', 'step': 120, 'recall_at_1': 0.625, 'map_at_r': 0.25},
  ]
  (tmp_path / 'metrics.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines) + '{"spl'
  )
  split = {
    'fingerprint': '',
    'settings': {'unseen_classes': ['Radiolaria', 'Salpida']},
    'splits': {'train': [], 'val': [], 'test': [], 'unseen': []},
    'dropped': [],
  }
  (tmp_path / 'split.json').write_text(json.dumps(split))
  (tmp_path / 'embeddings').mkdir()
  rows = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
  np.savez(
    tmp_path / 'embeddings/unseen.npz', embedding=rows, label=[0, 0, 0, 1, 1, 1]
  )
  text = card.write(encoder, tmp_path, license='CC-BY-4.0')
  for part in (
    'license: "CC-BY-4.0"',
    'Somebody 2015, DOI 10.0/0',
    '- Ötzi',
    'Held out wholly: Radiolaria, Salpida.',
    '| val | 0.750 | 0.500 |',
    '| test | 0.625 | 0.250 |',
    '| unseen | 1.000 | 1.000 |',
    'grey images, uint8 [N, 24, 24, 1]',
    'step 120 of its training.',
  ):
    assert part in text
  assert '0.100' not in text
  block = text.split('```json\n')[1].split('```')[0]
  assert json.loads(block) == json.loads(json.dumps(encoder.config))


def test_the_command_exports_and_says_mistakes_in_a_line(tmp_path, python):
  export = functools.partial(python, '-m', 'plankton_jax.export')
  encoder = _encoder()
  out = tmp_path / 'handed'
  encoder.save(out, card='')
  again = tmp_path / 'again'
  done = export(
    f'--workdir={out}', '--format=safetensors', f'--out={again}', '--half'
  )
  assert done.returncode == 0, done.stderr
  arrays = safetensors.numpy.load_file(again / encoder_folder.WEIGHTS)
  assert arrays['params/encoder/Dense_0/kernel'].dtype == np.float16
  assert (again / 'README.md').read_text().startswith('---\n')
  assert '/home/someone' not in (again / 'README.md').read_text()
  assert checkpoints.load_encoder(again).class_names == NAMES
  file = tmp_path / 'new/encoder.stablehlo'
  done = export(f'--workdir={out}', '--format=stablehlo', f'--out={file}')
  assert done.returncode == 0, done.stderr
  assert 'uint8 [N, 24, 24, 1] -> float32 [N, 6]' in done.stdout
  assert file.is_file()
  for flags, message in (
    ([f'--workdir={out}', f'--out={file}'], '--format is missing'),
    (
      [f'--workdir={out}', '--format=onnx', f'--out={tmp_path}'],
      'is a folder; --out is the file to write',
    ),
    (
      [f'--workdir={out}', '--format=onnx', f'--out={tmp_path}/x', '--half'],
      '--half is for --format=safetensors, not onnx',
    ),
    (
      [f'--workdir={tmp_path}', '--format=onnx', f'--out={file}'],
      'no checkpoints; train',
    ),
  ):
    done = export(*flags)
    assert done.returncode == 2
    assert done.stderr.startswith('error: ') and message in done.stderr
    assert done.stderr.count('\n') == 1
