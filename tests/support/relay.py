"""A way to a server that can be shut and opened again."""

import contextlib
import socket
import threading


class Relay:
    """A way to the server that can be shut and opened again, as a server goes away and comes back.

    Args:
        uri: the server, `http://HOST:PORT` or `unix://PATH`.
    """

    def __init__(self, uri):
        self.server = uri
        self.listener = None
        self.port = 0
        self.open()

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.port}"

    def open(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        self.sockets = []
        threading.Thread(target=self._serve, args=(self.listener,), daemon=True).start()

    def shut(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = self._connect()
            self.sockets += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _connect(self):
        scheme, _, place = self.server.partition("://")
        if scheme == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(place)
            return connection
        host, _, port = place.partition(":")
        return socket.create_connection((host, int(port)))

    def _copy(self, source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
