"""The command that makes the bundled encoder, on a few drawn images."""

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from benchmarks import starting_encoder
from configs import base, finetune
from plankton_jax import checkpoints
from plankton_jax.data.drawn import plankton
from plankton_jax.errors import InputError
from plankton_jax.files import encoder_folder
from plankton_jax.nn import transfer
from tests import flagged, tiny_encoder


def _draw(root, *names, count=8):
  for name in names:
    (root / name).mkdir(parents=True)
    for i in range(count):
      pixels = plankton.draw(name, i, seed=0)
      Image.fromarray(pixels).save(root / name / f'{i}.png')


def _options(*argv):
  return flagged.parse(starting_encoder, *argv)


def test_it_trains_exports_and_writes_the_card(tmp_path, caches):
  _draw(tmp_path / 'a', 'chain', 'vase')
  _draw(tmp_path / 'b', 'copepod', 'pluteus')
  (tmp_path / 'notes.md').write_text('## Few examples\n\n| a | table |\n')
  small = {
    'epochs': 1, 'batch.size': 8, 'encoder.name': 'resnet10',
    'encoder.width': 4, 'encoder.embedding_dim': 8, 'encoder.poses': 1,
    'data.size': 16, 'data.fractions': '(0.5,0.25,0.25)',
    'data.cache_dir': caches / 'data',
    'compilation_cache_dir': caches / 'compiled',
  }  # fmt: skip
  fields = ' '.join(f'{name}={value}' for name, value in small.items())
  out = tmp_path / 'out'
  argv = [
    f'--path={tmp_path / "a"},{tmp_path / "b"}', f'--out={out}',
    '--leave_out=copepod', f'--workdir={tmp_path / "run"}',
    f'--fields={fields}', f'--notes={tmp_path / "notes.md"}',
  ]  # fmt: skip
  starting_encoder.main(_options(*argv))
  encoder = checkpoints.load_encoder(out)
  assert encoder.class_names == ('chain', 'pluteus', 'vase')
  assert encoder.config['citation'] == base.PLANKTONSET
  assert encoder.config['batch']['views'] == 2
  arrays = safetensors.numpy.load_file(out / encoder_folder.WEIGHTS)
  assert arrays['params/encoder/Dense_0/kernel'].dtype == np.float16
  text = (out / 'README.md').read_text()
  for said in (
    'license: "Apache-2.0"', 'DOI 10.7289/v5d21vjd', '- pluteus',
    'Held out wholly: copepod.', '| test |', '## Intended use', '## Limits',
    '| a | table |', '--path=a,b', '--leave_out=copepod', 'epochs=1',
  ):  # fmt: skip
    assert said in text, said
  assert str(tmp_path) not in text.replace(str(caches), '')
  with pytest.raises(InputError, match='exists; choose a new --out'):
    starting_encoder.main(_options(*argv))


def test_folders_are_gathered_once_and_no_class_twice(tmp_path):
  _draw(tmp_path / 'a', 'chain', 'vase', count=1)
  _draw(tmp_path / 'b', 'copepod', count=1)
  _draw(tmp_path / 'c', 'vase', count=1)
  a, b, c = (str(tmp_path / name) for name in 'abc')
  place = tmp_path / 'images'
  for _ in range(2):
    starting_encoder.gather([a, b], place)
    names = {link.name: link.resolve() for link in place.iterdir()}
    assert names == {
      'chain': tmp_path / 'a/chain',
      'copepod': tmp_path / 'b/copepod',
      'vase': tmp_path / 'a/vase',
    }
  with pytest.raises(InputError, match=r'a and .*c both have a class vase'):
    starting_encoder.gather([a, c], tmp_path / 'more')
  with pytest.raises(InputError, match='images holds other classes'):
    starting_encoder.gather([b, c], place)


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['--out=x'], '--path is missing'),
    (['--path=x'], '--out is missing'),
    (['--path=x', '--out=x', '--notes=none.md'], 'no such file'),
  ],
)
def test_what_is_missing_is_named_before_it_trains(argv, message):
  with pytest.raises(InputError, match=message):
    starting_encoder.parse(_options(*argv))


def test_a_run_begins_from_it_by_the_config_of_that_purpose(tmp_path, bundled):
  """Its network is the one that configs/finetune.py asks for."""
  made = starting_encoder.make_config(tmp_path, ())
  tiny_encoder.save(bundled / 'plankton', made)
  for preset in ('synthetic', 'planktonset9'):
    transfer.check(finetune.get_config(preset).to_dict())
  with pytest.raises(InputError, match=r'data.size=64, not 128'):
    config = finetune.get_config().to_dict()
    config['data']['size'] = 128
    transfer.check(config)
