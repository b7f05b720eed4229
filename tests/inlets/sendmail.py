"""sendmail, mailq and newaliases as programs call them, with the relay up and down, and the drop directory as its users may abuse it."""
import email
import email.policy
import os
import signal
import smtplib
import socket
import stat
import subprocess
import sys
import threading

from kit import NOBODY, PATIENCE, ROOT, WAYPOST, Relay, check, done, until

EX_OK, EX_USAGE, EX_DATAERR, EX_NOUSER, EX_TEMPFAIL, EX_NOPERM = 0, 64, 65, 67, 75, 77
ME = os.geteuid()


def local(users, relay):
    return f"local {{ socket {relay}/local.sock; drop {relay}/drop; {users} }}"


def arrived(r, part, n=1):
    if not until(lambda: len(r.sink.find(part)) >= n):
        print("not arrived:", part, *r.log()[-20:], r.ask("queue", "list").stdout, sep="\n")
    return r.sink.find(part)


def test_up():
    r = Relay()
    with open(f"{r.dir}/list", "w") as f:
        f.write("bob@example.com\npostmaster@example.com\ncron@example.com\n")
    recipients = f"recipients {{ file {r.dir}/list }}"
    r.write(local(f"users {ME}; relay_from example.com mx.example.net", r.dir), relay_domain=recipients)
    r.start()
    check(stat.S_IMODE(os.stat(r.socket).st_mode) == 0o666, "everybody may connect to the socket")
    check(stat.S_IMODE(os.stat(r.drop).st_mode) == 0o1733, "the drop directory can be written, not listed")

    # cron: -FCronDaemon -i -odi -oem -oi -t, and the recipients in the header
    got = r.sendmail("-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "root@mx.example.net",
                     text=b"From: root (Cron Daemon)\nTo: bob@example.com\nSubject: Cron one\n\n.\n.. dots\nlast line")
    check(got.returncode == EX_OK and not got.stderr, "as cron calls it", got)
    m = arrived(r, b"Cron one")
    check(len(m) == 1 and m[0][0] == "root@mx.example.net" and m[0][1] == ["bob@example.com"], "envelope of cron's", m)
    if m:
        check(m[0][2].endswith(b"\r\n\r\n.\r\n.. dots\r\nlast line\r\n"), "its text", m[0][2])
        parsed = email.message_from_bytes(m[0][2], policy=email.policy.default)
        check(parsed["Date"] and parsed["Message-ID"].endswith("@mx.example.net>"), "the fields that were missing", m[0][2])
        received = " ".join(parsed["Received"].split())
        check(f"(user {ME} of this machine) by mx.example.net" in received and " with LOCAL id " in received, "Received", received)

    # mailx, mutt: recipients as arguments, the end by a dot, flags together; 8-bit text; several recipients, Bcc not told
    got = r.sendmail("-oem", "-oi", "-f", "bob@example.com", "--", "bob@example.com", "Friend <friend@elsewhere.example>, other@elsewhere.example",
                     text="Subject: mutt two\nFrom: Bob <bob@example.com>\nBcc: kept@elsewhere.example\n\nGrüße\n".encode())
    check(got.returncode == EX_OK, "as mutt calls it", got)
    m = arrived(r, b"mutt two", 2) # one for each domain
    check(not any(b"kept@" in x[2] for x in m), "Bcc is not told, whoever named the recipients", m)
    check(sum(len(x[1]) for x in m) == 3 and all(b"Gr\xc3\xbc\xc3\x9fe" in x[2] for x in m), "8-bit text to three", m)
    got = r.sendmail("-ti", "-fbob@example.com", text=b"To: bob@example.com\nCc: Group: friend@elsewhere.example, cron;\nBcc: secret@elsewhere.example\nSubject: three\n\nx\n")
    check(got.returncode == EX_OK, "flags together, a group, a bare name, Bcc", got)
    m = arrived(r, b"Subject: three", 1)
    until(lambda: sum(len(x[1]) for x in r.sink.find(b"Subject: three")) >= 4)
    m = r.sink.find(b"Subject: three")
    check(sorted(a for x in m for a in x[1]) == ["bob@example.com", "friend@elsewhere.example", "postmaster@example.com", "secret@elsewhere.example"], "to all of them; cron is a user of this host", m)
    check(not any(b"secret" in x[2] for x in m), "and nobody is told of Bcc")
    got = r.sendmail("-fbob@example.com", "bob@example.com", text=b"Subject: four\n\nbefore\n.\nbehind\n")
    m = arrived(r, b"Subject: four")
    check(m and m[0][2].endswith(b"before\r\n"), "a dot ends it without -i", m)
    got = r.sendmail("-N", "success,failure", "-R", "hdrs", "-V", "id+1", "-f", "bob@example.com", "bob@example.com", text=b"Subject: dsn\n\n")
    check(got.returncode == EX_OK and arrived(r, b"Subject: dsn"), "DSN options", got)
    got = r.sendmail("-f", "bob@example.com", "bob@example.com", text=b"Subject: nul\n\na\0b\0\n")
    m = arrived(r, b"Subject: nul")
    check(got.returncode == EX_OK and m and m[0][2].endswith(b"ab\r\n"), "what a broken program says arrives without its NUL octets", got, m)
    got = subprocess.run([WAYPOST, "sendmail", "-C", r.conf, "-h", "5", "-A", "c", "-d0.1", "-X/dev/null", "-e", "m", "-m", "-n", "-U", "-O", "Timeout=1", "-f", "",
                          "bob@example.com"], input=b"Subject: five\n\n", capture_output=True, timeout=PATIENCE)
    check(got.returncode == EX_OK and arrived(r, b"Subject: five")[0][0] == "", "as a verb, with harmless options and the null sender", got)

    # refusals are told at once, with the code that programs know
    got = r.sendmail("-f", "bob@example.com", "nobody@example.com", text=b"\n")
    check(got.returncode == EX_NOUSER and b"550 5.1.1" in got.stderr, "no such user", got)
    got = r.sendmail("-f", "eve@evil.example", "friend@elsewhere.example", text=b"\n")
    check(got.returncode == EX_NOPERM and b"may not send from eve@evil.example" in got.stderr, "as somebody else", got)
    got = r.sendmail("-f", "bob@example.com", "bob@example.com", "nobody@example.com", text=b"Subject: half\n\n")
    check(got.returncode == EX_NOUSER and arrived(r, b"Subject: half"), "one of two", got)
    for args, text, want in ((["-t"], b"Subject: x\n\n", EX_USAGE), (["-t"], b"To: a b c\n\n", EX_DATAERR), (["-z"], b"", EX_USAGE), (["-bd"], b"", EX_USAGE),
                             (["-f", "a b", "bob@example.com"], b"\n", EX_USAGE), (["-f"], b"", EX_USAGE),
                             (["-N", "sometimes", "bob@example.com"], b"\n", EX_USAGE), (["@@"], b"\n", EX_USAGE)):
        got = r.sendmail(*args, text=text)
        check(got.returncode == want and got.stderr, "exit code of", args, got)

    # SMTP on standard input and output, addresses asked for, the other names
    got = r.sendmail("-bs", text=b"EHLO here\r\nMAIL FROM:<bob@example.com>\r\nRCPT TO:<friend@elsewhere.example>\r\nDATA\r\nQUIT\r\n")
    lines = got.stdout.split(b"\r\n")
    check(got.returncode == EX_OK and lines[0].startswith(b"220 ") and b"250 2.1.5 recipient ok" in lines, "-bs", got)
    got = r.sendmail("-bv", "bob@example.com")
    check(got.returncode == EX_OK and b"250" in got.stdout, "-bv of one that exists", got)
    got = r.sendmail("-bv", "-f", "bob@example.com", "bob@example.com", "nobody@example.com")
    check(got.returncode == EX_NOUSER and b"550 5.1.1" in got.stdout, "-bv of one that does not", got)
    for name, args in (("mailq", []), ("sendmail", ["-bp"]), ("newaliases", []), ("sendmail", ["-bi"]), ("sendmail", ["-q"]), ("sendmail", ["-q30m"])):
        got = r.sendmail(*args, name=name)
        check(got.returncode == EX_OK, "as", name, args, got)
    check(until(lambda: r.logged("reloaded")), "newaliases has lists read again")
    if os.geteuid() == 0:
        got = r.sendmail(name="newaliases", user=NOBODY.pw_uid)
        check(got.returncode != EX_OK and got.stderr, "but not for whoever may not say so", got)
    check(r.logged("accepted", remote=f"uid:{ME}"), "the log names the user")
    r.end()


