"""Class 37 from a source of recipients: answers that are no JSON, or are odd JSON, find nobody and deny nobody; none of it reaches the log as it is."""
import http.server

from kit import *

DEEP = 200000
BODIES = {
    "broken": b'{"found": ', "a trailing comma": b'{"found": true,}', "half a letter": b'{"found": true, "x": "\xc3"}', "overlong": b'{"found": true, "x": "\xc0\xaf"}',
    "a surrogate": b'{"found": "\\ud800"}', "NULs": b"\0" * 100, "escapes": b'{"\x1b[31mfound": true', "a string": b'{"found": "false"}', "a number": b'{"found": 1e9999}',
    "null": b'{"found": null}', "twice": b'{"found": false, "found": true}', "nested": b'{"found":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "an array": b'[{"found": true}]', "two values": b'{"found": false}{"found": true}', "no": b"false", "nothing": b" null\r\n", "an empty list": b"[]", "a BOM": b'\xef\xbb\xbf{"found": "x"}', "UTF-16": '{"found": true}'.encode("utf-16"),
}


class Odd(http.server.BaseHTTPRequestHandler):
    body = b""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args):
        pass


web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
threading.Thread(target=web.serve_forever, daemon=True).start()
source = f'http "http://127.0.0.1:{web.server_port}/{{address}}" {{ allow_private on; cache 1s negative 1s }}'
with Relay(Hop(), extra="relay_domain known.example { backend inside; recipients { " + source + " } }\n") as relay:
    Odd.body = b'{"found": false}'
    check(relay.send(to=["nobody@known.example"]).startswith("550 5.1.1"), "a plain no")
    for i, (name, body) in enumerate(BODIES.items()):
        Odd.body = body
        said = relay.send(to=[f"u{i}@known.example"])
        check(said.startswith("451 4.3.0"), f"{name}: undecided", said)
        Odd.body = b'{"found": true}' # the source is not left alone for what it said
        check(until(lambda: relay.send(to=[f"v{i}@known.example"]).startswith("250 ")), f"{name}: and the next answer counts")
    log = relay.log()
    check(not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", log), "no control in the log", [c for c in log if ord(c) < 32 and c != "\n"][:5])
    relay.alive()
web.shutdown()
done()
