"""What a relay must bear: many sessions, a long queue, slow and hostile peers, more load than it can carry."""
import contextlib, os, shutil, socket, subprocess, threading, time

from lab import MIB, Failed, Peak, Sink, Waypost, descriptors, free_port, greets, median, ratio, until

SLOTS = '127.0.1.0/24'          # addresses of clients: the default limit is 200 sessions each


# ---- idle ----

def settled_rss(relay):
    """Sessions give their buffers back after a while: until that changes nothing any more, at most 15 s."""
    was = relay.rss()
    for _ in range(5):
        time.sleep(3)
        now = relay.rss()
        if now >= was:
            break
        was = now
    return now


def idle(lab, report):
    """10,000 sessions that said EHLO and then nothing, from a hundred addresses"""
    n = min(2000 if lab.quick else 10000, descriptors(10500) - 400)
    sink = Sink(lab)
    relay = Waypost(lab, sink.port)
    lab.blast(relay.port, mails=2000)
    sink.has(2000)
    before, sockets = settled_rss(relay), []
    with contextlib.ExitStack() as all_:
        for i in range(n):
            s = all_.enter_context(socket.create_connection(('127.0.0.1', relay.port), 30, ('127.0.1.%d' % (1 + i % 100), 0)))
            sockets.append(s)
            s.recv(500)
            s.sendall(b'EHLO idle.example\r\n')
        greeted = sum(s.recv(2000).startswith(b'250') for s in sockets)
        after, stats = settled_rss(relay), relay.stats()
        report.figure('memory an idle session', (after - before) / n / 1024, ('<=', 12), form='%.1f', unit='KiB')
        report.figure('sessions greeted', greeted, ('=', n), form='%d')
        report.note('%d sessions, %d tasks, %d descriptors in the worker; %.1f MiB before, %.1f MiB with them'
                    % (stats['sessions'], sum(t['tasks'] for t in stats['threads']), len(os.listdir('/proc/%d/fd' % relay.worker())),
                       before / MIB, after / MIB))
        for s in sockets:
            s.sendall(b'NOOP\r\n')
        report.figure('of them awake after it', sum(s.recv(500).startswith(b'250') for s in sockets), ('=', n), form='%d')
    until('all sessions ended', lambda: relay.stats()['sessions'] == 0)
    report.note('%.1f MiB when they are gone' % (settled_rss(relay) / MIB))
    relay.remove()
    sink.end()


# ---- backlog ----

class Listing:
    """waypost queue list, again and again, while this lasts."""

    def __init__(self, lab, relay):
        self.lab, self.relay, self.stop, self.lines = lab, relay, threading.Event(), 0
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stop.is_set():
            p = self.lab.start(*self.relay.ask('queue', 'list', '--json', '--limit', '100000000')[1:], stdout=subprocess.PIPE)
            for _ in iter(lambda: p.stdout.read(1 << 20), b''):
                self.lines += 1
                if self.stop.is_set():
                    p.terminate()
            p.wait()

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def started_again(lab, relay):
    """Start it, and tell when its first 250 came; the backlog loads meanwhile."""
    behind, began = relay.log_end(), time.monotonic()
    relay.p = lab.start('serve', '-c', relay.conf)
    until('the relay greets', lambda: greets(relay.port), 60, 0.002)
    lab.blast(relay.port, mails=1, size=1024)
    first = time.monotonic() - began
    return first, until('the backlog is loaded', lambda: relay.logged('backlog_loaded', behind), 300)


