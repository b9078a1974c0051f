import pathlib
import subprocess
import sys

import pytest

from configs import triplet
from plankton_jax.cli import config_help

ROOT = pathlib.Path(__file__).parents[1]


def test_comments_stand_behind_above_or_at_a_section(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'def get_config():\n'
    '  config = ConfigDict()\n'
    "  config.one = '# no comment'  # behind\n"
    '  # above, on\n'
    '  # two lines\n'
    '  config.two = 2\n'
    '  config.part = part = ConfigDict()  # a section\n'
    '  part.deep = (\n'
    '    1,\n'
    '  )  # at its end\n'
    '\n'
    '  # of nothing\n'
    '\n'
    '  part.bare = 1\n'
    '  other.name = 1  # of no config\n'
    '  config.part.deep = 3  # a later value\n'
  )
  assert config_help.comments(path) == {
    'one': 'behind',
    'two': 'above, on two lines',
    'part': 'a section',
    'part.deep': 'at its end',
  }


def test_what_base_says_of_a_field_stays(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from configs import triplet\n'
    'def get_config():\n'
    '  config = triplet.get_config()\n'
    '  config.epochs = 3  # few\n'
    '  config.mine = 3  # new\n'
  )
  found = config_help.comments(path)
  assert found['epochs'] == 'passes over the training images'
  assert found['objective.margin'] == 'of the loss, in objective.distance'
  assert found['mine'] == 'new'


@pytest.mark.parametrize(
  'name', sorted(path.stem for path in (ROOT / 'configs').glob('[a-z]*.py'))
)
def test_every_field_of_every_config_has_a_comment(name):
  module = __import__(f'configs.{name}', fromlist=['get_config'])
  found = config_help.comments(module.__file__)
  flat = []

  def walk(tree, prefix):
    for key, value in tree.items():
      if isinstance(value, dict):
        walk(value, f'{prefix}{key}.')
      else:
        flat.append(prefix + key)

  walk(module.get_config().to_dict(), '')
  assert len(flat) > 30
  assert [field for field in flat if field not in found] == []


def test_values_are_shown_as_flags_take_them():
  config = triplet.get_config('flowcamnet').to_dict()
  lines = config_help.describe(config, {'epochs': 'passes'}).splitlines()
  assert '  epochs=35                     passes' in lines
  assert "  data.path=''" in lines
  rows = "((0,'easy','semihard'),(10,'easy','hard'),(25,'hard','hard'))"
  assert f'  curriculum={rows}' in lines


def test_help_shows_fields_with_their_values_without_jax(tmp_path, python):
  config = f'--config={ROOT}/configs/triplet.py:planktonset9'
  # --help comes first, and still knows the flags behind it.
  flags = '--help', config, '--config.objective.margin=0.25'
  run = python(ROOT / 'launch.py', *flags, cwd=tmp_path)
  assert run.returncode == 0
  lines = run.stdout.splitlines()
  shown = ' '.join(run.stdout.split())
  assert (
    ' objective.margin=0.25 of the loss, in objective.distance'
    ' [a number from 0] '
  ) in shown
  assert (
    "  data.source=folder            'synthetic', 'folder', 'ecotaxa' or 'tfds'"
    in (lines)
  )
  assert '--workdir' in run.stdout and 'copepod_calanoid' in run.stdout
  assert list(tmp_path.iterdir()) == []
  run = python(ROOT / 'launch.py', '--help', cwd=tmp_path)
  assert run.returncode == 0 and '  epochs=35 ' in run.stdout
  assert 'objective.margin' not in run.stdout
  # A module that cannot be found would fail the import of JAX.
  (tmp_path / 'jax.py').write_text('raise ImportError("JAX is imported")')
  run = subprocess.run(
    [sys.executable, 'launch.py', '--help', '--config=configs/smoke.py'],
    cwd=ROOT,
    env={'PYTHONPATH': str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--config=configs/nope.py'], 'configs/nope.py: no such config file'),
    (['--config=configs/smoke.py', '--config.epoch=1'], 'epoch'),
    (['--config=configs/triplet.py:nope'], "preset 'nope' is unknown"),
  ],
)
def test_help_on_a_wrong_config_is_one_line(flags, message, python):
  run = python('launch.py', *flags, '--help')
  assert run.returncode == 2 and message in run.stderr
  assert run.stderr.startswith('error: ') and 'Traceback' not in run.stderr
