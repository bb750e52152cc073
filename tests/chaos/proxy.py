"""A TCP proxy before a server's socket, whose two directions can be cut one by one."""

import contextlib
import socket
import threading
import time
from pathlib import Path

_CHUNK = 1 << 16
_TICK_S = 0.02


class Proxy:
    """Listens on loopback, and passes on to a server's socket."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.holds_requests = False
        """Nothing reaches the server; what was sent arrives late, when its sender has long given up, as TCP may do."""
        self.drops_answers = False
        """What the server answers reaches nobody, now or later."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_TICK_S)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._closed = False
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def reset(self) -> None:
        """Break every connection."""
        for pair in self._pairs:
            _end(*pair)

    def close(self) -> None:
        """Listen no more, and break every connection."""
        self._closed = True
        self._acceptor.join()
        self._listener.close()
        self.reset()
        deadline = time.monotonic() + 5
        while self._pairs and time.monotonic() < deadline:
            time.sleep(_TICK_S)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._target))
            except OSError:
                client.close()
                server.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs = [*self._pairs, (client, server)]
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            answers = threading.Thread(target=self._carry_answers, args=(client, server), daemon=True)
            answers.start()
            self._carry_requests(client, server)
            answers.join()
        # Kept, for a reset, only as long as they are open.
        self._pairs = [pair for pair in self._pairs if pair[0] is not client]

    def _carry_requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(_CHUNK):
                while self.holds_requests and not self._closed:
                    time.sleep(_TICK_S)
                server.sendall(data)
        # Time for the server to read what came late: an end that is told at once would discard it.
        time.sleep(_TICK_S)
        _end(client, server)

    def _carry_answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(_CHUNK):
                if not self.drops_answers:
                    client.sendall(data)
        _end(client, server)


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
