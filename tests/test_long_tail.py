"""A folder as users have them, from training to prediction, with no flag."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from analysis import audit, confusions, embed, predict, report, retrieval
from analysis.files import inputs, result
from plankton_jax.train import loop

SIZES = {'ant': 40, 'bee': 40, 'cat': 3, 'dog': 2, 'eel': 1}


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """Noise about a grey level and a stripe of its own a class."""
  rng = np.random.default_rng(0)
  root = tmp_path_factory.mktemp('tail')
  for label, (name, count) in enumerate(SIZES.items()):
    (root / 'images' / name).mkdir(parents=True)
    for i in range(count + 1):  # the last one is new
      pixels = rng.normal(40 + 45 * label, 9, (16, 16))
      pixels[:, 3 * label : 3 * label + 3] += 60
      picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
      if i < count:
        picture.save(root / f'images/{name}/{i}.png')
      else:
        (root / 'new').mkdir(exist_ok=True)
        picture.save(root / f'new/{name}.png')
  return root


def test_classes_of_three_two_and_one_image_stop_nothing(
  images, make_config, tmp_path, capsys
):
  config = make_config(
    data__source='folder',
    data__path=str(images / 'images'),
    epochs=2,
    validations_per_epoch=1,
  )
  workdir = tmp_path / 'run'
  loop.train_and_evaluate(config, workdir)
  accounts = json.loads((workdir / 'accounting.json').read_text())
  assert accounts['read'] == 86 == sum(accounts['kept'].values())
  assert accounts['kept']['rare'] == 6 and accounts['kept']['unseen'] == 0
  embed.embed_run(workdir, None)
  (source,) = inputs.from_workdirs([workdir])
  rare = source.splits['rare']
  assert sorted(np.array(rare.class_names)[rare.label]) == [
    *('cat', 'cat', 'cat', 'dog', 'dog', 'eel')
  ]
  parts = {
    'retrieval': retrieval.analyse,
    'confusions': confusions.analyse,
    'audit': audit.analyse,
  }
  result.write(
    report.analyse([source], tmp_path / 'out', parts=parts), tmp_path / 'out'
  )
  assert 'Retrieval' in (tmp_path / 'out/report.html').read_text()
  found = predict.analyse([source], predict.Asked(images=str(images / 'new')))
  result.write(found, tmp_path / 'out')
  with (tmp_path / 'out/predictions.csv').open() as file:
    lines = {line['file']: line for line in csv.DictReader(file)}
  assert lines.keys() == {f'{name}.png' for name in SIZES}
  with (tmp_path / 'out/classes.csv').open() as file:
    classes = {line['class']: line for line in csv.DictReader(file)}
  assert {name: int(c['labelled']) for name, c in classes.items()} == {
    'ant': 30, 'bee': 30, 'cat': 3, 'dog': 2, 'eel': 1
  }  # fmt: skip
  assert [classes[name]['trained'] for name in SIZES] == [
    *('True', 'True', 'False', 'False', 'False')
  ]
  # A class of one image answers, too: with its only image next to the new one.
  assert any(
    line['nearest_class'] in ('cat', 'dog', 'eel') for line in lines.values()
  )
