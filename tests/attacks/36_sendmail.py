"""Classes 22 and 36 by sendmail's arguments, as web applications pass them on: a name, a sender, an id with line ends in it make no further fields, recipients or
options, and nothing is run."""
from kit import *

EVIL = "Bcc: victim@example.com"
ENDS = ["\n", "\r\n", "\r", "\n ", "\0", "\u0085", "\u2028", "\x0b"]


def sendmail(relay, *args, text=b"Subject: plain\n\nx\n"):
    try:
        return subprocess.run([WAYPOST, "sendmail", "-C", relay.conf, *args], input=text, capture_output=True, timeout=PATIENCE)
    except ValueError: # no program can be given a NUL
        return None


hop = Hop()
with Relay(None, start=False) as relay:
    mark = relay.dir + "/ran"
    with open(relay.conf) as f:
        text = f.read()
    with open(relay.conf, "w") as f:
        f.write(re.sub(r"server 127.0.0.1:\d+", f"server 127.0.0.1:{hop.port}", text)
                + f"local {{ socket {relay.dir}/local.sock; drop {relay.dir}/drop; users {os.geteuid()}; relay_from example.com }}\n")
    relay.start()
    tries = 0
    for end in ENDS:
        for args in (["-F", f"A{end}{EVIL}"], ["-f", f"a@example.com{end}{EVIL}"], ["-V", f"id{end}{EVIL}"], ["-N", f"never{end}{EVIL}"],
                     ["-B", f"8BITMIME{end}{EVIL}"], ["-R", f"full{end}{EVIL}"], ["-f", f"a@example.com> BODY=7BIT{end}RCPT TO:<victim@example.com"]):
            if sendmail(relay, *args, "-f", "a@example.com", "bob@example.com") is not None:
                tries += 1
        sendmail(relay, "-f", "a@example.com", f"bob@example.com{end}victim@example.com")
        sendmail(relay, "-t", "-f", "a@example.com", text=f"To: bob@example.com\nSubject: x{end}\nX: y\n\nx\n".encode())
    for odd in (f"|touch {mark}", f"$(touch {mark})@example.com", f"`touch {mark}`", f"-X{mark}", f"-oQ{mark}", f"-be${{run{{touch {mark}}}}}", f":include:{mark}", f"/{mark}"):
        sendmail(relay, "-f", "a@example.com", odd)
        sendmail(relay, "-f", odd, "bob@example.com")
        sendmail(relay, "-F", odd, "-f", "a@example.com", "bob@example.com")
    check(sendmail(relay, "-f", "a@example.com", "bob@example.com", text=b"Subject: the last one\n\nx\n").returncode == 0, "plain mail")
    check(until(lambda: any(b"the last one" in b for b in hop.bodies)), "arrives", relay.log()[-2000:])
    check(tries > 30 and len(hop.bodies) > 10, "much of it is mail that goes its way", tries, len(hop.bodies))
    for body in hop.bodies:
        head = body.split(b"\r\n\r\n", 1)[0]
        for line in re.sub(rb"\r\n[ \t]+", b" ", head).split(b"\r\n"):
            check(re.match(rb"[!-9;-~]+:", line) and not line.lower().startswith(b"bcc:"), "fields that were meant", line)
        check(not re.search(rb"\0|\r(?!\n)|(?<!\r)\n", head), "and lines that are lines", head)
    rcpts = {line.split(b"<")[1].split(b">")[0] for line in hop.said(b"RCPT")}
    # In a list of recipients a line end is a blank: who may name one recipient may name two. In $(...) stands a comment (RFC 5322 3.2.2).
    check(rcpts <= {b"bob@example.com", b"postmaster@example.com", b"victim@example.com", b"$@example.com"}, "recipients that were meant", rcpts)
    check(not os.path.exists(mark), "and nothing was run or written")
    relay.alive()
done()
