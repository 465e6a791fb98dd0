"""Keep secrets out of files, logs and messages.

An experiment travels to every worker and into `config.json`, rows, logs and the report. An experiment that contains a
secret is therefore refused (`find_secret`), and secrets belong in the environment. `mask` cleans text from other
programs, such as error messages.
"""

import os
import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

MASK = "***"
HINT = "give it in the environment instead (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, HF_TOKEN, WANDB_API_KEY, ...)"
_PASSWORD = re.compile(r"""(?<=://)[^/\s"':@?#]*:[^/\s"'@?#]+(?=@)""")  # user:password@ of a URI
_OPTION = re.compile(
    r"""(?i)(?<=[?&])((?:[\w.-]*(?:secret|token|password|signature|credential|access_?key|api[_-]?key)|sig)=)[^&\s"']+"""
)
_KEY = re.compile(r"(?i)(?:^|[_-])(?:token|secret|password|api_?key|access_key)$")
_VARIABLE = re.compile(r"(?:TOKEN|SECRET|PASSWORD|API_?KEY|ACCESS_KEY|ACCESS_KEY_ID)$")
_MIN_CHARACTERS = 8  # a shorter value may be an ordinary word


def has_secret(text: str) -> bool:
    """Whether a URI contains a password or a key.

    >>> has_secret("s3://KEY:SECRET@bucket/run"), has_secret("s3://bucket/run?endpoint_override=http://host:9000")
    (True, False)
    """
    return bool(_PASSWORD.search(text) or _OPTION.search(text))


def find_secret(settings: Any, key: str = "") -> str | None:
    """The dotted key of the first setting that is a secret or a URI with a secret; None if there is none."""
    if isinstance(settings, dict):
        pairs = [(f"{key}.{name}".strip("."), value) for name, value in settings.items()]
        return next((found for name, value in pairs if (found := find_secret(value, name))), None)
    if isinstance(settings, list | tuple):
        return next((found for value in settings if (found := find_secret(value, key))), None)
    if isinstance(settings, str) and settings and (has_secret(settings) or _KEY.search(key.rpartition(".")[2])):
        return key
    return None


def mask(text: str) -> str:
    """The text without the passwords and keys in its URIs, and without the secrets in this process's environment."""
    for name, value in os.environ.items():
        if _VARIABLE.search(name) and len(value) >= _MIN_CHARACTERS:
            text = text.replace(value, MASK)
    return _OPTION.sub(rf"\g<1>{MASK}", _PASSWORD.sub(MASK, text))


def split_password(uri: str) -> tuple[str, str | None, str | None]:
    """A URI without its user and password, then the user and the password.

    >>> split_password("https://me:word@host:5000/x")
    ('https://host:5000/x', 'me', 'word')
    """
    parts = urlsplit(uri)
    if parts.password is None:
        return uri, None, None
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), parts.username, parts.password
