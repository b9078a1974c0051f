import json

import pytest

from configs import smoke
from plankton_jax.errors import InputError
from plankton_jax.files import config_file
from plankton_jax.nn import encoders


@pytest.fixture
def config():
  return smoke.get_config().to_dict()


def test_a_config_is_compared_as_it_was_written(config, tmp_path):
  config_file.compare(config, tmp_path)  # a new workdir
  config_file.write(config, tmp_path)
  config_file.compare(config, tmp_path)
  with pytest.raises(InputError, match=r'epochs: .* there, 99 now'):
    config_file.compare(config | {'epochs': 99}, tmp_path)


@pytest.mark.parametrize(
  ('data', 'reason'),
  [
    (b'', 'no JSON'),
    (b'{"data": {"si', 'no JSON'),
    (b'{"citation": "\xff"}', "'utf-8' codec"),
    (b'{"a": ' * 100_000, 'nested too deeply'),
    (b'[1, 2]', 'of type list'),
    (b'{"data": 3}', 'begun with another config'),
  ],
)
def test_a_damaged_config_is_one_line_that_names_it(
  data, reason, config, tmp_path
):
  (tmp_path / 'config.json').write_bytes(data)
  with pytest.raises(InputError, match=reason) as error:
    config_file.compare(config, tmp_path)
  assert str(tmp_path) in str(error.value)
  assert '--workdir' in str(error.value)
  assert len(str(error.value).splitlines()) == 1


def test_a_section_of_another_version_is_named(config):
  saved = json.loads(json.dumps(config))
  assert config_file.build(encoders.make, saved, 'encoder')
  saved['encoder']['other'] = saved['encoder'].pop('poses')
  with pytest.raises(
    InputError, match=r'has no encoder\.poses, has encoder\.o'
  ):
    config_file.build(encoders.make, saved, 'encoder')


@pytest.mark.parametrize('section', [None, 3, []])
def test_a_section_that_is_no_dict_is_named(section, config):
  saved = config | {'encoder': section}
  with pytest.raises(InputError, match="no section 'encoder'"):
    config_file.build(encoders.make, saved, 'encoder')
  del saved['encoder']
  with pytest.raises(InputError, match="no section 'encoder'"):
    config_file.build(encoders.make, saved, 'encoder')


def test_a_field_whose_name_is_no_line_is_quoted(config, tmp_path):
  saved = config | {'x\ny': 1}
  (tmp_path / 'config.json').write_text(json.dumps(saved))
  with pytest.raises(InputError, match=r"\('x\\ny': 1 there, None now\)"):
    config_file.compare(config, tmp_path)
