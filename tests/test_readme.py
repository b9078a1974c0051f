"""The README promises only what is there."""

import importlib
import importlib.util
import itertools
import pathlib
import re

import pytest
from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
PAGES = [README, (ROOT / 'CONTRIBUTING.md').read_text()]


@pytest.mark.parametrize('page', PAGES, ids=['README', 'CONTRIBUTING'])
def test_links_and_named_folders_exist(page):
  links = re.findall(r'\]\((?!http)([^)#]+)\)', page)
  folders = re.findall(r'`((?:plankton_jax|configs|analysis|tests)/\w*)`', page)
  for name in links + folders:
    assert (ROOT / name).exists(), name


def test_commands_exist():
  makefile = (ROOT / 'Makefile').read_text()
  for target in re.findall(r'^make (\w+)', README, re.MULTILINE):
    assert re.search(rf'^{target}:', makefile, re.MULTILINE), target
  modules = set(re.findall(r'python -m ([\w.]+)', README))
  assert modules >= {'analysis.embed', 'analysis.report'}
  for module in modules:
    assert importlib.util.find_spec(module), module
  for script in re.findall(r'python (\w+\.py)', README):
    assert (ROOT / script).exists(), script


def _configs():
  """(file, preset) of every config that the README names."""
  named = set(re.findall(r'`?configs/(\w+)\.py(?::(\w+))?', README))
  presets = {preset for _, preset in named} | set(
    re.findall(r'`:(\w+)`', README)
  )
  triplet = {('triplet', preset) for preset in presets if preset}
  return sorted((named | triplet) - {('base', '')})


@pytest.mark.parametrize(('name', 'preset'), _configs())
def test_configs_load(name, preset):
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config(*[preset] if preset else [])
  assert isinstance(config, ConfigDict)


def test_overrides_name_fields_that_exist():
  from configs import triplet

  fields = set(re.findall(r'config\.([a-z_.]+)', README))
  fields -= {'section.field', 'json', 'py'}
  assert fields
  for name in fields:
    value = triplet.get_config()
    for part in name.rstrip('.').split('.'):
      value = value[part]


def test_every_field_has_a_comment():
  source = (ROOT / 'configs/base.py').read_text()
  body = source[source.index('def get_config') : source.index('def use_preset')]
  fields = 0
  lines = body.splitlines()
  for before, line in itertools.pairwise(lines):
    if not re.match(r'  \w+\.\w+ = ', line) or 'ConfigDict()' in line:
      continue
    fields += 1
    assert '#' in line or before.lstrip().startswith('#'), line
  assert fields > 30
