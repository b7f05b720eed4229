"""Class 53 from a backend that is asked who exists: replies without end, of the wrong code, cut, early, with controls; none of it finds or denies anybody, and
what it costs is bounded."""
from kit import *

LATER = "451 4.3.0"
LIES = {
    "250- for ever": lambda: b"250-yes\r\n" * 100000, "a line without end": lambda: b"250 " + b"y" * 5000000, "nothing": lambda: None, "no reply": lambda: b"yes, why not\r\n",
    "another code in it": lambda: b"250-yes\r\n550 5.1.1 no\r\n", "2xx of another kind": lambda: b"220 hello again\r\n", "354": lambda: b"354 go on\r\n",
    "421": lambda: b"421 4.3.2 later\r\n", "controls": lambda: b"451 4.0.0 \x1b[31mred\x07\0\r\n",
    "of the sender": lambda: b"550 5.1.8 your sender is bad\r\n", "of policy": lambda: b"550 5.7.1 go away\r\n", "999": lambda: b"999 5.1.1 no\r\n", "55": lambda: b"55\r\n",
    "half a reply": lambda: b"550-5.1.1 no\r\n",
}
lie = None


def answer(hop, stage, line):
    if stage != "rcpt" or not lie:
        return hop.usual(stage) if stage != "rcpt" else b"550 5.1.1 no such user\r\n"
    return LIES[lie]()


hop = Hop(answer)
hop.leaves_at = None
CONF = "relay_domain known.example { backend inside; recipients { callout { cache 1s negative 1s; timeout 2s } } }\n"
for name in LIES:
    lie = None
    with Relay(hop, extra=CONF) as relay:
        check(relay.send(to=["nobody@known.example"]).startswith("550 5.1.1"), "a plain no", relay.log()[-800:])
        lie = name
        said = relay.send(to=["ann@known.example"])
        check(said.startswith(LATER), f"{name}: undecided", said, relay.log()[-800:])
        check("\x1b" not in relay.log() and "\x07" not in relay.log() and "\0" not in relay.log(), f"{name}: a clean log")
        check(relay.send().startswith("250 "), f"{name}: other domains' mail goes on")
        relay.alive()
done()
