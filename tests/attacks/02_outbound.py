"""Class 02: what leaves. Dots are stuffed, bare CR and LF become line ends, and what came by BDAT goes by DATA the same way."""
from kit import *

for body, want, bdat in [
    (b"Subject: a\r\n\r\n..\r\n..x\r\n", b"..\r\n..x\r\n", False),
    (b"Subject: a\r\n\r\n.\r\n.x\r\nMAIL FROM:<eve@there.example>\r\n", b"..\r\n..x\r\nMAIL FROM:<eve@there.example>\r\n", True),
    (b"Subject: a\r\n\r\nno end.", b"no end.\r\n", True),
    (b"Subject: a\r\n\r\n" + b"." * 70000, None, True),
    (b"Subject: a\r\n\r\n" + b".\r\n" * 100000 + b"end\r\n", b"..\r\n" * 100000 + b"end\r\n", True),
]:
    hop = Hop()
    with Relay(hop) as relay:
        said = relay.send(body, bdat=bdat)
        check(said.startswith("250"), "it is taken", said)
        got = relay.settled(delivered=1)
        check(got["delivered"] == 1 and len(hop.bodies) == 1, "one message is one message", got, len(hop.bodies), hop.lines)
        check(len(hop.said(b"MAIL")) == 1, "and one MAIL", hop.lines)
        text = hop.bodies[0].split(b"\r\n\r\n", 1)[1]
        check(want is None or text == want + b".\r\n", "as it must leave", body[:60], text[:100])
        check(not re.search(rb"[^\r]\n|\r[^\n]|^\.[^.\r]", hop.bodies[0].replace(b"\r\n.\r\n", b"\r\n"), re.M) or want is None, "no bare line end leaves")
    hop.close()

# Bare line ends and dots for a careless reader, in what was declared binary: never raw to a hop without BINARYMIME.
for end in [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r.\r\n", b"\r\n\0.\r\n"]:
    hop = Hop()
    with Relay(hop) as relay:
        said = relay.send(b"Subject: a\r\n\r\none" + end + b"MAIL FROM:<eve@there.example>\r\n", params=" BODY=BINARYMIME", bdat=True)
        if said.startswith("250"):
            relay.settled(delivered=1)
            check(len(hop.bodies) == 1 and len(hop.said(b"MAIL")) == 1, "it cannot end elsewhere", end, hop.bodies, hop.lines)
            raw = hop.bodies[0][:-5]
            check(not re.search(rb"(?<!\r)\n|\r(?!\n)|\0|\n\.(?!\.)", raw), "nothing bare leaves", end, raw)
        else:
            check(said[:1] == "5", "or it is refused", end, said)
        relay.alive()
    hop.close()
done()
