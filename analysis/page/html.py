"""The page: figures and data set into the template."""

import base64
import hashlib
import pathlib
from typing import Any

from analysis.figures import figures

PAGE = pathlib.Path(__file__).parent
DPI = figures.STYLE['savefig.dpi']
LARGEST_SVG = 600_000  # bytes; a larger figure goes in as PNG


def figure(path: pathlib.Path) -> dict[str, Any]:
  """A PNG as data URI, its SVG where that is small, and its size in CSS px."""
  from PIL import Image

  with Image.open(path) as image:
    width, height = (round(side * 96 / DPI) for side in image.size)
  svg, kind = path.with_suffix('.svg'), 'png'
  if svg.exists() and svg.stat().st_size <= LARGEST_SVG:
    path, kind = svg, 'svg+xml'
  text = base64.b64encode(path.read_bytes()).decode()
  uri = f'data:image/{kind};base64,{text}'
  return {'uri': uri, 'width': width, 'height': height}


def script(*names: str) -> str:
  """Script files of this folder, in this order, as one."""
  return '\n'.join((PAGE / name).read_text() for name in names)


def render(template: str, scripts: dict[str, str], **values: Any) -> str:
  """The page. `scripts`, by the names that it gives them, run by their hash and
  no other script does."""
  import jinja2
  from markupsafe import Markup

  hashes = [
    base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    for text in scripts.values()
  ]
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(PAGE),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['breakable'] = lambda name: Markup('_<wbr>').join(
    name.split('_')
  )
  return environment.get_template(template).render(
    style=Markup((PAGE / 'report.css').read_text()),
    policy=' '.join(f"'sha256-{digest}'" for digest in hashes),
    **{name: Markup(text) for name, text in scripts.items()},
    **values,
  )