def backlog(lab, report):
    """one million deliveries of 1 KiB that wait for a dead next hop (--quick: 100,000)"""
    n, some = (100000, 10000) if lab.quick else (1000000, 20000)
    dead = free_port()                                  # nobody listens there, until the end
    full, empty = (Waypost(lab, dead, name=name) for name in ('waypost', 'empty'))
    for relay in full, empty:
        lab.blast(relay.port, mails=some, size=1024)
    before = full.rss()
    sent = lab.blast(full.port, mails=n, per_session=1000, size=1024)
    taken = some + sent['messages']
    report.note('taken at %.0f msg/s' % sent['rate'])
    after = full.rss()
    rates = []
    for _ in range(3):
        e, f = (lab.blast(relay.port, mails=some, size=1024) for relay in (empty, full))
        taken += f['messages']
        rates.append({'empty': e['rate'], 'full': f['rate'], 'ratio': ratio(f['rate'], e['rate'])})
    report.keep(rates=rates, rss_before=before, rss_after=after)
    report.figure('accept rate, full / empty', median(rates, 'ratio'), ('>=', 0.9))
    report.figure('memory, full - empty', (after - before) / 1e6, ('<=', 200), form='%.0f', unit='MB')
    empty.remove()

    alone, beside = [], []
    for _ in range(lab.rounds):
        quiet = lab.blast(full.port, rate=1000, time='5s', size=1024)
        with Listing(lab, full):
            listed = lab.blast(full.port, rate=1000, time='5s', size=1024)
        taken += quiet['messages'] + listed['messages']
        alone.append({'p99_us': quiet['latency_us']['p99']})
        beside.append({'p99_us': listed['latency_us']['p99']})
        report.note('1000 msg/s: p99 of the 250 %.0f us, while queue list streams %.0f us' % (alone[-1]['p99_us'], beside[-1]['p99_us']))
    report.figure('p99 of the 250, beside queue list / alone', ratio(median(beside, 'p99_us'), median(alone, 'p99_us')), ('<=', 2))

    for how, stop in ('a restart', full.end), ('kill -9', full.kill):
        stop()
        first, loaded = started_again(lab, full)
        taken += 1
        report.figure('first 250 after %s' % how, first, ('<=', 1), unit='s')
        report.figure('backlog loaded after %s' % how, loaded['messages'] / (loaded['took_us'] / 1e6), ('>=', 500000), form='%.0f', unit='msg/s')
        report.note('%d messages, %d ended, %d damaged, in %.2f s; %.0f MB with them'
                    % (loaded['messages'], loaded['ended'], loaded['damaged'], loaded['took_us'] / 1e6, full.rss() / 1e6))

    began = time.monotonic()                            # the next hop is back: everything goes there
    sink = Sink(lab, port=dead)
    subprocess.run(full.ask('queue', 'retry', '--all'), stdout=lab.log, stderr=lab.log)
    lost = sink.has(taken, 60)
    report.figure('delivered once the next hop is back', taken / (time.monotonic() - began), form='%.0f', unit='msg/s')
    full.remove()
    report.safe([{'lost': lost, 'doubled': sink.end()['duplicates']}])


# ---- slowhop ----

def slow_and_fast(lab, slow_rate, connections):
    slow, fast = Sink(lab, '--rate-limit', slow_rate), Sink(lab)
    relay = Waypost(lab, {'example.com': fast.port, 'slow.example': slow.port}, 'limits { message_size 200MiB }\n',
                    'max_connections %d' % connections)
    return slow, fast, relay


def slowhop(lab, report):
    """50 sessions of 100 MB each to a next hop that reads 1 MB/s a connection (--quick: 20 MB, 2 MB/s); 4 KiB mail beside ten of them"""
    size, rate = ('20m', '2m') if lab.quick else ('100m', '1m')
    slow, fast, relay = slow_and_fast(lab, rate, 50)
    with Peak(relay.rss) as peak:
        sent = lab.blast(relay.port, sessions=50, mails=50, per_session=1, size=size, to='user%d@slow.example')
        told = peak.most
        lost = slow.has(sent['messages'], 180)
    relay.remove()
    fast.end()
    report.figure('memory at most', peak.most / MIB, ('<=', 256 + 64), form='%.0f', unit='MiB')
    report.note('%.0f MiB at most while they came in (%.0f MB/s); body_memory is 256 MiB' % (told / MIB, sent['mb_per_second']))
    report.figure('accepted', sent['messages'], ('=', 50), form='%d')
    report.safe([{'lost': lost, 'doubled': slow.end()['duplicates']}])

    alone, beside = [], []
    for _ in range(lab.rounds):
        for runs in alone, beside:
            slow, fast, relay = slow_and_fast(lab, rate, 16)
            lab.blast(relay.port, mails=1000)
            os.sync()                                   # what the run before left to write is not to be counted
            large = runs is beside and lab.blast(relay.port, wait=False, sessions=10, mails=10, per_session=1, size=size, to='user%d@slow.example')
            small = lab.blast(relay.port, rate=500, time='5s' if lab.quick else '10s')
            runs.append({'p99_us': small['latency_us']['p99'], 'p50_us': small['latency_us']['p50'],
                         'lost': fast.has(1000 + small['messages']), 'refused': small['failed']})
            report.row('beside ten' if runs is beside else 'alone', runs[-1])
            slow.end()                                  # what it has not read by now it need not
            if large:
                lab.blasted(large)
            relay.remove()
            fast.end()
    report.figure('p99 of 4 KiB mail, beside ten / alone', ratio(median(beside, 'p99_us'), median(alone, 'p99_us')), ('<=', 2))


