"""Every command of README.md, CONTRIBUTING.md and docs/ runs, or says why not.

A block of commands runs as it is written, page by page, in a folder that holds
what the placeholders name. A comment in the page before a block,
`<!-- needs a download: WHAT -->` or another need, leaves it out.
"""

import contextlib
import pathlib
import re
import shlex
import tomllib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from configs import finetune
from tests import packing, test_ifcb, tiny_encoder

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
  'README.md',
  'CONTRIBUTING.md',
  *sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md')),
]
BLOCK = re.compile(
  r'(?:^ *<!-- needs (?P<needs>[^\n]+) -->\n)?'
  r'^ *```(?:sh|bash|shell|console)\n(?P<text>.*?)^ *```$',
  re.MULTILINE | re.DOTALL,
)
CLASSES = ('ant', 'bee', 'cat', 'dog', 'eel', 'fox')
# What launch.py trains in the tests: small, but the whole path.
SMALL = {
  'epochs': 1,
  'validations_per_epoch': 1,
  'curriculum': "((0,'easy','semihard'),)",
  'data.per_class': 12,
  'data.size': 16,
  'data.unseen_classes': 2,
  'batch.size': 8,
  'encoder.name': 'resnet10',
  'encoder.width': 4,
  'encoder.embedding_dim': 8,
  'encoder.poses': 1,
  'optimizer.schedule': 'constant',  # one program for any number of steps
}
# What each benchmark measures in the tests, which time nothing.
BRIEF = {
  'benchmarks.accelerator': ['--tiny', '--only=limits'],
  # UMAP is tests/test_projection.py's, and takes seconds to compile.
  'analysis.report': ['--method=pca'],
  'analysis.review': ['--prepare'],  # which serves no page
  'plankton_jax.doctor': ['--step_seconds=0'],
}
# The same line of these runs once: they are slow and end a page, or do not
# write over a folder that is there.
ONCE = ('analysis.report', 'analysis.predict', 'plankton_jax.export')


class Command(NamedTuple):
  """A line of a page's block."""

  page: str
  text: str
  needs: str  # what has to be downloaded first; '' for nothing


def commands(page: str) -> list[Command]:
  """Lists a page's commands in order, continued lines joined."""
  found = []
  for block in BLOCK.finditer((ROOT / page).read_text()):
    for line in block['text'].replace('\\\n', ' ').splitlines():
      text = ' '.join(line.split())
      if text and not text.startswith('#'):
        found.append(Command(page, text, block['needs'] or ''))
  return found


def arguments(command: Command) -> list[str]:
  """Splits a command as a shell does, without comments."""
  return shlex.split(command.text, comments=True)


EVERY = [command for page in PAGES for command in commands(page)]
HERE = [command for command in EVERY if not command.needs]
PYTHON = [c for c in HERE if arguments(c)[0].endswith('python')]


def test_every_command_is_accounted_for():
  assert len(EVERY) > 40 and len(PYTHON) > 15
  makefile = (ROOT / 'Makefile').read_text()
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  extras = project['tool']['setuptools']['dynamic']['optional-dependencies']
  for command in HERE:
    name, *args = arguments(command)
    if name == 'make':
      for target in args:
        if '=' not in target:
          assert re.search(rf'^{target}:', makefile, re.MULTILINE), command
    elif name.endswith('pip'):  # tests/test_wheel.py installs the package
      assert args[0] == 'install', command
      for named in re.findall(r'\.\[(.+)\]', command.text):
        assert set(named.split(',')) <= extras.keys(), command
      for file in re.findall(r'--requirement (\S+)', command.text):
        assert (ROOT / file).is_file(), command
    else:
      assert command in PYTHON or name == '.ci/run', command


def test_no_block_of_commands_is_overlooked():
  for page in PAGES:
    text = (ROOT / page).read_text()
    fences = re.findall(r'^ *```(\w*)$', text, re.MULTILINE)
    opened = fences[::2]
    assert set(opened) <= {'sh', 'python', 'text'}, page
    assert opened.count('sh') == len(BLOCK.findall(text)), page
    notes = len(re.findall(r'^ *<!-- needs ', text, re.MULTILINE))
    assert notes == sum(bool(b['needs']) for b in BLOCK.finditer(text)), page