def test_system_mail():
    """Mail to names of this host: to its readers, or where an alias says; from its users and networks, not from strangers; and so do reports to them."""
    r = Relay()
    with open(f"{r.dir}/aliases", "w") as f:
        f.write("www-data web@example.com\nbackup root\ngone bounce:5.1.6 this service was closed\nops@example.com daemon@mx.example.net\n")
    alias = f"\nalias {{ file {r.dir}/aliases }}\n"

    def to(subject, *names, user=None):
        got = r.sendmail(*names, text=f"To: {', '.join(names)}\nSubject: {subject}\n\nx\n".encode(), user=user)
        m = arrived(r, f"Subject: {subject}".encode()) if got.returncode == EX_OK else []
        return got, sorted(a for x in m for a in x[1])
    r.write(local("", r.dir) + alias)
    r.start()
    for subject, names, want in (("s-one", ["root"], ["postmaster@example.com"]), ("s-two", ["ROOT@mx.example.net"], ["postmaster@example.com"]),
                                 ("s-three", ["www-data"], ["web@example.com"]), ("s-four", ["backup"], ["postmaster@example.com"]),
                                 ("s-five", ["root", "nobody", "daemon"], ["postmaster@example.com"]), ("s-six", ["ops@example.com"], ["postmaster@example.com"])):
        got, readers = to(subject, *names)
        check(got.returncode == EX_OK and readers == want, "system mail to", names, readers, got)
    got, _ = to("s-seven", "gone")
    check(got.returncode == EX_NOUSER and b"550 5.1.6 <gone@mx.example.net>: this service was closed" in got.stderr, "a closed one", got)
    with smtplib.SMTP("127.0.0.1", r.port, timeout=PATIENCE) as s:
        s.ehlo()
        s.mail("eve@elsewhere.example")
        code, text = s.rcpt("root@mx.example.net")
    check(code == 550 and text.startswith(b"5.7.1"), "a stranger may not", code, text)
    got = r.ask("explain", "rcpt", "www-data@mx.example.net", "--client", f"uid:{ME}")
    check(got.returncode == 0 and "system mail" in got.stdout and "web@example.com: " in got.stdout, "explained", got.stdout)
    got = r.ask("explain", "rcpt", "root@mx.example.net")
    check(got.returncode == 1 and "550 5.7.1" in got.stdout, "for a stranger too", got.stdout)
    check(r.ask("explain", "rcpt", "root@mx.example.net", "--client", "uid:x").returncode == 2, "usage")
    # Named readers; a network's client may; a report to root goes to them too.
    r.write(local("system_mail admin@example.com second@elsewhere.example; " + f"users {ME}; relay_from mx.example.net", r.dir) + alias
            + "network here 127.0.0.0/8 { relay_from example.com }\nroute no { to refused@elsewhere.example; via none }\nbackend none { server 127.0.0.1:1 }\n")
    check(r.ask("reload").returncode == 0, "reload", r.log()[-3:])
    got, readers = to("s-eight", "root")
    until(lambda: len(r.sink.find(b"Subject: s-eight")) == 2)
    got, readers = got, sorted(a for x in r.sink.find(b"Subject: s-eight") for a in x[1])
    check(readers == ["admin@example.com", "second@elsewhere.example"], "named readers", readers, got)
    with smtplib.SMTP("127.0.0.1", r.port, timeout=PATIENCE) as s:
        s.sendmail("ann@example.com", ["root@mx.example.net"], "Subject: s-nine\r\n\r\nx\r\n")
    check(len(arrived(r, b"Subject: s-nine")) >= 1, "from a network")
    got = r.sendmail("-f", "root", "refused@elsewhere.example", text=b"Subject: s-ten\n\nx\n")
    check(got.returncode == EX_OK and until(lambda: r.ask("queue", "bounce", "--all", "--reason", "no use").returncode == 0 and r.sink.find(b"s-ten")), "it fails later", got)
    m = r.sink.find(b"s-ten")
    check(m and m[0][0] == "" and m[0][1] == ["admin@example.com"] and b"user of this host" in b" ".join(m[0][2].split()), "its report", m)
    r.end()
    r = Relay()
    for text, want in (("system_mail nobody", "is no address"), ("system_mail x@mx.example.net", "no way to go")):
        r.write(local(text, r.dir))
        got = r.ask("check")
        check(got.returncode == 2 and want in " ".join(got.stdout.split()), text, got.stdout)
    r.end()


