"""A `PoseServer` in a thread of the tests' own process."""

from __future__ import annotations

import threading
import time
from typing import Self

from distilpose.serving.server import PoseServer


class BackgroundServer:
    """Serves while it is entered, ready from the start; what ends the server before is raised on entering."""

    def __init__(self, server: PoseServer) -> None:
        self.server = server
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="server")

    def _run(self) -> None:
        try:
            self.server.run()
        except BaseException as error:
            self._failure = error

    def __enter__(self) -> Self:
        self._thread.start()
        end = time.monotonic() + 120
        while self._thread.is_alive() and not (self.server.started and self.server.service.ready):
            if time.monotonic() > end:
                self.server.end()
                raise TimeoutError("the model did not answer its first crops")
            time.sleep(0.01)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self.server.end()
        self._thread.join()
