#!/usr/bin/python3
"""Each peer as our client and as our next hop: some five hundred mails of all kinds, every recipient accounted for.

    generator -> peer -> relay -> sink          generator -> relay -> peer -> sink

  peers.py [--relay waypost|none|postfix|exim|opensmtpd] [--keep] [PEER ...]

`--relay none` leaves the relay out: the peers against the test bed, to see that what fails is not the test bed."""

import argparse
import collections
import email
import email.policy
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time

import mail
import servers
import smtp

WAYS = ("step", "pipelined", "bdat")
PATIENCE = 25           # seconds without any progress


def inject(port, mails):
    """Hand the mails in by four sessions at a time, each mail in the next way. Returns what could not be handed in."""
    todo = collections.deque((m, WAYS[i % 3]) for i, m in enumerate(mails))
    lost, lock = [], threading.Lock()

    def work():
        client, used, tries = None, 0, 0
        while True:
            with lock:
                if not todo:
                    break
                m, way = todo.popleft()
            try:
                if client is None:
                    client, used = smtp.Client(port), 0
                client.deliver(m, way)
                used += 1
                tries = 0
                if used == 25:
                    client.quit()
                    client = None
            except (smtp.Refused, smtp.Closed, OSError) as e:
                if client:
                    client.wire.close()
                client = None
                tries += 1
                with lock:
                    if tries < 5:
                        todo.append((m, way))
                    else:
                        lost.append(f"{m.ident} ({m.kind}, {way}): {e}")
                time.sleep(0.2)
        if client:
            client.quit()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return lost


def reported(text):
    """The recipients that a delivery report calls failed (RFC 3464)."""
    out = []
    for part in email.message_from_bytes(text, policy=email.policy.compat32).walk():
        if part.get_content_type() != "message/delivery-status":
            continue
        for block in part.get_payload():
            if (block.get("Action") or "").strip().lower() == "failed":
                out.append((block.get("Final-Recipient") or "").partition(";")[2].strip().strip("<>"))
    return out


