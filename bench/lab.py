"""What scenarios are made of: the servers and clients that they start, and what can be read off them.

Everything runs on loopback, below one directory, and is ended by its pid. Clients and sinks are processes of their own, so that
what they use is never counted as the relay's."""
import contextlib, json, os, re, resource, shutil, signal, socket, statistics, subprocess, sys, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TICK = os.sysconf('SC_CLK_TCK')
MIB = 1 << 20


class Failed(Exception):
    """A scenario cannot go on; the others can."""


def until(what, true, seconds=60, pause=0.02):
    """Wait for something to become true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = true()
        if value:
            return value
        time.sleep(pause)
    raise Failed('waited %d s for: %s' % (seconds, what))


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s:
        return s.getsockname()[1]


def free_ports(n):
    """The first of n ports in a row below those that the system gives to clients."""
    for first in range(12000, 32000 - n, n):
        with contextlib.ExitStack() as all_:
            try:
                for port in range(first, first + n):
                    all_.enter_context(socket.create_server(('127.0.0.1', port)))
                return first
            except OSError:
                pass
    raise Failed('no %d free ports in a row' % n)


def greets(port):
    try:
        with socket.create_connection(('127.0.0.1', port), 5) as s:
            if s.recv(4).startswith(b'220'):
                s.sendall(b'QUIT\r\n')
                s.recv(100)
                return True
    except OSError:
        pass
    return False


def descriptors(n):
    """Let this process and its children have n descriptors; how many they may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < n:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))
            return n
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(n, hard)), hard))
    return max(soft, min(n, hard))


def median(runs, key):
    return statistics.median(r[key] for r in runs)


def paired(runs, base, key):
    """The median of runs against those made right before them: a machine that grows slower meanwhile does not count."""
    return statistics.median(ratio(r[key], b[key]) for r, b in zip(runs, base))


def ratio(a, b):
    return a / b if b else float('nan')


# ---- processes, by /proc ----

def stat_of(pid):
    with open('/proc/%d/stat' % pid) as f:
        return f.read().rsplit(')', 1)[1].split()


def family(pid):
    """A process and all below it."""
    below = {}
    for p in filter(str.isdigit, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            below.setdefault(int(stat_of(int(p))[1]), []).append(int(p))
    todo, found = [pid], []
    while todo:
        found.append(todo.pop())
        todo += below.get(found[-1], [])
    return found


def rss_of(pids):
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, AttributeError):
            total += int(re.search(r'VmRSS:\s+(\d+)', open('/proc/%d/status' % pid).read()).group(1)) * 1024
    return total


class Cost:
    """What processes use from now on: CPU (that of children that have ended too), context switches, octets on the device."""

    def __init__(self, pids, directory):
        self.pids, self.dir = pids, directory
        self.start = self.read()

    def read(self):
        cpu = switches = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                cpu += sum(map(int, stat_of(pid)[11:15]))
                for task in os.listdir('/proc/%d/task' % pid):
                    text = open('/proc/%d/task/%s/status' % (pid, task)).read()
                    switches += sum(int(n) for n in re.findall(r'ctxt_switches:\s+(\d+)', text))
        return cpu, switches, self.device()

    def device(self):
        """(/proc/PID/io counts a whole large folio for each small write into it: this does not.)"""
        number = os.stat(self.dir).st_dev
        for line in open('/proc/diskstats'):
            field = line.split()
            if (int(field[0]), int(field[1])) == (os.major(number), os.minor(number)):
                return int(field[9]) * 512
        return 0

    def since(self):
        cpu, switches, written = (now - was for now, was in zip(self.read(), self.start))
        return {'cpu_us': cpu * 1e6 / TICK, 'switches': switches, 'written': written}


class Peak:
    """The most memory that something used while this ran; look() tells how much now."""

    def __init__(self, look):
        self.look, self.most, self.stop = look, look(), threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while not self.stop.wait(0.05):
            self.most = max(self.most, self.look())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


# ---- servers ----

