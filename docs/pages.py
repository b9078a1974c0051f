"""Writes the pages that mkdocs does not find in docs/, while it builds.

The home page is README.md; the reference has a page for each module, made by
walking the packages, so that a new or renamed module needs no edit here.
"""

import pathlib
import re

import mkdocs_gen_files

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGES = ('plankton_jax', 'analysis', 'configs')
_COPIES = {  # file of the repository: page of the site
  'README.md': 'index.md',
  'CONTRIBUTING.md': 'contributing.md',
  'CHANGELOG.md': 'changelog.md',
}
_FILES = ('LICENSE', 'examples/first_embedding.ipynb')
_LINK = re.compile(r'(\]\(|href="|src=")([^)"#:]+)(?=[)"#])')


def copy_pages() -> None:
  """Copies the pages at the root, and rewrites links that leave docs/."""
  for path in (_ROOT / 'docs').glob('*.md'):
    _write(path.name, path, folder='docs')
  for name, page in _COPIES.items():
    _write(page, _ROOT / name, folder='')
  for name in _FILES:
    with mkdocs_gen_files.open(name, 'wb') as file:
      file.write((_ROOT / name).read_bytes())


def write_reference() -> None:
  """Writes a page for each module, and the navigation between them."""
  nav = mkdocs_gen_files.Nav()
  for path in _modules():
    parts = path.with_suffix('').parts
    page = pathlib.Path(*parts).with_suffix('.md')
    if parts[-1] == '__init__':
      parts, page = parts[:-1], page.with_name('index.md')
    nav[parts] = str(page)
    with mkdocs_gen_files.open(f'reference/{page}', 'w') as file:
      print(f'# {parts[-1]}\n\n::: {".".join(parts)}', file=file)
  with mkdocs_gen_files.open('reference/SUMMARY.md', 'w') as file:
    file.writelines(nav.build_literate_nav())


def _modules() -> list[pathlib.Path]:
  """Lists the modules with content, relative to the repository."""
  found = []
  for package in _PACKAGES:
    for path in sorted((_ROOT / package).rglob('*.py')):
      if path.name != '__main__.py' and path.stat().st_size:
        found.append(path.relative_to(_ROOT))
  return found


def _write(page: str, source: pathlib.Path, *, folder: str) -> None:
  """Writes a page whose links are relative to `folder` of the repository."""

  def rewrite(match: re.Match) -> str:
    target = pathlib.PurePosixPath(folder, match[2])
    parts: list[str] = []
    for part in target.parts:
      if part == '..':
        parts.pop()
      else:
        parts.append(part)
    return match[1] + _place('/'.join(parts))

  with mkdocs_gen_files.open(page, 'w') as file:
    file.write(_LINK.sub(rewrite, source.read_text(encoding='utf-8')))


def _place(path: str) -> str:
  """Returns the site's path of a file of the repository."""
  if path.endswith('.py'):
    return f'reference/{path.removesuffix(".py")}.md'
  return _COPIES.get(path, path.removeprefix('docs/'))


copy_pages()
write_reference()
