"""Classes 12, 13 and 33 on the control socket: lines without end, nested requests, lines never finished, callers who read nothing and more of them than there
may be. Mail goes on, and so do other callers."""
from kit import *

PATH = None


def caller():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(PATIENCE)
    s.connect(PATH)
    return s


def answer(octets):
    with caller() as s:
        got = b""
        try:
            s.sendall(octets)
            while b"\n" not in got:
                more = s.recv(65536)
                if not more:
                    break
                got += more
        except OSError:
            pass
        return got


with Relay(Hop()) as relay:
    PATH = relay.dir + "/control.sock"
    for name, octets in {
        "an endless line": b"x" * 1000000, "no JSON": b"EHLO there\n", "a number": b"4\n", "NULs": b"\0\0\0\n", "nothing": b"\n",
        "nested": b"[" * 60000 + b"\n", "nested objects": b'{"do":' * 5000 + b"1" + b"}" * 5000 + b"\n", "twice": b'{"do":"stats","do":"drain"}\n',
        "no verb": b'{"do":"%s%n%n%n"}\n', "an odd verb": b'{"do":"' + b"a" * 60000 + b'"}\n', "no string": b'{"do":{"a":1}}\n', "half a letter": b'{"do":"\xc3"}\n',
        "escapes": b'{"do":"\\u001b[31m\\u0000"}\n', "big numbers": b'{"do":"stats","limit":99999999999999999999999999}\n',
        "a match of nothing": b'{"do":"queue.list","limit":-9223372036854775808,"sender":"\\u0000"}\n',
        "an odd client": b'{"do":"explain.rcpt","rcpt":"a@b","client":"' + b"1" * 50000 + b'"}\n',
        "an odd recipient": b'{"do":"explain.rcpt","rcpt":"' + b"\\u000d\\u000aDATA" * 100 + b'@b"}\n',
    }.items():
        got = answer(octets)
        if not got and len(octets) > 65536:
            continue # it was hung up on before it had ended
        check(got.startswith(b'{"') and b"\x1b" not in got and b"\0" not in got, f"{name}: an answer that is JSON", got[:300])
        try:
            json.loads(got.split(b"\n")[0])
        except ValueError as e:
            check(False, f"{name}: JSON", e, got[:300])
    idle = [caller() for _ in range(31)]
    for s in idle:
        s.sendall(b'{"do":"st')
    check(relay.count() != {}, "one more is answered")
    more = [caller() for _ in range(10)]
    turned = sum(b"limit" in s.recv(200) for s in more[1:])
    check(turned >= 8, "those beyond the limit are told so", turned)
    check(relay.send().startswith("250 "), "mail goes on")
    for s in idle + more:
        s.close()
    check(until(lambda: relay.count() != {}), "and when they have left all is as before")
    deaf = [caller() for _ in range(5)]
    for s in deaf:
        for _ in range(200):
            s.setblocking(False)
            try:
                s.sendall(b'{"do":"config.show"}\n' * 50)
            except OSError:
                break
    check(relay.count() != {} and relay.send().startswith("250 "), "who reads nothing stops nobody")
    for s in deaf:
        s.close()
    relay.alive()
done()
