"""The options by which a command names the language model that it asks, and the answerer that they name."""

from __future__ import annotations

import argparse
import json
import math
import os
from typing import TYPE_CHECKING, Any

from mllm_embed.errors import ConfigError

if TYPE_CHECKING:
    from ..triplets.endpoint import Endpoint
    from ..triplets.local import Local

KEY_VARIABLE = "OPENAI_API_KEY"
TEMPERATURE = 0.7
KEY_HELP = """\
The key is read from the environment and sent to the --endpoint alone. --extra adds fields to the request, or takes one
away that the server does not know: '{"max_tokens": null, "max_completion_tokens": 2000, "temperature": null}'.
"""


def add_answerer_options(
    parser: argparse.ArgumentParser, unit: str, model: str = "--model", tokens: str = "--max-tokens"
) -> None:
    """Add --endpoint, --local and what goes with them.

    Args:
        parser: of the command.
        unit: what is asked about, in the plural.
        model: the option for the name of the endpoint's model.
        tokens: that for the longest answer.
    """
    asked = parser.add_argument_group("who is asked (one of two)")
    add = asked.add_argument
    add("--endpoint", metavar="URL", help=f"address of an OpenAI-compatible server, with {model}")
    add(model, dest="endpoint_model", metavar="NAME", help="the model's name at the endpoint")
    add("--local", metavar="MODEL", help="folder or hub id of a model with a chat template")
    add("--temperature", type=at_least_0, metavar="T", help=f"0 takes the likeliest words (default {TEMPERATURE})")
    add(tokens, dest="answer_tokens", type=count, default=1024, metavar="N", help="longest answer (default 1024)")
    add("--concurrency", type=count, default=8, metavar="N", help=f"{unit} asked at a time (default 8)")
    add(
        "--key-variable", metavar="NAME",
        help=f"environment variable with the endpoint's key (default {KEY_VARIABLE}, if it is set)",
    )  # fmt: skip
    add("--timeout", type=count, default=120, metavar="S", help="seconds to wait (default 120)")
    add("--extra", type=_object, default={}, metavar="JSON", help="further fields of the request")
    parser.set_defaults(endpoint_option=model)


def check_one_asked(arguments: argparse.Namespace) -> None:
    """Raise ConfigError where not exactly one of the two is to be asked, or options do not belong to the one."""
    if bool(arguments.endpoint) == bool(arguments.local):
        raise ConfigError(
            f"give either --endpoint URL with {arguments.endpoint_option} NAME, or --local MODEL (--dry-run needs "
            "neither)"
        )
    if arguments.endpoint:
        return
    belonging = {
        arguments.endpoint_option: arguments.endpoint_model,
        "--key-variable": arguments.key_variable,
        "--extra": arguments.extra,
    }
    for option, given in belonging.items():
        if given:
            raise ConfigError(f"{option} belongs to --endpoint and has no meaning with --local")


def endpoint_of(arguments: argparse.Namespace) -> Endpoint:
    """Return the endpoint that the options name. Raises ConfigError where its model or the key is missing."""
    from ..triplets.endpoint import Endpoint

    if not arguments.endpoint_model:
        raise ConfigError(f"--endpoint needs {arguments.endpoint_option} NAME, as the server calls it")
    key = os.environ.get(arguments.key_variable or KEY_VARIABLE, "").strip()
    if arguments.key_variable and not key:
        raise ConfigError(f"the environment variable {arguments.key_variable} is empty or not set: put the key there")
    fields = {"temperature": temperature_of(arguments), "max_tokens": arguments.answer_tokens} | arguments.extra
    body = {name: value for name, value in fields.items() if value is not None}
    return Endpoint(
        arguments.endpoint, arguments.endpoint_model, key or None, body, arguments.concurrency, arguments.timeout
    )


def local_of(arguments: argparse.Namespace) -> Local:
    """Return the model on this machine that the options name, to be asked in words."""
    from ..triplets.local import Local

    return Local(arguments.local, temperature_of(arguments), arguments.answer_tokens, arguments.concurrency)


def temperature_of(arguments: argparse.Namespace) -> float:
    """Return the temperature that was given, or the usual one."""
    return TEMPERATURE if arguments.temperature is None else float(arguments.temperature)


def count(text: str) -> int:
    """Return an argument as a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def at_least_0(text: str) -> float:
    """Return an argument as a number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of at least 0")
    return value


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON ({error})") from error
    if not isinstance(value, dict) or {"messages", "model", "stream"} & value.keys():
        raise argparse.ArgumentTypeError("must be a JSON object, without messages, model and stream")
    return value
