"""`quernel serve` as a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START = [sys.executable, "-c", "from quernel.cli.main import main; main()", "serve", "--json"]


class Served:
    """A server that runs.

    Attributes:
        process: The process.
        url: Where it answers.
        log: The file that its stderr goes to.
    """

    def __init__(self, process: subprocess.Popen, url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log

    @property
    def resident_bytes(self) -> int:
        """Memory that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def stop(self, seconds: float = 60) -> int:
        """Tell it to stop, and wait; its exit code."""
        self.process.terminate()
        return self.process.wait(seconds)


@contextmanager
def serving(
    log: Path, *arguments: str, port: int = 0, environment: dict[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Served]:
    """A server for as long as the context lasts; ready when it begins, and killed at its end if it is still there.

    Args:
        log: Where its stderr goes.
        arguments: Of `quernel serve`.
        port: Its port; by default a free one.
        environment: More variables.
        cwd: Its folder.
    """
    with (
        log.open("ab") as stderr,
        subprocess.Popen(
            [*START, "-p", str(port), *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=cwd,
            env=os.environ | (environment or {}),
        ) as process,
    ):
        try:
            line = process.stdout.readline()
            assert line, log.read_text(encoding="utf-8")
            yield Served(process, json.loads(line)["url"], log)
        finally:
            process.kill()


def lines_of(log: Path, *words: str) -> Sequence[str]:
    """Lines of a log that have all these words."""
    return [line for line in log.read_text(encoding="utf-8").splitlines() if all(word in line for word in words)]
