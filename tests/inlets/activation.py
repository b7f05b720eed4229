"""Sockets that a service manager bound (LISTEN_FDS), with listeners that have a block, over reloads; as the unit runs it: a parent and a
sandboxed worker."""
import fcntl
import os
import shutil
import socket
import subprocess
import sys

from kit import NOBODY, PATIENCE, ROOT, WAYPOST, Relay, check, done, free_port, until

ME = os.geteuid()

# What a service manager does between fork and exec.
ACTIVATE = """import os, sys
for i in (0, 1):
    os.dup2(int(sys.argv[1 + i]), 3 + i)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="x:smtp")
os.execv(sys.argv[3], sys.argv[3:])"""


def offers(port):
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as s:
        f = s.makefile("rwb")
        f.readline()
        f.write(b"EHLO there.example\r\n")
        f.flush()
        got = []
        while not got or got[-1][3:4] == b"-":
            got.append(f.readline())
            if not got[-1]:
                return ()
        return {line[4:].split()[0].decode() for line in got} & {"XCLIENT", "XFORWARD"}


def test_inherited():
    """One socket is known by its address, one by its name, which is a kind of listener: both have the block, over reloads too."""
    r = Relay()
    local = f"local {{ socket {r.socket}; drop {r.drop}; users {ME}; relay_from example.com }}"
    r.write(local, "{ xclient from 127.0.0.1 }")
    by_addr, by_name = socket.create_server(("127.0.0.1", r.port)), socket.create_server(("127.0.0.1", 0))
    other = by_name.getsockname()[1]
    high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 100) for s in (by_addr, by_name)]

    r.p = subprocess.Popen([sys.executable, "-c", ACTIVATE, *map(str, high), WAYPOST, "serve", "-c", r.conf], stderr=subprocess.PIPE, pass_fds=high)
    check(until(lambda: r.ask("stats").returncode == 0), "the relay starts", r.p.poll())
    by_addr.close()
    by_name.close()
    for fd in high:
        os.close(fd)
    check(offers(r.port) == {"XCLIENT"}, "by address")
    check(offers(other) == {"XCLIENT"}, "by name")
    check(r.ask("reload").returncode == 0 and offers(r.port) == {"XCLIENT"} and offers(other) == {"XCLIENT"}, "after a reload")
    r.write(local, "{ xforward from 127.0.0.1 }")
    check(r.ask("reload").returncode == 0 and offers(r.port) == {"XFORWARD"} and offers(other) == {"XFORWARD"}, "with another block")

    # what the sandboxed worker does with the ways in for programs
    got = r.sendmail("-f", "bob@example.com", "friend@elsewhere.example", text=b"Subject: by socket\n\n")
    check(got.returncode == 0 and until(lambda: r.sink.find(b"by socket")), "sendmail by the socket", got)
    os.rename(r.socket, r.socket + ".away")
    user = NOBODY.pw_uid if ROOT else None
    got = r.sendmail("-f", "bob@example.com", "bob@example.com", text=b"Subject: by drop\n\n", user=user)
    check(got.returncode == 0 and until(lambda: r.sink.find(b"by drop")), "and by the drop directory", got, r.log()[-3:])
    check(until(lambda: not r.dropped()), "which is empty then")
    os.rename(r.socket + ".away", r.socket)

    # a socket that the configuration names only now is bound by the parent, for everybody
    r.write(local.replace("local.sock", "other.sock"), "{ xforward from 127.0.0.1 }")
    check(r.ask("reload").returncode == 0, "another socket")
    got = r.sendmail("-f", "bob@example.com", "bob@example.com", text=b"Subject: other socket\n\n", user=user)
    check(got.returncode == 0 and until(lambda: r.sink.find(b"other socket")), "takes mail", got)
    check(os.path.exists(f"{r.dir}/other.sock") and os.stat(f"{r.dir}/other.sock").st_mode & 0o777 == 0o666, "from everybody")
    r.end()


def test_unwanted():
    """A socket that no listener wants would let its clients wait for ever: the relay does not start, and says what to do."""
    r = Relay()
    low, one, two = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", r.port)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port = low.getsockname()[1]
    for fds, expect in (((low, one), f'listen smtp 127.0.0.1:{port}'), ((one, two), "Accept=no")):
        high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 100) for s in fds]
        got = subprocess.run([sys.executable, "-c", ACTIVATE.replace("x:smtp", "x:y"), *map(str, high), WAYPOST, "serve", "-c", r.conf], stderr=subprocess.PIPE,
                             pass_fds=high, timeout=PATIENCE, text=True)
        check(got.returncode == 1 and expect in got.stderr, "it tells what to do", got)
        for fd in high:
            os.close(fd)
    for s in (low, one, two):
        s.close()
    r.end()


def test_systemd():
    """By systemd's own starter, when it is here; it waits for the first client."""
    starter = shutil.which("systemd-socket-activate")
    if not starter:
        print("skipped: no systemd-socket-activate here")
        return
    r = Relay()
    other = free_port()
    r.p = subprocess.Popen([starter, "-l", f"127.0.0.1:{r.port}", "-l", f"127.0.0.1:{other}", "--fdname", "x:smtp", WAYPOST, "serve", "-c", r.conf],
                           stderr=subprocess.PIPE)
    check(until(lambda: connects(r.port)), "it listens")
    check(until(lambda: r.ask("stats").returncode == 0), "the relay starts", r.p.poll())
    check(offers(r.port) == set() and offers(other) == set(), "by address and by name")
    r.end()


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


test_inherited()
test_unwanted()
test_systemd()
done()
