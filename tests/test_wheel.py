"""The wheel, installed with nothing else of the repository in sight."""

import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile

import numpy as np
import pytest
from PIL import Image

import plankton_jax as pj
from configs import smoke
from tests import command_runner, tiny_encoder

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = ('plankton_jax', 'analysis', 'configs', 'requirements')
# The smallest run that is still the whole path.
SMALL = {
  'epochs': 1,
  'validations_per_epoch': 1,
  'data.per_class': 8,
  'data.size': 16,
  'batch.size': 18,
  'encoder.name': 'resnet10',
  'encoder.width': 4,
  'encoder.embedding_dim': 8,
  'optimizer.schedule': 'constant',
}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Builds the wheel from a copy, which the build may write into."""
  clone = tmp_path_factory.mktemp('clone')
  for name in SOURCES:
    shutil.copytree(
      ROOT / name, clone / name, ignore=shutil.ignore_patterns('__pycache__')
    )
  config = smoke.get_config()
  config.update_from_flattened_dict(SMALL)
  tiny_encoder.save(
    clone / 'plankton_jax' / 'encoders' / 'tiny', config.to_dict()
  )
  for file in ROOT.iterdir():
    if file.suffix in ('.toml', '.txt', '.md') or file.name == 'LICENSE':
      shutil.copy(file, clone)
  # As pip does, but with the setuptools that is installed here.
  build = 'from setuptools import build_meta; build_meta.build_wheel("out")'
  command = [sys.executable, '-c', build]
  subprocess.run(command, cwd=clone, check=True, capture_output=True)
  (built,) = (clone / 'out').glob('*.whl')
  return built


@pytest.fixture(scope='module')
def site(wheel, tmp_path_factory):
  """The folder that the wheel is installed into."""
  site = tmp_path_factory.mktemp('site')
  install = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps']
  where = ['--no-index', '--no-compile', f'--target={site}']
  subprocess.run([*install, *where, wheel], check=True)
  return site


@pytest.fixture(scope='module')
def run(site, tmp_path_factory):
  """Returns a function that runs a script or a command of the wheel.

  Its dependencies are this environment's; the repository is not on the path.
  """
  folder = tmp_path_factory.mktemp('elsewhere')
  with command_runner.started(folder, site) as start:

    def run(name, *more):
      script = name if name.startswith('-') else site / 'bin' / name
      done = command_runner.finish(start, script, *more, cwd=folder)
      assert done.returncode == 0, done.stdout + done.stderr
      return done.stdout

    where = 'import analysis, plankton_jax as pj; print(analysis, pj)'
    assert run('-c', where).count(f"'{site}/") == 2
    yield run


def test_the_wheel_holds_the_packages_alone(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  info = f'plankton_jax-{pj.__version__}.dist-info'
  assert {name.split('/')[0] for name in names} == {
    'plankton_jax', 'analysis', 'configs', info,
  }  # fmt: skip
  assert 'plankton_jax/py.typed' in names  # and the report's templates:
  ours = {
    str(path.relative_to(ROOT))
    for name in ('plankton_jax', 'analysis', 'configs')
    for path in (ROOT / name).rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  }
  assert ours <= set(names)


def test_metadata_names_the_version_and_the_extras(wheel):
  (metadata,) = importlib.metadata.distributions(path=[str(wheel)])
  assert metadata.version == pj.__version__
  needed = metadata.requires
  extras = set(metadata.metadata.get_all('Provides-Extra'))
  assert extras == {
    'analysis', 'report', 'review', 'export', 'search', 'tests', 'docs',
    'bench',
  }  # fmt: skip
  always = [line for line in needed if 'extra ==' not in line]
  assert any(line.startswith('jax>=') for line in always)
  heavy = ('scikit-learn', 'matplotlib', 'bokeh', 'torch', 'pytest', 'mkdocs')
  assert not any(line.startswith(heavy) for line in always)
  report = [line for line in needed if 'extra == "report"' in line]
  assert {re.match(r'[\w-]+', line)[0] for line in report} >= {
    'bokeh', 'matplotlib', 'scikit-learn',
  }  # fmt: skip


def test_the_changelog_has_the_version():
  text = (ROOT / 'CHANGELOG.md').read_text()
  assert re.search(rf'^## {re.escape(pj.__version__)} ', text, re.MULTILINE)


def test_a_run_from_the_wheel_alone(run, caches):
  fields = SMALL | {
    'curriculum': "((0,'easy','semihard'),)",  # as in other tests
    'compilation_cache_dir': caches / 'compiled',
    'data.cache_dir': caches / 'data',
  }
  overrides = [f'--config.{name}={value}' for name, value in fields.items()]
  # The config is the installed one: there is no such file in this folder.
  run(
    'plankton-train', '--config=configs/smoke.py', '--workdir=run', *overrides
  )
  run('plankton-embed', '--workdir=run')
  run('-m', 'analysis.retrieval', '--workdir=run')
  said = run(
    '-c',
    textwrap.dedent("""
      import numpy as np
      import plankton_jax as pj

      encoder = pj.load_encoder('run')
      saved = np.load('run/embeddings/unseen.npz', allow_pickle=False)
      images = np.zeros((2, 16, 16, 1), np.uint8)
      print(encoder.embed(images).shape, saved['embedding'].shape)
      print(pj.retrieval.evaluate(saved['embedding'], saved['label'], ks=(1,)))
    """),
  )
  assert said.startswith('(2, 8) (24, 8)\n')
  assert 'map_at_r' in said


def test_a_bundled_encoder_comes_with_the_wheel(run, tmp_path):
  images = tmp_path / 'images'
  images.mkdir()
  Image.fromarray(np.full((9, 9), 80, np.uint8)).save(images / 'a.png')
  run(
    'plankton-embed', '--encoder=tiny', f'--images={images}', '--out=a.parquet'
  )
  code = 'import plankton_jax as pj; print(pj.load_encoder("tiny").class_names)'
  assert run('-c', code) == "('ant', 'bee')\n"


def test_the_doctor_and_help_run_from_the_wheel(run, site, tmp_path):
  # In a process of its own, as it is typed.
  said = subprocess.run(
    ['plankton-train', '--config=configs/triplet.py:demo', '--help'],
    cwd=tmp_path,
    env=os.environ
    | {
      'PYTHONPATH': str(site),
      'PATH': f'{site / "bin"}{os.pathsep}{os.environ["PATH"]}',
    },
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert 'data.unseen_classes' in said
  assert 'images/s' in run('-m', 'plankton_jax.doctor', '--step_seconds=0')


def test_the_import_is_light_and_every_name_is_there():
  code = """
    import sys
    import plankton_jax as pj
    heavy = {'jax', 'numpy', 'flax', 'orbax', 'sklearn', 'matplotlib'}
    assert not heavy & set(sys.modules), heavy & set(sys.modules)
    assert set(pj.__all__) <= set(dir(pj))
    pj.train_and_evaluate, pj.load_encoder, pj.mine_triplets
    assert pj.distances.squared and pj.objectives.triplet
    assert pj.retrieval.evaluate
  """
  command = [sys.executable, '-c', textwrap.dedent(code)]
  subprocess.run(command, cwd=ROOT, check=True)
  with pytest.raises(AttributeError, match='no attribute'):
    _ = pj.no_such_name


def test_every_script_names_a_function():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  from plankton_jax.cli import scripts

  for name, place in project['scripts'].items():
    module, _, function = place.partition(':')
    assert module == scripts.__name__
    assert name == f'plankton-{function}'
    assert callable(getattr(scripts, function))
