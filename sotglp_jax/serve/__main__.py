"""A page and an interface for a trained run: sotglp serve RUN

Drop pictures on the page to see what they are, whether they are like the classes at all, and where
the local prompts look; programs send them to POST /predict, which /openapi.json describes. Nothing
that is sent is kept.
"""

import argparse
import contextlib
import importlib.util
import ipaddress
import socket
import sys
import warnings

from absl import flags, logging

from sotglp_jax.errors import InputError, run_command

NEEDED = ("starlette", "uvicorn")
CONNECTIONS = 500  # at a time; more are answered 503
OPEN = (
    "everyone who reaches this machine over the network can ask, and what they send is not "
    "encrypted; 127.0.0.1 serves this machine alone"
)


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="sotglp serve", description=__doc__)
    parser.add_argument(
        "run", metavar="RUN", help="a finished run's folder, an export, or hf:owner/name"
    )
    parser.add_argument(
        "--recall", type=float, help="share of pictures of known classes not to flag [0.95]"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to answer at [127.0.0.1]")
    parser.add_argument("--port", type=int, default=8000, help="[8000]; 0 for any that is free")
    flags.FLAGS(argv[:1])
    return parser.parse_args(argv[1:])


def main(arguments: argparse.Namespace) -> None:
    """Serves until Ctrl-C."""
    if not all(map(importlib.util.find_spec, NEEDED)):
        raise InputError("serve needs packages of its own: pip install 'sotglp_jax[serve]'.")
    import uvicorn

    from sotglp_jax.devices import programs
    from sotglp_jax.serve import app
    from sotglp_jax.trained.classifier import Classifier

    logging.set_verbosity(logging.WARNING)
    warnings.simplefilter("ignore")  # Pillow's quote what is in files
    programs.keep()
    with bound(arguments.host, arguments.port) as listening:
        title = arguments.run.rstrip("/").rpartition("/")[2]
        classifier = Classifier.load(arguments.run, arguments.recall)
        made = app.make(classifier, title, arguments.host)
        address, port = listening.getsockname()[:2]
        print(f"{arguments.run}: {_url(address, port)} (Ctrl-C ends it)", flush=True)
        if not ipaddress.ip_address(address).is_loopback:
            print(f"note: listening on {address}: {OPEN}.", file=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(configuration(made)).run([listening])


def configuration(made):
    """How uvicorn serves an application; it logs nothing of a request.

    Args:
      made: the application.
    """
    import uvicorn

    return uvicorn.Config(
        made,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
      host: an address or a name of this machine.
      port: 0 for any that is free.

    Raises:
      InputError: there is no such address here, or the port is taken.
    """
    try:
        family, *_, (address, *_) = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise InputError(
            f"{host}:{port} cannot be listened on ({said}): choose another --host or --port."
        ) from None


def _url(address: str, port: int) -> str:
    return f"http://{f'[{address}]' if ':' in address else address}:{port}/"


if __name__ == "__main__":
    run_command(main, flags_parser=parse)
