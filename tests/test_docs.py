"""The guides for people promise only what is there."""

import importlib.util
import pathlib
import re

import pytest

from configs import triplet

ROOT = pathlib.Path(__file__).parents[1]
GUIDES = ('ecologist', 'student', 'researcher', 'engineer')


@pytest.fixture(params=GUIDES)
def guide(request):
  return (ROOT / f'docs/{request.param}.md').read_text()


def test_links_and_named_files_exist(guide):
  for name in set(re.findall(r'\]\((?!http)([^)#]+)\)', guide)):
    assert (ROOT / 'docs' / name).exists(), name
  named = re.findall(
    r'\b((?:plankton_jax|configs|tests)/[\w/]*(?:\.py)?)', guide
  )
  for name in set(named) - {'configs/', 'configs/mine.py'}:
    assert (ROOT / name).exists(), name


def test_commands_exist(guide):
  modules = set(re.findall(r'python -m ([\w.]+)', guide))
  for module in modules:
    assert importlib.util.find_spec(module), module
  for script in re.findall(r'python (\w+\.py)', guide):
    assert (ROOT / script).exists(), script


def test_fields_exist(guide):
  fields = set(re.findall(r'config\.([a-z]\w*(?:\.[a-z]\w*)*)', guide))
  for name in fields:
    value = triplet.get_config()
    for part in name.split('.'):
      value = value[part]


def test_flags_exist(guide):
  known = {'workdir', 'config', 'dry_run', 'help', 'accept_changes'}
  for command in re.findall(r'python launch\.py[^`]*?(?:\n(?! )|`)', guide):
    for flag in re.findall(r'--(\w+)', command):
      assert flag in known, flag


def test_readme_links_every_guide():
  readme = (ROOT / 'README.md').read_text()
  for name in GUIDES:
    assert f'(docs/{name}.md)' in readme
