"""Class 11 the other way round, and what else strangers say to the HTTP port (13, 33, 58): nothing of it is done, echoed or harmful."""
from kit import *


def say(port, octets, patience=15):
    """All that comes back until the other side ends it."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as s:
        try:
            for piece in octets if isinstance(octets, list) else [octets]:
                s.sendall(piece)
            s.shutdown(socket.SHUT_WR)
            while more := s.recv(65536):
                got += more
        except OSError:
            pass
    return got


port = free_port()
HOST = b"Host: 127.0.0.1\r\n"
LIES = {
    "SMTP": b"EHLO there.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n\r\nx\r\n.\r\nQUIT\r\n",
    "a TLS hello": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(range(160)),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0",
    "a PROXY header": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 25\r\nGET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "octets": bytes(range(256)) * 64,
    "NULs": b"\0" * 5000,
    "a path with line ends": b"GET /livez%0d%0aSet-Cookie:%20x=1 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path with a script": b"GET /<script>alert(1)</script> HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path out of here": b"GET /../../../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n",
    "an endless line": b"GET /" + b"a" * 1000000,
    "an endless header": b"GET /livez HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: y\r\n" % i for i in range(100000)),
    "a long field": b"GET /livez HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 1000000 + b"\r\n\r\n",
    "two lengths": b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 300\r\n\r\nabcGET /metrics HTTP/1.1\r\n\r\n",
    "length and chunks": b"POST /metrics HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "a length beyond numbers": b"POST /livez HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999999\r\n\r\n",
    "another's name": b"GET /metrics HTTP/1.1\r\nHost: rebound.example\r\n\r\n",
    "two names": b"GET /metrics HTTP/1.1\r\nHost: rebound.example\r\nHost: 127.0.0.1\r\n\r\n",
    "a whole URL": b"GET http://internal.example/metrics HTTP/1.1\r\nHost: rebound.example\r\n\r\n",
    "a tunnel": b"CONNECT 127.0.0.1:25 HTTP/1.1\r\nHost: 127.0.0.1:25\r\n\r\nEHLO x\r\n",
}
hop = Hop()
with Relay(hop, extra=f"listen http 127.0.0.1:{port}\n") as relay:
    for name, octets in LIES.items():
        got = say(port, octets)
        head = got.split(b"\r\n", 1)[0]
        check(not got or re.match(rb"HTTP/1\.[01] [45]\d\d ", head), f"{name}: refused, or not answered", head)
        check(b"script" not in got and b"Set-Cookie" not in got and b"root:" not in got and b"waypost_" not in got, f"{name}: nothing is echoed or told", got[:500])
        check(say(port, b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200"), f"{name}: others are answered")
    relay.alive()
    check(relay.count()["accepted"] == 0 and not hop.bodies, "and no mail came of it")
    check(relay.send().startswith("250 "), "mail goes on")
done()