def test_strangers():
    """Users who are not named reach relay domains only, by whatever way; a network of addresses does not make them trusted."""
    r = Relay()
    r.write(local("users 12345; relay_from example.com", r.dir) + "\nnetwork here 127.0.0.0/8 ::1 { relay_from example.com }")
    r.start()
    got = r.sendmail("-f", "bob@example.com", "friend@elsewhere.example", text=b"\n")
    check(got.returncode == EX_NOPERM and f"uid:{ME} is in no network".encode() in got.stderr, "not to others", got)
    got = r.sendmail("-f", "anybody@there.example", "bob@example.com", text=b"Subject: inside\n\n")
    check(got.returncode == EX_OK and arrived(r, b"Subject: inside"), "to a relay domain", got)
    if ROOT:
        got = r.sendmail("-f", "bob@example.com", "friend@elsewhere.example", text=b"Subject: named\n\n", user=12345)
        check(got.returncode == EX_OK and arrived(r, b"Subject: named"), "whom the kernel says is named", got)
        got = r.sendmail("-f", "bob@example.com", "friend@elsewhere.example", text=b"\n", user=NOBODY.pw_uid)
        check(got.returncode == EX_NOPERM, "another one is not", got)
        # a user of this machine leaves a message for others: refused when it is taken in, and the postmaster is told
        r.stop()
        got = r.sendmail("-f", "bob@example.com", "friend@elsewhere.example", "bob@example.com", text=b"Subject: left\n\n", user=NOBODY.pw_uid)
        check(got.returncode == EX_OK and len(r.dropped()) == 1, "left while it is down", got)
        got = r.sendmail("-f", "bob@example.com", "friend@elsewhere.example", text=b"Subject: left too\n\n", user=12345)
        check(got.returncode == EX_OK, "left by one who may", got)
        r.start()
        m = arrived(r, b"Subject: left\r\n", 2) # it, and the report with its header
        check(sorted((x[0], x[1]) for x in m) == [("", ["bob@example.com"]), ("bob@example.com", ["bob@example.com"])], "his goes where it may, and he is told", m)
        check(any(b"friend@elsewhere.example" in x[2] and b"5.7.1" in x[2] for x in m), "of what was refused", m)
        check(arrived(r, b"Subject: left too")[0][1] == ["friend@elsewhere.example"], "the other's goes out")
        check(r.logged("refused", remote=f"uid:{NOBODY.pw_uid}"), "the log names the owner")
        # attack class 30: who may not write to others cannot have a report do so, by calling himself one of them
        r.stop()
        got = r.sendmail("-f", "victim@elsewhere.example", "friend@elsewhere.example", text=b"Subject: forged\nX-Text: buy\n\n", user=NOBODY.pw_uid)
        check(got.returncode == EX_OK and len(r.dropped()) == 1, "left with a foreign sender", got)
        r.start()
        m = arrived(r, b"Subject: forged\r\n")
        check([(x[0], x[1]) for x in m] == [("", ["postmaster@example.com"])], "the postmaster hears of it, and nobody else", m)
        check(m and f"User {NOBODY.pw_uid} of this host left a message".encode() in m[0][2].replace(b"\r\n", b" ") and b"To: <postmaster@example.com>" in m[0][2], "and why", m)
    r.end()


