"""Class 24 (CVE-2020-28026): a body that is the spool's own octets, and lines of any length, are a body: no record more, none less."""
import glob

from kit import *

hop = Hop(lambda h, at, line: b"451 4.3.0 not yet\r\n" if at == "rcpt" and not h.open else h.usual(at), offers=("8BITMIME", "PIPELINING", "CHUNKING", "BINARYMIME"))
hop.open = False
with Relay(hop, extra="limits { message_size 50MiB }") as relay:
    secret = b"Subject: first\r\n\r\nthe first message\r\n"
    check(relay.send(secret).startswith("250"), "one mail to copy")
    relay.settled(deferred=1)
    segment = max(glob.glob(relay.dir + "/spool/*.seg"), key=lambda f: open(f, "rb").read(1 << 20).count(b"the first message"))
    raw = open(segment, "rb").read(1 << 20)
    used = raw.rstrip(b"\0")
    check(b"the first message" in used, "its octets are found")
    # Batches begin on a page: each shift of the copy puts its pages elsewhere against ours. Binary, then as lines without an end.
    # In a header line, so that the copy's dots and line ends do not matter; refused is good, too.
    taken = 1
    for shift in (0, 1, 8, 40, 2048, 4096 - 40, 4096, 100000, 300000):
        body = b"Subject: copy\r\n\r\n" + b"." * shift + used
        said = relay.send(body, params=" BODY=BINARYMIME", bdat=True)
        taken += said.startswith("250")
        check(said[:3] in ("250", "554", "550"), "taken whole, or refused", shift, said)
    check(relay.send(b"Subject: " + b"x" * 5000 + b"\r\n\r\n" + b"y" * 300000 + b"\r\n").startswith("250"), "a long line is a line")
    taken += 1
    check(taken == 11, "all are taken", taken)
    # The worker dies; what the spool holds is what was accepted.
    relay.killed().start()
    loaded = until(lambda: re.findall(r"backlog_loaded messages=(\d+) ended=(\d+) damaged=(\d+)", relay.log())[1:])
    check(loaded and loaded[0][0] == str(taken) and loaded[0][2] == "0", "the backlog is what was accepted", taken, loaded)
    hop.open = True
    subprocess.run([WAYPOST, "queue", "retry", "--all", "--socket", relay.dir + "/control.sock"], capture_output=True)
    got = relay.settled(delivered=taken)
    check(got["delivered"] == taken and got["failed"] == 0, "and goes out, each once", got)
    check(all(b"<bob@example.com>" in l for l in hop.said(b"RCPT")), "to whom it was sent", hop.said(b"RCPT")[-1])
    relay.alive()
done()