# ---- overload ----

def slow_down(lab, relay):
    """Give each worker thread a tenth of a processor and not more, whatever the others do: else the generator, which shares the machine,
    could not offer four times of what the relay can take. False where the kernel does not let us."""
    tids = [t for t in os.listdir('/proc/%d/task' % relay.worker())
            if open('/proc/%d/task/%s/comm' % (relay.worker(), t)).read().startswith('worker-')]
    for tid in tids:
        if shutil.which('chrt') is None or subprocess.run(['chrt', '-d', '-T', '100000', '-D', '1000000', '-P', '1000000', '-p', '0', tid],
                                                          stdout=lab.log, stderr=lab.log).returncode != 0:
            return False
    return bool(tids)


def goodput(lab, relay, sink, seconds, *options, **how):
    """What arrives at the next hop each second, when the load has been there for two."""
    p = lab.blast(relay.port, *options, wait=False, polite='--open' in options, time='%ds' % (seconds + 2), **how)
    time.sleep(2)
    first, began = sink.count()['unique'], time.monotonic()
    time.sleep(seconds)
    rate = (sink.count()['unique'] - first) / (time.monotonic() - began)
    sent = lab.blasted(p)
    return {'rate': rate, 'offered': how.get('rate', 0), 'accepted': sent['rate'], 'sent': sent, 'p99_us': sent['latency_us']['p99'],
            'refused': sent['failed']}


