"""A backend that fails on demand: `python -m tests.bench.failover_backend PORT NAME`.

SIGUSR1: every answer is 503. SIGUSR2: every other answer is 503. SIGHUP: every answer is 800 ms late. (A crash is
SIGKILL, a hang SIGSTOP: those need no help from here.) Probes of /healthz fail in the same ways.
"""

from __future__ import annotations

import heapq
import select
import signal
import socket
import sys
import time

SLOW_SECONDS = 0.8


def main(port: int, name: str) -> None:
    mode = {"now": "well"}
    for number, word in ((signal.SIGUSR1, "error"), (signal.SIGUSR2, "half"), (signal.SIGHUP, "slow")):
        signal.signal(number, lambda *_, word=word: mode.update(now=word))
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    peers: dict[int, socket.socket] = {}
    late: list[tuple[float, int, int, bytes]] = []
    turn = 0
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else 0.2
        for fd, _ in epoll.poll(wait):
            if fd == listener.fileno():
                peer, _ = listener.accept()
                peer.setblocking(False)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peers[peer.fileno()] = peer
                epoll.register(peer, select.EPOLLIN)
                continue
            try:
                data = peers[fd].recv(65_536)
            except OSError:
                data = b""
            if not data:
                peers.pop(fd).close()
                continue
            for _ in range(data.count(b"\r\n\r\n")):
                turn += 1
                bad = mode["now"] == "error" or (mode["now"] == "half" and turn % 2)
                status = b"503 Service Unavailable" if bad else b"200 OK"
                answer = b"HTTP/1.1 %b\r\nContent-Length: 6\r\nX-Region: %b\r\n\r\nhello\n" % (status, name.encode())
                delay = SLOW_SECONDS if mode["now"] == "slow" else 0.0
                heapq.heappush(late, (time.monotonic() + delay, turn, fd, answer))
        while late and late[0][0] <= time.monotonic():
            _, _, fd, answer = heapq.heappop(late)
            if fd in peers:
                try:
                    peers[fd].send(answer)
                except OSError:
                    continue


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