class Sink:
    """waypost sink: a next hop."""

    def __init__(self, lab, *options, port=None, ports=1):
        self.port = port or (free_port() if ports == 1 else free_ports(ports))
        where = '127.0.0.1:%d' % self.port + ('-%d' % (self.port + ports - 1) if ports > 1 else '')
        self.p = lab.start('sink', '-l', where, '--json', '--unique', *options, stdout=subprocess.PIPE)
        self.lock = threading.Lock()
        until('the sink listens', lambda: self.listens())

    def listens(self):
        """Asked without talking to it: it may be told to let talkers wait."""
        with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', self.port), 5):
            return True

    def count(self):
        """Figures so far; the sink prints a line on SIGUSR1."""
        with self.lock:
            self.p.send_signal(signal.SIGUSR1)
            return json.loads(self.p.stdout.readline())

    def has(self, messages, seconds=120):
        """Wait for that many different ones; how many are missing after so long without any."""
        last, since = -1, time.monotonic()
        while time.monotonic() < since + seconds:
            got = self.count()['unique']
            if got >= messages:
                return 0
            if got != last:
                last, since = got, time.monotonic()
            time.sleep(0.005)
        return messages - last

    def end(self):
        self.p.terminate()
        out = self.p.stdout.read().decode().strip().splitlines()
        self.p.wait()
        return json.loads(out[-1]) if out else {}


class Waypost:
    """The relay on its defaults, logs on. `ways`: what goes where, {domain: port}."""
    name = 'waypost'

    def __init__(self, lab, ways, extra='', backend='', name='waypost'):
        self.lab, self.dir, self.port = lab, os.path.join(lab.dir, name), free_port()
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        if isinstance(ways, int):
            ways = {'example.com': ways}
        self.conf, self.control, self.log = (os.path.join(self.dir, f) for f in ('relay.conf', 'control.sock', 'relay.log'))
        with open(self.conf, 'w') as f:
            f.write('waypost 1\nhostname bench.example\npostmaster postmaster@%s\nlisten smtp 127.0.0.1:%d\nspool { dir spool }\n'
                    'control control.sock\nlog { file relay.log }\n%s' % (next(iter(ways)), self.port, extra))
            for i, (domain, port) in enumerate(ways.items()):
                f.write('backend b%d { server 127.0.0.1:%d; %s }\nrelay_domain %s { backend b%d; recipients any }\n'
                        % (i, port, backend, domain, i))
        self.start()
        with contextlib.suppress(Failed):   # segments made ahead, as in a relay that has run for a while
            until('segments', lambda: self.spool('ready') >= 5, 20, 0.1)

    def start(self):
        self.p = self.lab.start('serve', '-c', self.conf)
        until('the relay greets', lambda: greets(self.port), 30, 0.002)

    def pids(self):
        return family(self.p.pid)

    def worker(self):
        """The process that does the work: the parent only watches it."""
        return max(self.pids(), key=lambda pid: len(os.listdir('/proc/%d/task' % pid)))

    def ask(self, *words):
        return [self.lab.waypost, *words, '--socket', self.control]

    def stats(self):
        out = subprocess.run(self.ask('stats', '--json'), capture_output=True).stdout
        return json.loads(out) if out.strip() else {}

    def spool(self, key):
        return self.stats().get('spool', {}).get(key, 0)

    def counts(self):
        """Syncs, and posts between threads: those to workers are counted, those to the committer are at most one a commit."""
        s = self.stats()
        return {'syncs': s['spool']['syncs'], 'posts': sum(t['posts'] for t in s['threads']) + s['spool']['commits']}

    def rss(self):
        return rss_of(self.pids())

    def log_end(self):
        return os.path.getsize(self.log)

    def lines(self, event, behind):
        """The lines about this event behind that place of the log."""
        with open(self.log, 'rb') as f:
            f.seek(behind)
            for line in f:
                if event.encode() in line and line.endswith(b'\n'):
                    told = json.loads(line)
                    if told.get('event') == event:
                        yield told

    def logged(self, event, behind):
        return next(self.lines(event, behind), None)

    def end(self):
        self.p.terminate()
        self.p.wait(120)

    def kill(self):
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.p.wait()
        until('all of it has ended', lambda: not any(os.path.exists('/proc/%d' % pid) for pid in pids))     # and left its ports

    def remove(self):
        self.end()
        shutil.rmtree(self.dir, ignore_errors=True)