@pytest.fixture(scope='module')
def statuses(tmp_path_factory, caches, python):
  """Runs the commands; {command: (status, output)}."""
  folder = tmp_path_factory.mktemp('pages')
  ended = {}
  first = folder / 'README'
  for page in PAGES:
    found = [command for command in PYTHON if command.page == page]
    if not found:
      continue
    # Pages that do not train use README's run.
    if any('launch.py' in command.text for command in found):
      cwd = folder / pathlib.Path(page).stem
      _furnish(cwd)
    else:
      cwd = first
    for command in found:
      if (same := _ran_before(command, ended)) is not None:
        ended[command] = ended[same]
        continue
      argv = arguments(command)[1:]
      if argv[0] == 'launch.py':
        argv += _small(caches)
      argv += BRIEF.get(argv[1], []) if argv[0] == '-m' else []
      done = python(*argv, cwd=cwd)
      ended[command] = done.returncode, done.stdout + done.stderr
  return ended


@pytest.mark.parametrize('command', PYTHON, ids=lambda c: f'{c.page}: {c.text}')
def test_a_command_runs_as_it_is_written(command, statuses):
  status, output = statuses[command]
  assert status == 0 and 'Traceback' not in output, output[-3000:]


def _ran_before(command: Command, ended: Iterable[Command]) -> Command | None:
  """Finds the same line on an earlier page, if it is one that runs once."""
  if not any(f'-m {name} ' in command.text for name in ONCE):
    return None
  return next((c for c in ended if c.text == command.text), None)


def _small(caches: pathlib.Path) -> list[str]:
  fields = SMALL | {
    'compilation_cache_dir': caches / 'compiled',
    'data.cache_dir': caches / 'data',
  }
  return [f'--config.{name}={value}' for name, value in fields.items()]


def _furnish(folder: pathlib.Path) -> None:
  """Puts what the pages' placeholders name into a folder."""
  folder.mkdir()
  for name in ('launch.py', 'configs'):
    (folder / name).symlink_to(ROOT / name)
  files = {
    f'{name}/{i}.png': packing.picture(20 * label + i, (18, 18))
    for label, name in enumerate(CLASSES)
    for i in range(20)
  }
  packing.tree(folder / 'FOLDER', files)
  few = {name: data for name, data in files.items() if name[-5] in '123'}
  packing.tree(folder / 'FEW', few)
  Image.fromarray(np.zeros((18, 18), np.uint8)).save(folder / 'IMAGE', 'PNG')
  # In place of the bundled encoder, with the network of SMALL.
  config = finetune.get_config()
  config.update_from_flattened_dict(
    {name: SMALL[name] for name in SMALL if name.startswith('encoder.')}
    | {'data.size': SMALL['data.size'], 'encoder.pretrained': ''}
  )
  tiny_encoder.save(folder / 'plankton', config.to_dict())
  export = {f'images/{name}': data for name, data in files.items()}
  export['ecotaxa_export.tsv'] = _table(list(files)).encode()
  packing.tree(folder / 'EXPORT', export)
  for name in ('EXPORT.zip', 'export_123.zip'):
    packing.pack_zip(folder / name, export)
  region = (1, 10, 20, np.full((18, 18), 90, np.uint8))
  test_ifcb.make(folder / 'BINS', test_ifcb.NEW, [region])
  lineages = [f'{c},living>{"ab"[i % 2]}>{c}\n' for i, c in enumerate(CLASSES)]
  (folder / 'taxa.csv').write_text('taxon,lineage\n' + ''.join(lineages))
  made = re.findall(
    r'^```python\n(import numpy.*?)^```$',
    (ROOT / 'docs/researcher.md').read_text(),
    re.MULTILINE | re.DOTALL,
  )
  with contextlib.chdir(folder):
    exec(*made)


def _table(files: list[str]) -> str:
  """Writes an EcoTaxa table of images, each class in five samples."""
  columns = (
    'img_file_name', 'object_id', 'object_annotation_status',
    'object_annotation_category', 'sample_id', 'acq_id',
  )  # fmt: skip
  lines = ['\t'.join(columns)]
  for i, file in enumerate(files):
    sample = i % 5
    row = (f'images/{file}', f'o{i}', 'validated', file.split('/')[0])
    lines.append('\t'.join((*row, f's{sample}', f'a{sample}')))
  return '\n'.join(lines) + '\n'
