"""Class 60: out of descriptors, in and out: clients wait or are told 4xx, mail already taken stays, all goes on without a restart."""
import resource

from kit import *


def few():
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))


hop = Hop()
with Relay(hop, preexec_fn=few) as relay:
    check(relay.send().startswith("250"), "some mail first")
    relay.settled(delivered=1)
    held = []
    for i in range(120): # more than it has descriptors
        s = socket.create_connection(("127.0.0.1", relay.port), timeout=2)
        held.append(s)
    answers = []
    for s in held:
        s.settimeout(0.2 if len(answers) > 20 else 2)
        try:
            answers.append(s.recv(200)[:3])
        except OSError:
            answers.append(b"")
    greeted = answers.count(b"220")
    check(greeted >= 4, "some are served", answers)
    check(set(answers) <= {b"220", b"421", b""}, "the others wait or are told 421", set(answers))

    # Who has a session sends with it; nothing that is answered 250 is lost, nothing is refused for good.
    said = []
    for s, a in zip(held, answers):
        if a != b"220":
            continue
        try:
            s.settimeout(10)
            f = s.makefile("rb")
            s.sendall(b"HELO there.example\r\nMAIL FROM:<ann@there.example>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n")
            lines = [f.readline() for _ in range(4)]
            if lines[3][:3] == b"354":
                s.sendall(b"Subject: tight\r\n\r\nx\r\n.\r\n")
                lines.append(f.readline())
            said.append(next((l[:3] for l in lines[:4] if l[:1] in (b"4", b"5")), lines[-1][:3])) # behind a 452 to MAIL all is 503
        except OSError:
            said.append(b"")
        if len(said) >= 10:
            break
    check(all(x[:1] in (b"2", b"4") for x in said), "250 or 4xx", said)
    for s in held:
        s.close()

    # Without a restart.
    check(until(relay.greets), "it greets again")
    check(until(lambda: relay.send().startswith("250")), "and takes mail") # the spool looks for room again every second
    want = said.count(b"250") + 2
    got = relay.settled(delivered=want)
    check(got["delivered"] == want and got["failed"] == 0, "all that was taken is delivered, once", got, want)
    check(relay.log().count("worker_started") == 1, "by the same worker", relay.log()[-2000:])
    relay.alive()
hop.close()
done()