def test_down():
    """While the relay is down mail is safe in the drop directory, whoever is killed; it arrives, once."""
    r = Relay()
    r.write(local(f"users {ME}; relay_from example.com", r.dir))
    got = r.sendmail("-f", "bob@example.com", "bob@example.com", text=b"\n")
    check(got.returncode == EX_TEMPFAIL and b"drop" in got.stderr, "without a drop directory it is not now", got)
    r.start()
    r.stop()
    for i in range(20):
        got = r.sendmail("-f", "bob@example.com", "friend@elsewhere.example", text=b"Subject: down %02d\n\n%s" % (i, b"x" * 70 * i + b"\n"))
        check(got.returncode == EX_OK, "left", got)
    got = r.sendmail("-f", "bob@example.com", "bob@example.com", text=b"Subject: large\n\n" + b"0123456789\n" * 100000)
    check(got.returncode == EX_OK, "a large one", got)
    got = r.sendmail("-bs")
    check(got.returncode == EX_TEMPFAIL and got.stdout.startswith(b"421 "), "-bs says so", got)
    check(r.sendmail("-bv", "bob@example.com").returncode == EX_TEMPFAIL, "-bv says so")
    check(r.sendmail(name="newaliases").returncode == EX_OK, "newaliases leaves it for the next start")
    check(len(r.dropped()) == 21, "one file each", r.dropped())
    # taken in while it is killed again and again
    for _ in range(6):
        r.start()
        r.kill()
    r.start()
    check(until(lambda: not r.dropped()), "all are taken in", r.dropped())
    check(all(arrived(r, b"Subject: down %02d" % i) for i in range(20)), "all arrive")
    m = arrived(r, b"Subject: large")
    check(m and m[0][2].split(b"\r\n\r\n", 1)[1] == b"0123456789\r\n" * 100000, "the large one whole")
    # and while it runs: what the socket did not take is noticed at once
    os.rename(r.socket, r.socket + ".away")
    got = r.sendmail("-f", "bob@example.com", "friend@elsewhere.example", text=b"Subject: noticed\n\n")
    check(got.returncode == EX_OK and len(arrived(r, b"Subject: noticed")) == 1, "a file that comes is noticed", got)
    r.end()


