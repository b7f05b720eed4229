"""Name servers for tests: a real one with zones of ours, and one that lies. All on loopback, on ports of their own."""
import atexit
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "kit"))
from checks import PATIENCE, until  # noqa: E402


def free_port():
    """One that is free for UDP and TCP."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u, socket.socket() as t:
            u.bind(("127.0.0.1", 0))
            try:
                t.bind(u.getsockname())
                return u.getsockname()[1]
            except OSError:
                pass


def name_wire(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def query(port, name, qtype=6, address="127.0.0.1"):
    """A bare question by UDP: the whole reply, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.5)
        try:
            s.sendto(struct.pack("!6H", 4711, 0, 1, 0, 0, 0) + name_wire(name) + struct.pack("!2H", qtype, 1), (address, port))
            return s.recv(4096)
        except OSError:
            return None


class Nsd:
    """NSD with zones {name: text}. A zone in `sign` is signed, with the options given there; `after` may change its signed text."""

    def __init__(self, zones, sign=None, after=None, address="127.0.0.1"):
        self.dir = tempfile.mkdtemp(prefix="waypost-nsd-")
        os.chmod(self.dir, 0o755)
        self.port = free_port()
        self.address = address
        self.process = None
        self.anchors = {}
        for name, text in zones.items():
            path = f"{self.dir}/{name}.zone"
            with open(path, "w") as f:
                f.write(f"$ORIGIN {name}.\n$TTL 300\n@ SOA ns.{name}. host.{name}. 1 3600 600 86400 60\n@ NS ns.{name}.\nns A 127.0.0.1\n{text}")
            if sign and name in sign:
                key = self.run("ldns-keygen", "-a", "ECDSAP256SHA256", "-k", name).strip()
                self.run("ldns-signzone", "-i", "20200101000000", "-e", "20500101000000", *sign[name], "-f", path + ".signed", path, key)
                with open(f"{self.dir}/{key}.key") as f:
                    self.anchors[name] = f.read()
                with open(path + ".signed") as f:
                    text = f.read()
                if after and name in after:
                    changed = after[name](text)
                    assert changed != text
                    text = changed
                with open(path, "w") as f:
                    f.write(text)
        with open(f"{self.dir}/nsd.conf", "w") as f:
            f.write(f'server:\n  ip-address: {address}@{self.port}\n  username: ""\n  chroot: ""\n  zonesdir: "{self.dir}"\n  database: ""\n'
                    f'  pidfile: "{self.dir}/pid"\n  xfrdfile: "{self.dir}/xfrd"\n  xfrdir: "{self.dir}"\n  zonelistfile: "{self.dir}/list"\n'
                    f'  server-count: 1\n  hide-version: yes\nremote-control:\n  control-enable: no\n')
            for name in zones:
                f.write(f'zone:\n  name: "{name}"\n  zonefile: "{self.dir}/{name}.zone"\n')
        self.first = next(iter(zones))
        atexit.register(self.end)
        self.start()

    def run(self, *argv):
        return subprocess.run(argv, cwd=self.dir, capture_output=True, text=True, check=True, timeout=60).stdout

    def anchor_file(self, *names):
        path = f"{self.dir}/anchors-{'-'.join(names)}"
        with open(path, "w") as f:
            f.write("; keys of tests\n" + "".join(self.anchors[n] for n in names))
        return path

    def start(self):
        nsd = shutil.which("nsd", path=os.environ["PATH"] + ":/usr/sbin")
        with open(f"{self.dir}/log", "a") as log:
            self.process = subprocess.Popen([nsd, "-d", "-c", f"{self.dir}/nsd.conf"], stdout=log, stderr=log)
        if not until(lambda: query(self.port, self.first, address=self.address) or self.process.poll() is not None) or self.process.poll() is not None:
            with open(f"{self.dir}/log") as log:
                raise RuntimeError("nsd does not start: " + log.read())

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def end(self):
        atexit.unregister(self.end)
        self.stop()
        shutil.rmtree(self.dir)


class Liar:
    """A name server by UDP, and by TCP when `tcp`, that answers as answer(packet, question, tcp) says: octets, or None for silence. `question` has
    name, type, and the octets of the question section."""

    class Question:
        def __init__(self, packet):
            labels, at = [], 12
            while packet[at]:
                labels.append(packet[at + 1:at + 1 + packet[at]].decode("latin-1"))
                at += 1 + packet[at]
            self.name = ".".join(labels).lower()
            self.type, = struct.unpack("!H", packet[at + 1:at + 3])
            self.wire = packet[12:at + 5]

    def __init__(self, answer, tcp=False):
        self.answer, self.asked = answer, []
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port = free_port()
        self.udp.bind(("127.0.0.1", self.port))
        threading.Thread(target=self.serve_udp, daemon=True).start()
        self.tcp = None
        if tcp:
            self.tcp = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self.serve_tcp, daemon=True).start()

    def reply(self, packet, tcp):
        q = self.Question(packet)
        self.asked.append((q.name, q.type))
        return self.answer(packet, q, tcp)

    def serve_udp(self):
        while True:
            try:
                packet, peer = self.udp.recvfrom(4096)
                said = self.reply(packet, False)
                if said is not None:
                    self.udp.sendto(said, peer)
            except OSError:
                return

    def serve_tcp(self):
        while True:
            try:
                s, _ = self.tcp.accept()
                with s, s.makefile("rb") as f:
                    packet = f.read(struct.unpack("!H", f.read(2))[0])
                    said = self.reply(packet, True)
                    if said is not None:
                        s.sendall(struct.pack("!H", len(said)) + said)
            except (OSError, struct.error):
                if self.tcp.fileno() < 0:
                    return

    def end(self):
        self.udp.close()
        if self.tcp:
            self.tcp.close()


def packet_of(packet, q, answers=(), rcode=0, flags=0x8580, authority=(), identity=None, wire=None, counts=None):
    """A reply to `packet`: QR AA RD RA unless `flags`; records as (name octets, type, ttl, rdata[, rdlength])."""
    def record(name, rtype, ttl, rdata, length=None):
        return name + struct.pack("!HHIH", rtype, 1, ttl, len(rdata) if length is None else length) + rdata
    head = (struct.unpack("!H", packet[:2])[0] if identity is None else identity, flags | rcode, 1, *(counts or (len(answers), len(authority), 0)))
    return struct.pack("!6H", *head) + (q.wire if wire is None else wire) + b"".join(record(*r) for r in (*answers, *authority))


def soa(zone):
    return (name_wire(zone), 6, 60, name_wire("ns." + zone) + name_wire("host." + zone) + struct.pack("!5I", 1, 3600, 600, 86400, 60))


def wait_said(path, pattern):
    """Until a log says so."""
    def said():
        try:
            with open(path) as f:
                return re.search(pattern, f.read())
        except OSError:
            return None
    return until(said)