def overload(lab, report):
    """four times the load that the relay can carry, from clients that do not wait for each other; the workers have a tenth of a processor each"""
    descriptors(8000)
    sink = Sink(lab)
    relay = Waypost(lab, sink.port)
    lab.blast(relay.port, mails=2000)
    slowed = slow_down(lab, relay)
    if not slowed:
        report.note('the kernel does not let us bound the relay (chrt -d): it shares the processors with the generator, so do not trust this')
    seconds, taken = 3 if lab.quick else 8, 2000
    peak, over = [], []
    for _ in range(lab.rounds):
        peak.append(goodput(lab, relay, sink, seconds, sessions=50))
        taken += peak[-1]['sent']['messages']
        report.row('peak', peak[-1])
        with Peak(relay.rss) as most:
            over.append(goodput(lab, relay, sink, seconds, '--open', sessions=4000, rate=4 * int(peak[-1]['rate']), bind='127.0.1.0/28'))
        taken += over[-1]['sent']['messages']
        report.row('4 x', over[-1])
        s = over[-1]['sent']
        report.note('offered %d/s; sessions turned away with 4xx %d, with 5xx %d, lost %d, not begun %d; messages refused %s; %.0f MiB'
                    % (over[-1]['offered'], s['turned_away']['4xx'], s['turned_away']['5xx'], s['lost'], s['missed'] // 20, s['replies'], most.most / MIB))
    report.figure('goodput at 4 x / peak', ratio(median(over, 'rate'), median(peak, 'rate')), ('>=', 0.9))
    report.figure('answers other than 2xx and 4xx', sum(r['sent']['turned_away']['5xx'] + r['sent']['replies'].get('5xx', 0) for r in over), ('=', 0), form='%d')
    report.figure('lines dropped', sum(r['sent']['lost'] for r in over + peak), ('=', 0), form='%d')
    lost = sink.has(taken, 60)
    relay.remove()
    report.safe([{'lost': lost, 'doubled': sink.end()['duplicates']}])


# ---- tarpit ----

def tarpit(lab, report):
    """1,000 next hops that answer each command after 30 s, 10,000 clients that say 512 octets every ten seconds: a healthy lane beside them"""
    hops, clients = (100, 1000) if lab.quick else (1000, 10000)
    clients = min(clients, descriptors(20000) - 1000)
    runs = {'alone': [], 'beside': []}
    for _ in range(lab.rounds):
        for name, all_ in runs.items():
            fast, pit = Sink(lab), Sink(lab, '--delay', 'ehlo:30s', '--delay', 'mail:30s', '--delay', 'rcpt:30s', '--delay', 'dot:30s', ports=hops)
            ways = {'example.com': fast.port, **{'d%d.tarpit.example' % i: pit.port + i for i in range(hops)}}
            relay = Waypost(lab, ways)
            lab.blast(relay.port, mails=2000)
            slow = None
            if name == 'beside':
                for _ in range(10):
                    lab.blast(relay.port, mails=hops, size=2048, to='user@d%d.tarpit.example')
                slow = lab.blast(relay.port, wait=False, polite=True, sessions=clients, mails=clients, per_session=1, rate_limit=50, bind=SLOTS,
                                 to='slow%d@d0.tarpit.example')
                with contextlib.suppress(Failed):
                    until('the slow clients are there', lambda: relay.stats()['sessions'] >= clients, 30, 0.2)
                stats = relay.stats()
                report.note('%d sessions, %d connections to next hops, %d tasks, %d descriptors, %.0f MiB'
                            % (stats['sessions'], stats['connections'], sum(t['tasks'] for t in stats['threads']),
                               len(os.listdir('/proc/%d/fd' % relay.worker())), relay.rss() / MIB))
            all_.append(goodput(lab, relay, fast, 3 if lab.quick else 8, sessions=50))
            report.row(name, all_[-1])
            all_[-1]['lost'] = fast.has(2000 + all_[-1]['sent']['messages'], 30)
            pit.p.kill()                                # or the relay would wait for it before it ends
            pit.p.wait()
            if slow:
                slow.kill()
                slow.communicate()
            relay.remove()
            all_[-1]['doubled'] = fast.end()['duplicates']
    report.figure("the healthy lane's rate, beside them / alone", ratio(median(runs['beside'], 'rate'), median(runs['alone'], 'rate')), ('>=', 0.9))
    report.safe(runs['alone'] + runs['beside'])


# ---- failover ----

def failover(lab, report):
    """three servers of a backend, 500 messages a second, one is killed: how long is the slowest message on its way"""
    slowest = []
    for _ in range(lab.rounds):
        sinks = [Sink(lab) for _ in range(3)]
        relay = Waypost(lab, sinks[0].port, backend=''.join('; server 127.0.0.1:%d' % s.port for s in sinks[1:]))
        lab.blast(relay.port, mails=1000)
        behind = relay.log_end()
        p = lab.blast(relay.port, wait=False, rate=500, time='6s', sessions=20)
        time.sleep(2)
        sinks[1].p.kill()
        sent = lab.blasted(p)
        until('all is delivered', lambda: relay.stats()['queue']['messages'] == 0, 60, 0.1)
        took = [line['took_us'] for line in relay.lines('delivered', behind)]
        slowest.append({'us': max(took), 'messages': sent['messages'], 'failed': sent['failed'], 'delivered': len(took)})
        report.note('%d taken, %d refused, %d delivered, the slowest after %.1f ms' % (sent['messages'], sent['failed'], len(took), max(took) / 1000))
        relay.remove()
        for s in sinks[0], sinks[2]:
            s.end()
        sinks[1].p.communicate()
    report.keep(runs=slowest)
    report.figure('the slowest message', max(s['us'] for s in slowest) / 1e6, ('<=', 2), form='%.3f', unit='s')
    report.figure('clients that saw an error', sum(s['failed'] for s in slowest), ('=', 0), form='%d')


# ---- tables ----

def tables(lab, report):
    """lists of 200,000 and of 10 million recipients (--quick: 1 million): how long they take to load, and how much memory"""
    where = os.path.join(lab.dir, 'tables')
    os.makedirs(where, exist_ok=True)
    for n, seconds in (200000, 0.3), (1000000 if lab.quick else 10000000, 15):
        with open(os.path.join(where, 'list'), 'w') as f:
            f.writelines('user%d@example.com\n' % i for i in range(n))
        with open(os.path.join(where, 'conf'), 'w') as f:
            f.write('waypost 1\nhostname bench.example\npostmaster user1@example.com\nlisten smtp 127.0.0.1:%d\nspool { dir spool }\n'
                    'backend b { server 127.0.0.1:9 }\nrelay_domain example.com { backend b; recipients { file list } }\n' % free_port())
        took = []
        for _ in range(lab.rounds):
            began = time.monotonic()
            p = lab.start('check', '-c', os.path.join(where, 'conf'), stdout=subprocess.PIPE)
            p.stdout.read()
            _, _, used = os.wait4(p.pid, 0)
            took.append({'s': time.monotonic() - began, 'kib': used.ru_maxrss})
        report.figure('%d recipients: loaded' % n, median(took, 's'), ('<=', seconds), form='%.2f', unit='s')
        if n > 200000:                                  # below, it is what the starting process had
            report.figure('%d recipients: memory' % n, median(took, 'kib') / 1024, ('<=', 1024), form='%.0f', unit='MiB')
    shutil.rmtree(where)


# ---- lanes ----

def lanes(lab, report):
    """100,000 lanes with a million deliveries (--quick: 10,000 with 100,000): memory, the first line of a listing, and how fast tickets are matched"""
    domains, each = (10000, 10) if lab.quick else (100000, 10)
    relay = Waypost(lab, free_port(), 'dns { server 127.0.0.1:%d }\nnetwork here 127.0.0.0/8 { relay_from blast.example }\nroute default { via mx }\n' % free_port())
    lab.blast(relay.port, mails=2000, size=1024)
    for _ in range(each):
        lab.blast(relay.port, mails=domains, per_session=1000, size=1024, to='user@d%d.lanes.example')
    n = domains * each
    report.figure('memory', relay.rss() / 1e6, ('<=', 300), form='%.0f', unit='MB')
    report.note('%d lanes' % relay.stats()['lanes_all'])

    began = time.monotonic()
    p = lab.start(*relay.ask('queue', 'list', '--json', '--limit', '100000000')[1:], stdout=subprocess.PIPE)
    p.stdout.readline()
    report.figure('first line of queue list', (time.monotonic() - began) * 1000, ('<=', 50), form='%.0f', unit='ms')
    p.kill()
    p.communicate()
    for key in 'domain=d77.lanes.example', 'sender=other.example', 'reason=nothing like it', 'lane=domain:d5.lanes.example', 'age=10d', 'recipient=user@d77.lanes.example':
        took = []
        for _ in range(3):
            began = time.monotonic()
            subprocess.run(relay.ask('queue', 'retry', '--match', key, '--dry-run'), stdout=lab.log, stderr=lab.log, check=False)
            took.append(time.monotonic() - began)
        report.figure('matched by %s' % key.split('=')[0], n / min(took), ('>=', 2e6), form='%.0f', unit='/s')
    relay.remove()


# ---- streams ----

def streams(lab, report):
    """urgent mail, a few a second, alone and beside ten times as much bulk as the next hop takes"""
    seconds = 4 if lab.quick else 10
    runs = {'alone': [], 'beside': []}
    for _ in range(lab.rounds):
        for name, all_ in runs.items():
            sink = Sink(lab, '--delay', 'dot:40ms')
            relay = Waypost(lab, sink.port, 'stream urgent { from urgent.example; weight 10 }\nstream bulk { from bulk.example; weight 1 }\n')
            flood = None
            if name == 'beside':                        # 16 connections of 40 ms each are 400 a second
                flood = lab.blast(relay.port, wait=False, time='%ds' % (seconds + 2), rate=4000, sessions=50, sender='news@bulk.example', size=2048)
                time.sleep(1)
            urgent = lab.blasted(lab.blast(relay.port, wait=False, time='%ds' % seconds, rate=50, sessions=4, per_session=1, sender='reset@urgent.example', size=2048))
            until('urgent mail is delivered', lambda: stream(relay, 'urgent')['deliver_us']['n'] >= urgent['messages'], 60, 0.1)
            t = stream(relay, 'urgent')['deliver_us']
            all_.append({'p50_us': t['p50'], 'p99_us': t['p99'], 'messages': urgent['messages'], 'waiting': stream(relay, 'bulk')['tickets']})
            report.note('%-7s %d urgent messages delivered after p50 %.1f ms, p99 %.1f ms; %d of bulk wait'
                        % (name, urgent['messages'], t['p50'] / 1000, t['p99'] / 1000, all_[-1]['waiting']))
            if flood:
                lab.blasted(flood)
            relay.remove()
            sink.end()
    report.figure('p99 of urgent mail, beside bulk / alone', ratio(median(runs['beside'], 'p99_us'), median(runs['alone'], 'p99_us')), ('<=', 3))


def stream(relay, name):
    return next(s for s in relay.stats()['streams'] if s['name'] == name)