def test_down_limits():
    """What is left while the relay is down may be more than it takes at once, or at all: no recipient is forgotten, and no sender."""
    r = Relay()
    r.write(local(f"users {ME}; relay_from example.com", r.dir) + "\nlimits { recipients 100; message_size 64KiB }")
    r.start()
    r.stop()
    many = ", ".join(f"u{i}@elsewhere.example" for i in range(250)).encode()
    got = r.sendmail("-t", "-f", "bob@example.com", text=b"Subject: many\nTo: " + many + b"\n\n")
    check(got.returncode == EX_OK and len(r.dropped()) == 1, "250 recipients are left together", got, r.dropped())
    got = r.sendmail("-f", "bob@example.com", "friend@elsewhere.example", "other@elsewhere.example", text=b"Subject: huge\n\n" + b"0123456789\n" * 100000)
    check(got.returncode == EX_OK, "and a message that is too large", got)
    r.start()
    check(until(lambda: sum(len(x[1]) for x in r.sink.find(b"Subject: many")) == 250), "all 250 have it", [len(x[1]) for x in r.sink.find(b"Subject: many")])
    m = arrived(r, b"Subject: huge")
    check(len(m) == 1 and m[0][1] == ["bob@example.com"] and m[0][2].count(b"Status: 5.3.4") == 2, "who sent the large one is told, for both", m)
    check(until(lambda: not r.dropped()) and not r.logged("drop_set_aside"), "nothing is set aside", r.logged("drop_set_aside"))
    r.end()


