"""`waypost top` on a terminal of 80x24 and without one. WAYPOST_BUILD says where the relay is."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crash"))
from lab import PATIENCE, WAYPOST, Relay, Sink, blast, check, run, until  # noqa: E402


class Terminal:
    """A program on a terminal of our own, and the screen it draws, as far as it uses one."""

    def __init__(self, argv, wide=80, high=24):
        self.wide, self.high, self.all = wide, high, b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", high, wide, 0, 0))
            os.execv(argv[0], argv)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", high, wide, 0, 0))
        self.mode = termios.tcgetattr(self.fd)

    def hear(self):
        while select.select([self.fd], [], [], 0.05)[0]:
            try:
                got = os.read(self.fd, 65536)
            except OSError:     # the program has ended
                return False
            if not got:
                return False
            self.all += got
        return True

    def screen(self):
        """The lines of the last whole picture."""
        self.hear()
        pictures = self.all.decode().split("\033[H")[1:]
        whole = [p for p in pictures if "\033[J" in p]
        return [re.sub(r"\033\[[0-9;?]*[a-zA-Z]", "", line) for line in whole[-1].split("\r\n")] if whole else []

    def ended(self):
        self.hear()
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return None if pid == 0 else os.waitstatus_to_exitcode(status)


def top(dir):
    sink = Sink(dir)
    relay = Relay(dir, sink.at, extra="backend gone { server 127.0.0.1:1 }\nrelay_domain gone.example { backend gone; recipients any }\n").start()
    blast(relay.at, "--mails", "50").wait(PATIENCE)
    blast(relay.at, "--mails", "7", "--to", "user%d@gone.example").wait(PATIENCE)
    check(until(lambda: relay.stats()["counters"]["delivered"] == 50), "mail goes through")
    check(until(lambda: any(l["state"] == "down" for l in relay.stats()["lanes"])), "a lane is down")

    for sort, first in (("queued", "gone"), ("name", "gone"), ("oldest", "gone")):
        text = relay.ask("top", "--once", "--sort", sort)
        lines = text.splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("LANE "))
        check(lines[at + 1].split()[:3] == [first, "down", "7"], "the fullest lane first, down, with what waits", sort, lines[at + 1:])
        check("Connection refused" in lines[at + 1] or "failed lately" in lines[at + 1], "and why", lines[at + 1])
        check(any(line.startswith("inside") and " open " in line for line in lines[at + 2:]), "the other one", lines)
        check("\033" not in text, "plain text")
        check("7 messages" in text and "1 of them down" in text, "the sums", text)
    check(relay.ask("top", "--once", "--sort", "colour") is None, "no such key")
    got = subprocess.run([WAYPOST, "top", "--socket", relay.control], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)
    check(got.returncode == 2 and "--once" in got.stderr, "without a terminal", got.stderr)

    argv = [WAYPOST, "top", "--socket", relay.control]
    for wide, high in ((80, 24), (40, 8), (200, 50)):
        t = Terminal(argv, wide, high)
        check(until(t.screen), "a picture", wide)
        lines = t.screen()
        check(len(lines) <= high and max(map(len, lines)) <= wide, "fits", wide, high, len(lines), max(map(len, lines)))
        check(high < 9 or any(line.startswith("gone") for line in lines), "has the lanes", lines)
        off = termios.tcgetattr(t.fd)[3] & (termios.ICANON | termios.ECHO)
        check(off == 0, "takes keys at once")
        n = t.all.count(b"\033[H")
        check(until(lambda: t.hear() and t.all.count(b"\033[H") > n), "and draws anew")
        os.write(t.fd, b"n")
        os.write(t.fd, b"q")
        code = until(lambda: None if t.ended() is None else True)
        check(code, "q ends it")
        check(t.all.endswith(b"\033[?25h\033[?1049l"), "the screen and the cursor are given back", t.all[-30:])
        os.close(t.fd)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        t = Terminal(argv)
        check(until(t.screen), "a picture")
        os.kill(t.pid, number)
        check(until(lambda: t.ended() is not None), "a signal ends it", number)
        mode = termios.tcgetattr(t.fd)[3]
        check(t.all.endswith(b"\033[?25h\033[?1049l"), "a signal gives the terminal back", number, t.all[-30:])
        check(mode & termios.ECHO and mode & termios.ICANON, "as it was", number)
        os.close(t.fd)
    # The relay ends meanwhile.
    t = Terminal(argv)
    check(until(t.screen), "a picture")
    check(relay.stop() == 0, "the relay stops", relay.tail())
    codes = []
    check(until(lambda: codes.append(t.ended()) or codes[-1] is not None), "and so does the view")
    check(codes[-1] == 3, "not reachable", codes[-1])
    check(b"\033[?25h\033[?1049l" in t.all, "the terminal is given back all the same")
    os.close(t.fd)
    sink.end()


run(top)