class Pair:
    """One peer on one side of the relay."""

    def __init__(self, folder, peer, role, relay):
        self.sink = smtp.Sink()
        self.title = f"{peer} as {role}"
        make = servers.PEERS[peer]
        next_hop = role == "next hop"
        peer_folder, relay_folder = folder / f"{peer}-{role[:4]}", folder / f"relay-{peer}-{role[:4]}"
        if relay is None:
            self.peer = make(peer_folder, self.sink.port)
            self.chain = [self.peer]
        elif next_hop:
            self.peer = make(peer_folder, self.sink.port, refuse_gone=True)
            self.chain = [self.peer, relay(relay_folder, self.peer.port)]
        else:
            last = relay(relay_folder, self.sink.port)
            self.peer = make(peer_folder, last.port)
            self.chain = [last, self.peer]
        self.entry = self.chain[-1]
        self.by_command = not next_hop          # some go in by the peer's own sendmail
        prefix = peer[:2] + role[0]
        self.mails = mail.Generator(prefix, prefix).batch(next_hop)

    def run(self):
        """Returns what went wrong, a list of texts a check."""
        began = time.monotonic()
        try:
            for server in self.chain:
                server.start()
            commanded = []
            if self.by_command:
                fit = ("small", "dots", "blank", "long")
                commanded = [m for m in self.mails if m.kind in fit and len(m.rcpts) == 1][:12]
            rest = [m for m in self.mails if m not in commanded]
            lost = inject(self.entry.port, rest)
            for m in commanded:
                self.peer.sendmail(m)
            handed_in = time.monotonic() - began
            self.wait()
            checks = self.judge(lost)
            checks["servers"] = [wrong for server in self.chain for wrong in server.broken()]
        finally:
            for server in reversed(self.chain):
                server.stop()
            self.sink.close()
        s = self.sink
        print(f"{self.title}: {len(self.mails)} mails, {sum(len(m.rcpts) for m in self.mails)} recipients, "
              f"{len(s.reports)} reports, {s.sessions} sessions, {s.chunked} in chunks, "
              f"{handed_in:.1f} s in, {time.monotonic() - began:.1f} s in all")
        return checks

    def explain(self, checks):
        """What the servers say of the first recipient that went wrong, or last."""
        wrong = checks["counts"] + checks["bodies"] + checks["reports"]
        who = wrong[0].split(":")[0].split(" ")[0] if wrong else ""
        for server in self.chain:
            print(f"  -- {server.name} said {'of ' + who if who else 'last'}:")
            print("".join(f"  {line}\n" for line in server.told(who) or server.told()), end="")

    def wanted(self):
        delivered, failed = {}, collections.Counter()
        for m in self.mails:
            hashed = mail.digest(m.data)
            for rcpt in m.rcpts:
                if m.fate(rcpt) == "delivered":
                    delivered[m.ident, rcpt] = hashed
                else:
                    failed[rcpt] += 1
        return delivered, failed

    def wait(self):
        """Until all has come, and a second longer for what must not; or until nothing has come for long."""
        delivered, failed = self.wanted()
        last, since, kicked = -1, time.monotonic(), 0
        while time.monotonic() - since < PATIENCE:
            with self.sink.lock:
                have = sum(map(len, self.sink.delivered.values()))
                reports = list(self.sink.reports)
            told = sum(len(reported(r)) for r in reports)
            if have >= len(delivered) and told >= sum(failed.values()):
                break
            if have + told != last:
                last, since = have + told, time.monotonic()
            if min(time.monotonic() - since, time.monotonic() - kicked) > 1:
                kicked = time.monotonic()
                for server in self.chain:
                    server.kick()
            time.sleep(0.2)
        time.sleep(1)

    def judge(self, lost):
        delivered, failed = self.wanted()
        got = self.sink.delivered
        told = collections.Counter(rcpt for r in self.sink.reports for rcpt in reported(r))
        kind = {m.ident: m.kind for m in self.mails}
        counts = [f"{rcpt}: {len(got.get((ident, rcpt), []))} times, wanted once"
                  for ident, rcpt in delivered if len(got.get((ident, rcpt), [])) != 1]
        counts += [f"{rcpt}: {len(times)} times, wanted never" for (ident, rcpt), times in got.items()
                   if (ident, rcpt) not in delivered]
        bodies = [f"{rcpt} ({kind.get(ident)}): another text" for (ident, rcpt), hashes in got.items()
                  if any(h != delivered.get((ident, rcpt), h) for h in hashes)]
        reports = [f"{rcpt}: reported {told[rcpt]} times, wanted {failed[rcpt]}" for rcpt in failed | told
                   if told[rcpt] != failed[rcpt]]
        faults = [f"{what}: {n} times" for what, n in self.sink.faults.items()]
        return {"handed in": lost, "counts": counts, "bodies": bodies, "reports": reports, "wire": faults}


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--relay", default="waypost", choices=["waypost", "none", *servers.PEERS])
    parse.add_argument("--keep", action="store_true", help="leave the folder of the run behind")
    parse.add_argument("peer", nargs="*", choices=[[], *servers.PEERS], metavar="PEER")
    args = parse.parse_args()
    if not servers.peers_ready():
        print("FAIL peers: build-peers is not complete: run packaging/peers.sh\n0 passed, 1 failed")
        return 1
    if os.geteuid() != 0:
        print("FAIL peers: only root may chroot\n0 passed, 1 failed")
        return 1
    if args.relay == "waypost" and not servers.relay_built():
        print("peers: no relay is built: the peers against the test bed alone")
        args.relay = "none"
    relay = {"none": None, "waypost": servers.Waypost}.get(args.relay, servers.PEERS.get(args.relay))
    roles = ["client", "next hop"] if relay else ["next hop"]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=servers.ROOTS))
    folder.chmod(0o755)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # through every finally
    passed = failed = 0
    try:
        for peer in args.peer or servers.PEERS:
            for role in roles:
                pair = Pair(folder, peer, role, relay)
                checks = pair.run()
                for check, wrong in checks.items():
                    passed += not wrong
                    failed += bool(wrong)
                    if wrong:
                        print(f"FAIL {pair.title}: {check}: {len(wrong)} wrong")
                        print("".join(f"  {w}\n" for w in wrong[:8]), end="")
                if any(checks.values()):
                    pair.explain(checks)
                sys.stdout.flush()
    finally:
        if args.keep:
            print(f"kept: {folder}")
        else:
            servers.remove(folder)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