def test_killed_writer():
    """sendmail killed at whatever moment: nothing, or the whole message; never half of one."""
    r = Relay()
    r.write(local(f"users {ME}; relay_from example.com", r.dir))
    r.start()
    r.stop()
    text = b"Subject: killed\n\n" + b"y" * 70 + b"\n"
    acknowledged = 0
    for i in range(30):
        p = subprocess.Popen([f"{r.dir}/sendmail", "-C", r.conf, "-f", "bob@example.com", "bob@example.com"], stdin=subprocess.PIPE)
        p.stdin.write(text)
        p.stdin.close()
        killer = threading.Timer(0.0007 * i, p.send_signal, [signal.SIGKILL])
        killer.start()
        acknowledged += p.wait(PATIENCE) == 0
        killer.cancel()
    ready = len(r.dropped())
    check(ready >= acknowledged, "what was acknowledged is there", ready, acknowledged)
    r.start()
    check(len(arrived(r, b"Subject: killed", ready)) == ready and until(lambda: not r.dropped()), "what is there arrives", ready, len(r.sink.find(b"Subject: killed")), os.listdir(r.drop))
    check(not r.logged("drop_set_aside"), "none was half", r.logged("drop_set_aside"))
    r.end()


def test_attack_55():
    """Attack class 55: what users put into the drop directory besides messages of their own."""
    r = Relay()
    r.write(local(f"users {ME}; relay_from example.com", r.dir))
    r.start()
    r.stop()
    name = "01ARZ3NDEKTSV4RRFFQ69G5FA"
    secret = f"{r.dir}/secret"
    with open(secret, "w") as f:
        f.write("Subject: secret\n")
    got = r.sendmail("-f", "bob@example.com", "friend@elsewhere.example", text=b"Subject: good\n\n")
    good = r.dropped()[0]
    with open(f"{r.drop}/{good}", "rb") as f:
        whole = f.read()

    def put(stem, text):
        with open(f"{r.drop}/{stem}.ready", "wb") as f:
            f.write(text.replace(good[:-6].encode(), stem.encode()))

    os.symlink(secret, f"{r.drop}/{name}0.ready")
    os.link(secret, f"{r.drop}/{name}1.ready")
    os.mkfifo(f"{r.drop}/{name}2.ready")
    os.mkdir(f"{r.drop}/{name}3.ready")
    put(f"{name}4", b"")
    put(f"{name}5", whole[:-3])                                     # torn
    put(f"{name}6", whole.replace(b"Subject: good", b"Subject: evil"))   # changed
    with open(f"{r.drop}/{name}7.ready", "wb") as f:                # another's, under a name of its own
        f.write(whole)
    put(f"{name}8", whole.replace(b"RCPT TO:", b"VRFY "))
    put(f"{name}9", whole.replace(b"MAIL FROM:<bob@example.com>", b"MAIL FROM:<bob@example.com\n>"))
    put("odd name", whole)
    put(f"{name}A", b"X" * (60 << 20))                               # larger than any message
    s = socket.socket(socket.AF_UNIX)
    s.bind(f"{r.drop}/{name}B.ready")
    old = f"{r.drop}/{name}C.new"
    open(old, "w").close()
    os.utime(old, (1, 1))
    fresh = f"{r.drop}/{name}D.new"
    open(fresh, "w").close()
    r.start(options=()) # in its sandbox, which has no leave to make links
    check(until(lambda: not r.dropped()), "nothing is left to be looked at", r.dropped())
    check(len(arrived(r, b"Subject: good")) == 1, "the good one arrives, once", r.sink.mail)
    check(not r.sink.find(b"secret") and not r.sink.find(b"evil") and len(r.sink.mail) == 1, "and nothing else", r.sink.mail)
    check(until(lambda: len(r.logged("drop_set_aside")) == 13), "the others are set aside", r.logged("drop_set_aside"))
    check(os.path.exists(secret), "what a link led to is there")
    check(not os.path.exists(old) and os.path.exists(fresh), "what was begun long ago is gone")
    check(until(lambda: r.ask("stats").returncode == 0), "the relay lives")
    r.stop()
    # a directory that is somebody else's is not touched
    if ROOT:
        os.chown(r.drop, 12345, 12345)
        got = subprocess.run([WAYPOST, "serve", "--as-is", "-c", r.conf], capture_output=True, timeout=PATIENCE)
        check(got.returncode != 0 and b"somebody else" in got.stderr and os.stat(r.drop).st_uid == 12345, "somebody else's directory", got)
    r.end()


