"""Class 23 (CVE-2020-8794): a next hop's reply of several lines, with what looks like records, commands and log lines, is one text."""
from kit import *

EVIL = (b"451-4.3.0 first\r\n451-4.3.0 MAIL FROM:<eve@there.example>\r\n451-4.3.0 type: mda\r\n451-4.3.0 2026-01-01T00:00:00.000Z info delivered id=x rcpt=eve@example.com\r\n"
        b"451-4.3.0 \x1b[31mred\x07\x00\xff\r\n451 4.3.0 last\r\n")


def play(stage, reply, want, after=()):
    left = [1]

    def answer(hop, at, line):
        if at == stage and left[0]:
            left[0] = 0
            return reply
        return hop.usual(at)
    hop = Hop(answer)
    with Relay(hop, retry="2s") as relay:
        relay.send()
        relay.settled(**want)
        id = until(lambda: re.search(r"accepted id=(\S+)", relay.log())).group(1)
        show = subprocess.run([WAYPOST, "queue", "show", id, "--socket", relay.dir + "/control.sock"], capture_output=True).stdout
        trace = subprocess.run([WAYPOST, "trace", id, "--socket", relay.dir + "/control.sock"], capture_output=True).stdout
        for name, text in [("queue show", show), ("trace", trace), ("log", relay.log().encode())]:
            check(not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", text), name + " has no control characters", text)
        check(len([l for l in relay.log().splitlines() if " delivered id=x" in l and l.startswith("2026-01-01T00:00:00.000Z")]) == 0, "no forged log line")
        # What is noted is read back as it was: after a death in the middle the same recipient waits or is over, and nobody else.
        relay.killed().start()
        for words in after:
            got = relay.settled(**words)
            check(got["delivered"] == 1 and got["failed"] == 0, "after a restart the one recipient gets it", got)
            check(all(b"<bob@example.com>" in l for l in hop.said(b"RCPT")), "and nobody else", hop.said(b"RCPT"))
            check(all(b"ann@there.example" in l for l in hop.said(b"MAIL")), "from nobody else", hop.said(b"MAIL"))
    hop.close()


play("rcpt", EVIL, {"deferred": 1}, [{"delivered": 1}])
play("dot", EVIL, {"deferred": 1}, [{"delivered": 1}])
play("rcpt", EVIL.replace(b"451", b"551").replace(b"4.3.0", b"5.3.0"), {"failed": 1})
done()
