"""`captioner app`: the web app, on this machine and for it alone."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
from pathlib import Path

from captioner.checkpoint_files import BUNDLED, CONFIG, VOCABULARY, WEIGHTS, existing, previous
from captioner.ending import exit_code
from captioner.errors import PIP, CaptionerError, CheckpointError
from captioner.paths import is_file, is_folder

ROOT = Path(__file__).parent.parent
_INTERRUPTED = exit_code(KeyboardInterrupt())
_SCRIPT = ROOT / "app" / "streamlit_app.py"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "app",
        help="serve the web app on this machine",
        epilog="STREAMLIT_SERVER_ADDRESS says where to listen (default: 127.0.0.1, this machine alone).",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=os.environ.get("STREAMLIT_SERVER_PORT") or "8501",
        metavar="N",
        help="where to listen (default: STREAMLIT_SERVER_PORT, else 8501)",
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="model to show before the bundled ones (default: none)"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of training runs (default: runs)"
    )
    parser.set_defaults(run=_serve)


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a whole number from 1 to 65535")
    return int(text)


def _serve(arguments: argparse.Namespace) -> int:
    if not _SCRIPT.is_file():
        raise CaptionerError(f"{_SCRIPT}: absent, for the web app is not installed with the package; use a clone of it")
    _check_checkpoint(arguments.checkpoint or BUNDLED)
    # Empty it is as good as absent; to Streamlit it would be every network interface.
    address = os.environ.get("STREAMLIT_SERVER_ADDRESS") or "127.0.0.1"
    _check_free(address, arguments.port)
    try:
        import click
        from streamlit import net_util
        from streamlit.web.cli import main
    except ModuleNotFoundError as error:
        raise CaptionerError(
            f"the web app needs {error.name}, which is not installed; {PIP} -r requirements.txt"
        ) from error
    # It asks a service on the internet, to print an address of this machine and to compare a page's origin with.
    net_util.get_external_ip = lambda: None
    command = ["run", str(_SCRIPT), "--server.address", address, "--server.port", str(arguments.port)]
    command += ["--", "--runs", str(arguments.runs.resolve())]
    if arguments.checkpoint:
        command += ["--checkpoint", str(arguments.checkpoint.resolve())]
    # Until Streamlit has its own, which stops the server: interrupted while it starts, it would end in tracebacks.
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        # In this process, so that whatever ends it ends the server.
        main(command, standalone_mode=False)
    except click.ClickException as error:
        raise CaptionerError(f"Streamlit: {error.format_message()}") from error
    return _INTERRUPTED  # Streamlit takes Ctrl-C and SIGTERM alike, and ends in good order


def _check_checkpoint(folder: Path) -> None:
    """Refuse what is no whole checkpoint, without the seconds it would take to load it."""
    absent = [CONFIG]
    if is_folder(folder) or is_folder(previous(folder)):
        found = existing(folder)
        absent = [name for name in (CONFIG, WEIGHTS, VOCABULARY) if not is_file(found / name)]
    if absent:
        # Training writes runs/NAME/best for recipes/NAME.toml.
        recipe = folder.resolve().parent.name
        if not (ROOT / "recipes" / f"{recipe}.toml").is_file():
            recipe = "flickr8k-soft"
        raise CheckpointError(
            f"{folder}: no whole checkpoint, {' and '.join(absent)} absent; "
            f"this makes one in runs/{recipe}/best: .venv/bin/python train.py recipes/{recipe}.toml"
        )


def _check_free(address: str, port: int) -> None:
    try:
        socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET).close()
    except OSError as error:
        at_fault = error.errno in (errno.EADDRINUSE, errno.EACCES)
        cure = "choose another port with --port" if at_fault else "STREAMLIT_SERVER_ADDRESS must be one of this machine"
        raise CaptionerError(f"{address}:{port}: cannot be listened on ({error.strerror or error}); {cure}") from error