def test_configuration():
    """Nothing is trusted by default, and what would trust everybody does not load."""
    r = Relay()
    for text, want in (("local { users root }", "belong together"), ("local { relay_from example.com }", "belong together"),
                       ("local { users root; relay_from * }", "is no domain"), ("local { users no-such-user-here; relay_from example.com }", "no user"),
                       ("local { socket /" + "x" * 120 + " }", "Unix socket")):
        r.write(text)
        got = r.ask("check")
        check(got.returncode == 2 and want in got.stdout, "refused:", text, got.stdout)
    for block, want in (("{ proxy }", "from"), ("{ proxy from }", "from"), ("{ proxy from 0.0.0.0/0 }", "stranger"), ("{ xclient from ::/0 }", "stranger"),
                        ("{ xforward 10.0.0.0/8 }", "from"), ("{ proxy from mail.example }", "network"), ("{ prxy from 10.0.0.1 }", "proxy")):
        r.write(listen=block)
        got = r.ask("check")
        check(got.returncode == 2 and want in got.stdout, "refused:", block, got.stdout)
    r.write("local { }", "{ proxy from 127.0.0.1 unix; xclient from ::1; xforward from 10.0.0.0/8 }")
    check(r.ask("check").returncode == 0, "good", r.ask("check").stdout)
    r.end()


def test_many_recipients():
    """More recipients than one message may have: several messages by the socket, and all of them while the relay is down."""
    r = Relay()
    r.write(local(f"users {ME}; relay_from example.com", r.dir) + "\nlimits { recipients 100 }")
    to = [f"u{i}@example.com" for i in range(2350)]

    def those(subject):
        return sorted(a for m in r.sink.find(subject) for a in m[1])
    r.start()
    got = r.sendmail("-f", "bob@example.com", *to, text=b"Subject: up\n\n")
    check(got.returncode == EX_OK and not os.listdir(r.drop), "taken by the socket", got, os.listdir(r.drop))
    check(until(lambda: those(b"Subject: up") == sorted(to)), "each has it once", len(those(b"Subject: up")))
    r.stop()
    check(r.sendmail("-f", "bob@example.com", *to, text=b"Subject: down\n\n").returncode == EX_OK, "left")
    r.start()
    check(until(lambda: those(b"Subject: down") == sorted(to)), "each has it once", len(those(b"Subject: down")), r.logged("drop_set_aside"))
    got = r.sendmail("-q", "bob@example.com", text=b"Subject: lost\n\n")
    check(got.returncode == EX_USAGE, "-q takes no message", got)
    got = r.sendmail("-q30m", "bob@example.com", text=b"Subject: not lost\n\n")
    check(got.returncode == EX_OK and arrived(r, b"Subject: not lost"), "what stands behind -q is a daemon's", got)
    r.end()


def test_python():
    """Python's smtplib over the local socket, as a web application would."""
    r = Relay()
    r.write(local(f"users {ME}; relay_from example.com", r.dir))
    r.start()

    class Local(smtplib.SMTP):
        def _get_socket(self, host, port, timeout):
            s = socket.socket(socket.AF_UNIX)
            s.connect(host)
            return s

    with Local(r.socket) as s:
        s.sendmail("app@example.com", ["friend@elsewhere.example"], b"Subject: lib\r\n\r\nx\r\n")
    check(arrived(r, b"Subject: lib"), "it arrives")
    r.end()


for test in [v for k, v in sorted(globals().items()) if k.startswith("test_" + (sys.argv[1] if len(sys.argv) > 1 else ""))]:
    test()
done()