class Postfix:
    """Debian's Postfix, tuned as tests/peers/servers.py says."""
    name = 'postfix'

    def __init__(self, lab, port):
        sys.path.insert(0, os.path.join(ROOT, 'tests', 'peers'))
        import postfix_bench
        self.port = free_port()
        self.inner = postfix_bench.start(os.path.join(lab.dir, 'postfix'), self.port, port)

    def pids(self):
        return self.inner.pids()

    def counts(self):
        return {}

    def end(self):
        self.inner.stop()

    remove = end


# ---- the bench ----

class Lab:
    def __init__(self, directory, waypost, quick, postfix):
        self.dir, self.waypost, self.quick, self.postfix = directory, waypost, quick, postfix
        self.rounds = 1 if quick else 3
        os.makedirs(directory, exist_ok=True)
        self.log = open(os.path.join(directory, 'log'), 'w')
        self.running = []

    def start(self, *words, **more):
        more = {'stdout': self.log, 'stderr': self.log, 'stdin': subprocess.DEVNULL, **more}
        self.running.append(subprocess.Popen([self.waypost, *words], **more))
        return self.running[-1]

    def end_all(self):
        """What a scenario that failed has left running."""
        for p in self.running:
            if p.poll() is None:
                for pid in family(p.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                p.wait()
        self.running = []

    def disk_sync(self):
        """The disk's own sync: 4 KiB overwritten in a file written with zeros, 300 times; microseconds."""
        path = os.path.join(self.dir, 'sync-probe')
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.write(fd, bytes(4 << 20))
        os.fsync(fd)
        took = []
        for i in range(300):
            os.pwrite(fd, os.urandom(4096), i * 8192)
            began = time.perf_counter()
            os.fdatasync(fd)
            took.append((time.perf_counter() - began) * 1e6)
        os.close(fd)
        os.unlink(path)
        took.sort()
        return {'p50': took[150], 'p99': took[297]}

    def blast(self, port, *options, wait=True, polite=False, **sizes):
        """waypost blast with options and sizes such as mails=1000; its figures, or with wait=False the process, for blasted(). `polite` leaves the
        processors to the others when there is not enough for all."""
        words = ['--%s=%s' % ('from' if name == 'sender' else name.replace('_', '-'), value) for name, value in sizes.items()]
        p = self.start('blast', '127.0.0.1:%d' % port, '--json', *words, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       preexec_fn=(lambda: os.nice(15)) if polite else None)
        return self.blasted(p) if wait else p

    def blasted(self, p):
        out, said = p.communicate()
        if not out.strip():
            raise Failed('blast: ' + said.decode())
        return json.loads(out)

    def flow(self, make, sessions, mails, per_session, size, servers=1):
        """Through a relay into a sink, which is as many servers on ports in a row: from the first connection until the sink has them all."""
        sink = Sink(self, ports=servers)
        relay = make(self, sink.port)
        warm = max(mails // 2, 200)                     # connections, caches, processes, segments are there, as in a relay that has run for a while
        self.blast(relay.port, sessions=sessions, mails=warm, per_session=per_session, size=size)
        sink.has(warm)
        os.sync()                                       # what others have left to write is not to be counted
        cost, before = Cost(relay.pids, self.dir), relay.counts()
        start = time.monotonic()
        sent = self.blast(relay.port, sessions=sessions, mails=mails, per_session=per_session, size=size)
        lost = sink.has(warm + sent['messages'])
        took = time.monotonic() - start
        used, after = cost.since(), relay.counts()
        relay.remove()
        return {'rate': mails / took, 'cpu_us': used['cpu_us'] / mails, 'switches': used['switches'] / mails,
                'written_ratio': used['written'] / (mails * size), 'p50_us': sent['latency_us']['p50'], 'p99_us': sent['latency_us']['p99'],
                'refused': sent['failed'], 'lost': lost, 'doubled': sink.end().get('duplicates', 0),
                **{key: (after[key] - before[key]) / mails for key in after}}

    def direct(self, sessions, mails, per_session, size):
        sink = Sink(self)
        start = time.monotonic()
        self.blast(sink.port, sessions=sessions, mails=mails, per_session=per_session, size=size)
        took = time.monotonic() - start
        sink.end()
        return {'rate': mails / took}

    def syscalls(self, make, mails, size):
        """System calls a message: by perf, or else by strace, under which everything is slow. (None, why) when neither can."""
        sink = Sink(self)
        relay = make(self, sink.port)
        self.blast(relay.port, mails=200, size=size)
        sink.has(200)
        file, pids = os.path.join(self.dir, 'syscalls'), [str(p) for p in relay.pids()]
        perf = ['perf', 'stat', '-x', ',', '-o', file, '-e', 'raw_syscalls:sys_enter', '-p', ','.join(pids)]
        strace = ['strace', '-f', '-c', '-o', file] + [w for p in pids for w in ('-p', p)]
        try:
            for tool in perf, strace:
                with contextlib.suppress(OSError):
                    n = self.calls_counted(tool, file, relay, sink, mails, size)
                    if n:
                        return n / mails, tool[0]
            return None, 'neither perf nor strace may count here'
        finally:
            relay.remove()
            sink.end()

    def calls_counted(self, tool, file, relay, sink, mails, size):
        open(file, 'w').close()
        p = subprocess.Popen(tool, stdout=self.log, stderr=self.log)
        try:
            time.sleep(1)                               # it has to attach first, and does not say when it has
            if p.poll() is not None:
                return 0
            had = sink.count()['unique']
            sent = self.blast(relay.port, mails=mails, size=size)
            sink.has(had + sent['messages'])
        finally:
            if p.poll() is None:
                p.send_signal(signal.SIGINT)
            p.wait(60)
        text = open(file).read()
        by_perf = re.search(r'^(\d+),', text, re.M)
        if by_perf:
            return int(by_perf.group(1))
        lines = [line.split() for line in text.splitlines()]
        return sum(int(f[3]) for f in lines if len(f) >= 5 and f[3].isdigit() and f[-1] != 'total')


# ---- figures ----

class Report:
    """Prints figures against what is asked of them, and keeps them."""
    KEYS = [('rate', '%.0f msg/s'), ('cpu_us', '%.1f us cpu'), ('switches', '%.2f switches'), ('syncs', '%.3f syncs'), ('posts', '%.2f posts'),
            ('written_ratio', '%.2f x written'), ('p50_us', 'p50 %.0f us'), ('p99_us', 'p99 %.0f us'), ('refused', '%d refused'),
            ('lost', '%d lost'), ('doubled', '%d doubled')]
    HOLDS = {'>=': lambda a, b: a >= b, '<=': lambda a, b: a <= b, '<': lambda a, b: a < b, '=': lambda a, b: a == b}

    def __init__(self):
        self.scenarios = {}

    def begin(self, name, title):
        self.now = self.scenarios[name] = {'title': title, 'figures': [], 'data': {}}
        print('%s: %s' % (name, title), flush=True)

    def figure(self, what, value, asked=None, aim=None, form='%.2f', unit=''):
        """asked: ('<=', 1.1); without, the figure is told and nothing is asked."""
        met = None if asked is None else bool(self.HOLDS[asked[0]](value, asked[1]))
        self.now['figures'].append({'what': what, 'value': value, 'unit': unit, 'asked': asked, 'aim': aim, 'met': met})
        told = ''
        if asked:
            told = '  asked %s %s%s  %s' % (asked[0], '%g' % asked[1], ', aim %g' % aim if aim is not None else '', 'yes' if met else 'NO')
        print(('  %-46s ' + form + ' %s%s') % (what, value, unit, told), flush=True)

    def row(self, who, run):
        self.now['data'].setdefault(who, []).append(run)
        print('    %-16s %s' % (who, '  '.join(form % run[k] for k, form in self.KEYS if k in run)), flush=True)

    def keep(self, **data):
        self.now['data'].update(data)

    def note(self, text):
        self.now.setdefault('notes', []).append(text)
        print('    ' + text, flush=True)

    def safe(self, runs):
        """Nothing lost or doubled, in any run."""
        self.figure('lost', sum(r['lost'] for r in runs), ('=', 0), form='%d')
        self.figure('doubled', sum(r['doubled'] for r in runs), ('=', 0), form='%d')

    def missed(self):
        return [(name, f) for name, s in self.scenarios.items() for f in s['figures'] if f['met'] is False]
